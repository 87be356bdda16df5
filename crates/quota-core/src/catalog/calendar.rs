//! Days, months and years in a time zone. The zone data is compiled in, and part of the fold version.

use crate::time::Timestamp;
use chrono::{
    DateTime, Datelike as _, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime,
    TimeZone as _, Utc,
};
use chrono_tz::Tz;

/// A stretch of time [start, end).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first instant in it.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

/// The instant that a wall clock in the zone shows; of two, the earlier; in a gap, the first one after it.
fn instant(zone: Tz, wall: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.with_timezone(&Utc),
        MappedLocalTime::None => {
            // Clocks went forward over this wall time: what an hour (or the gap) later shows is after the gap.
            let later = (1..=24).map(|hours| wall + chrono::TimeDelta::minutes(15 * hours));
            let mut after = later.filter_map(|wall| zone.from_local_datetime(&wall).earliest());
            after
                .next()
                .map_or_else(|| wall.and_utc(), |at| at.with_timezone(&Utc))
        }
    }
}

fn midnight(zone: Tz, date: NaiveDate) -> Timestamp {
    instant(zone, date.and_time(chrono::NaiveTime::MIN)).into()
}

fn local_date(zone: Tz, at: Timestamp) -> NaiveDate {
    at.to_utc().with_timezone(&zone).date_naive()
}

/// The calendar day that holds an instant.
pub fn day(zone: Tz, at: Timestamp) -> Span {
    let date = local_date(zone, at);
    let next = date.checked_add_days(Days::new(1)).unwrap_or(date);
    Span {
        start: midnight(zone, date),
        end: midnight(zone, next),
    }
}

/// The calendar month that holds an instant.
pub fn month(zone: Tz, at: Timestamp) -> Span {
    let date = local_date(zone, at);
    let first = date.with_day(1).unwrap_or(date);
    let next = first.checked_add_months(Months::new(1)).unwrap_or(first);
    Span {
        start: midnight(zone, first),
        end: midnight(zone, next),
    }
}

/// The same wall clock `months` later, the day clamped to the month's length.
pub fn add_months(zone: Tz, anchor: Timestamp, months: u32) -> Timestamp {
    let local = anchor.to_utc().with_timezone(&zone).naive_local();
    match local.checked_add_months(Months::new(months)) {
        Some(wall) => instant(zone, wall).into(),
        None => Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::{America::Sao_Paulo, Asia::Kolkata, Europe::Berlin};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn months_are_counted_from_the_anchor_and_do_not_drift() {
        let anchor = at("2026-01-31T10:00:00+05:30");
        assert_eq!(
            add_months(Kolkata, anchor, 1),
            at("2026-02-28T10:00:00+05:30")
        );
        assert_eq!(
            add_months(Kolkata, anchor, 2),
            at("2026-03-31T10:00:00+05:30")
        );
        assert_eq!(
            add_months(Kolkata, anchor, 12),
            at("2027-01-31T10:00:00+05:30")
        );
        // 29 February of a leap year, a year on.
        assert_eq!(
            add_months(Kolkata, at("2028-02-29T23:30:00+05:30"), 12),
            at("2029-02-28T23:30:00+05:30")
        );
    }

    #[test]
    fn a_day_ends_at_the_zones_midnight() {
        let span = day(Kolkata, at("2026-11-20T20:00:00Z"));
        assert_eq!(
            (span.start, span.end),
            (at("2026-11-20T18:30:00Z"), at("2026-11-21T18:30:00Z"))
        );
        // The day that loses an hour has 23.
        let span = day(Berlin, at("2026-03-29T12:00:00Z"));
        assert_eq!(
            span.end.micros() - span.start.micros(),
            23 * 3600 * crate::time::SECOND
        );
        // Midnight itself did not exist in São Paulo on 4 November 2018.
        assert_eq!(
            day(Sao_Paulo, at("2018-11-04T12:00:00Z")).start,
            at("2018-11-04T03:00:00Z")
        );
    }

    #[test]
    fn a_month_ends_at_the_first() {
        let span = month(Kolkata, at("2026-01-31T18:29:59Z"));
        assert_eq!(
            (span.start, span.end),
            (at("2025-12-31T18:30:00Z"), at("2026-01-31T18:30:00Z"))
        );
        assert_eq!(
            month(Kolkata, at("2026-01-31T18:30:00Z")).start,
            at("2026-01-31T18:30:00Z")
        );
    }
}
