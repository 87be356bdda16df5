//! The calendar of India, by arithmetic of its own: one offset, no summer time.

use quota_core::time::Timestamp;

pub const DAY: i64 = 86_400_000_000;
const OFFSET: i64 = 19_800_000_000;

/// The number of the local day that an instant falls on.
pub fn day(at: Timestamp) -> i64 {
    (at.micros() + OFFSET).div_euclid(DAY)
}

/// An instant some months later: the same local time, the day no later than the month has days.
pub fn months_later(at: Timestamp, months: i64) -> Timestamp {
    let local = at.micros() + OFFSET;
    let (year, month, date) = civil(local.div_euclid(DAY));
    let number = year * 12 + month - 1 + months;
    let (year, month) = (number.div_euclid(12), number.rem_euclid(12) + 1);
    let date = date.min(days_in(year, month));
    Timestamp::from_micros(days_of(year, month, date) * DAY + local.rem_euclid(DAY) - OFFSET)
}

fn days_in(year: i64, month: i64) -> i64 {
    let next = if month == 12 {
        days_of(year + 1, 1, 1)
    } else {
        days_of(year, month + 1, 1)
    };
    next - days_of(year, month, 1)
}

/// Days since 1970-01-01.
fn days_of(year: i64, month: i64, date: i64) -> i64 {
    let leap = |year: i64| i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
    let before =
        |year: i64| (year - 1) * 365 + (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: i64 = lengths.iter().take(month as usize - 1).sum();
    before(year) - before(1970) + months + date - 1
}

/// Year, month and date of a day.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days / 366;
    while days_of(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_of(year, month + 1, 1) <= days {
        month += 1;
    }
    (year, month, days - days_of(year, month, 1) + 1)
}

#[test]
fn months_are_those_of_the_calendar() {
    let at = |text: &str| Timestamp::parse(text).unwrap();
    let start = at("2027-01-31T10:00:00+05:30");
    assert_eq!(months_later(start, 1), at("2027-02-28T10:00:00+05:30"));
    assert_eq!(months_later(start, 2), at("2027-03-31T10:00:00+05:30"));
    assert_eq!(months_later(start, 13), at("2028-02-29T10:00:00+05:30"));
    assert_eq!(
        months_later(at("2026-12-15T20:00:00Z"), 1),
        at("2027-01-15T20:00:00Z")
    );
}
