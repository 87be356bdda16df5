//! Limits, counted anew: what was allowed in each window, by an own count of an own calendar.
//!
//! Subjects come in kinds, by their names. Of the strict kinds this knows everything, and holds every decision against it,
//! allowed or denied; to the wild ones anything may happen, and only what always holds is asked.

use super::calendar::{DAY, day, months_later};
use crate::catalogs::free_credits;
use crate::coverage::{Coverage, Hit};
use crate::node::Checked;
use quota_core::command::Address;
use quota_core::event::Reason;
use quota_core::judge::Question;
use quota_core::row::Row;
use quota_core::time::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Days that a one-time purchase of Resume Builder lives.
const ONE_TIME: i64 = 21 * DAY;

#[derive(Default)]
pub struct Limits {
    applyx: BTreeMap<String, Applyx>,
    chat: BTreeMap<String, Chat>,
    builder: BTreeMap<String, Builder>,
}

impl Limits {
    pub fn recorded(&mut self, row: &Row, coverage: &mut Coverage) {
        let subject = row.subject.to_string();
        match &*row.event_type {
            "subscription.expired" => coverage.hit(Hit::Expired),
            "session.superseded" => coverage.hit(Hit::SessionSuperseded),
            _ => {}
        }
        if subject.starts_with("wild") {
            return;
        }
        let data: Value = serde_json::from_slice(&row.payload).expect("a payload is JSON");
        match &*row.product {
            "applyx" => self
                .applyx
                .entry(subject)
                .or_default()
                .recorded(row, &data, coverage),
            "candidate-chat" => self.chat.entry(subject).or_default().recorded(row, &data),
            _ => self
                .builder
                .entry(subject)
                .or_default()
                .recorded(row, &data),
        }
    }

    /// Holds a check against what was counted; false where nothing is known of its subject or its feature.
    pub fn judges(&mut self, address: &Address, question: &Question, checked: &Checked) -> bool {
        let subject = address.subject.to_string();
        if subject.starts_with("wild") {
            return false;
        }
        match &*address.product {
            "applyx" => self
                .applyx
                .entry(subject)
                .or_default()
                .judges(question, checked),
            "candidate-chat" => self.chat.entry(subject).or_default().judges(checked),
            _ => self
                .builder
                .entry(subject)
                .or_default()
                .judges(question, checked),
        }
    }
}

fn text<'a>(data: &'a Value, name: &str) -> &'a str {
    data[name].as_str().unwrap_or_default()
}

fn instant(data: &Value, name: &str) -> Timestamp {
    Timestamp::parse(text(data, name)).expect("an instant")
}

/// One window of one counter: the grant (0 is the free plan), how often free usage began anew, the feature, the window.
type Counter = (usize, usize, String, i64);

/// A subject of ApplyX that is free, or buys `basic`.
#[derive(Default)]
struct Applyx {
    /// Each grant's periods, without a gap.
    grants: Vec<Vec<(Timestamp, Timestamp)>>,
    payments: BTreeSet<String>,
    used: BTreeMap<Counter, i64>,
    holds: BTreeMap<String, (Counter, i64, Timestamp)>,
    days: BTreeSet<i64>,
    periods: BTreeSet<i64>,
}

impl Applyx {
    fn recorded(&mut self, row: &Row, data: &Value, coverage: &mut Coverage) {
        let (at, version) = (row.recorded_at, row.catalog_version);
        let amount = data["amount"].as_i64().unwrap_or(1);
        match &*row.event_type {
            "subscription.purchased" => self.bought(text(data, "payment_id"), at, coverage),
            "usage.recorded" if data.get("hold").is_some() => {
                let (counter, amount, until) = self
                    .holds
                    .remove(text(data, "hold"))
                    .expect("an open hold is confirmed");
                assert!(at < until, "a hold confirmed after its end: {row:?}");
                *self.used.entry(counter).or_default() += amount;
            }
            "usage.recorded" | "usage.held" => {
                let feature = text(data, "feature");
                let Some((counter, limit, plan)) = self.counter(feature, at, version, coverage)
                else {
                    return;
                };
                let (used, held) = (self.used_in(&counter), self.held_in(&counter, at));
                if let Some(outcome) = data.get("outcome") {
                    assert!(
                        used + held + amount <= limit,
                        "over the limit of {limit}: {used} + {held} + {amount} at {row:?}"
                    );
                    assert_eq!(text(outcome, "plan"), plan, "{row:?}");
                    if used + held + amount == limit {
                        coverage.hit(Hit::AtLimit);
                    }
                    let holds = &*row.event_type == "usage.held";
                    let told = outcome["used"].as_i64();
                    assert_eq!(
                        told,
                        Some(if holds { used } else { used + amount }),
                        "{row:?}"
                    );
                    self.note(&counter, feature, coverage);
                } else if used + amount > limit {
                    coverage.hit(Hit::OverLimit);
                }
                if &*row.event_type == "usage.held" {
                    let until = instant(data, "expires_at");
                    self.holds
                        .insert(text(data, "hold").to_owned(), (counter, amount, until));
                } else {
                    *self.used.entry(counter).or_default() += amount;
                }
            }
            "usage.released" => {
                self.holds.remove(text(data, "hold"));
            }
            "usage.denied" => {
                let outcome = &data["outcome"];
                assert_eq!(text(outcome, "reason"), "limit_reached", "{row:?}");
                let counter = self.counter(text(data, "feature"), at, version, coverage);
                let (counter, limit, plan) = counter.expect("a limited feature");
                let (used, held) = (self.used_in(&counter), self.held_in(&counter, at));
                assert!(
                    used + held + amount > limit,
                    "denied, with room: {used} + {held} + {amount} of {limit} at {row:?}"
                );
                assert_eq!(outcome["used"].as_i64(), Some(used), "{row:?}");
                assert_eq!(text(outcome, "plan"), plan, "{row:?}");
            }
            _ => {}
        }
    }

    fn bought(&mut self, payment: &str, at: Timestamp, coverage: &mut Coverage) {
        if !self.payments.insert(payment.to_owned()) {
            return coverage.hit(Hit::SamePayment);
        }
        match self.live(at) {
            Some(grant) => {
                coverage.hit(Hit::Renewed);
                let periods = &mut self.grants[grant];
                let (anchor, end) = (periods[0].0, periods[periods.len() - 1].1);
                let next = months_later(anchor, periods.len() as i64 + 1);
                periods.push((end, next));
            }
            None => self.grants.push(vec![(at, months_later(at, 1))]),
        }
    }

    /// The grant that lives, or is in its grace.
    fn live(&self, at: Timestamp) -> Option<usize> {
        let newest = self.grants.len().checked_sub(1)?;
        (at < over(&self.grants[newest])).then_some(newest)
    }

    /// The counter that a use counts in, its limit and its plan; none where there is no limit.
    fn counter(
        &self,
        feature: &str,
        at: Timestamp,
        version: u32,
        coverage: &mut Coverage,
    ) -> Option<(Counter, i64, &'static str)> {
        let daily = feature == "resume_customizations";
        if let Some(grant) = self.live(at) {
            let periods = &self.grants[grant];
            let period = periods.iter().rfind(|(start, _)| *start <= at)?;
            if at >= period.1 {
                coverage.hit(Hit::InGrace);
            }
            let (limit, window) = match feature {
                "resume_customizations" => (20, day(at)),
                "interviews" => (3, period.0.micros()),
                "resume_edits" | "resume_analyses" => (10, period.0.micros()),
                _ => return None,
            };
            return Some(((grant + 1, 0, feature.to_owned(), window), limit, "basic"));
        }
        if !self.grants.is_empty() {
            coverage.hit(Hit::AfterEnd);
        }
        let limit = match feature {
            "resume_customizations" => free_credits(version),
            "interviews" | "resume_edits" | "resume_analyses" => 1,
            _ => return None,
        };
        let window = if daily { day(at) } else { 0 };
        Some((
            (0, self.grants.len(), feature.to_owned(), window),
            limit,
            "free",
        ))
    }

    fn judges(&self, question: &Question, checked: &Checked) -> bool {
        let (at, version) = (checked.now, checked.catalog_version);
        let feature = &question.feature;
        let counter = self.counter(feature, at, version, &mut Coverage::default());
        let Some((counter, limit, plan)) = counter else {
            return false;
        };
        let (used, held) = (self.used_in(&counter), self.held_in(&counter, at));
        let outcome = &checked.outcome;
        assert_eq!(
            (
                outcome.used,
                outcome.held,
                outcome.limit,
                outcome.plan.as_deref()
            ),
            (used, held, Some(limit), Some(plan)),
            "a check of {feature} at {at}: {outcome:?} of {:?}",
            checked.state.subject
        );
        let room = used + held + question.amount <= limit;
        assert_eq!(
            outcome.reason.allows(),
            room,
            "a check at {at}: {outcome:?}"
        );
        true
    }

    fn used_in(&self, counter: &Counter) -> i64 {
        self.used.get(counter).copied().unwrap_or(0)
    }

    fn held_in(&self, counter: &Counter, at: Timestamp) -> i64 {
        let open = self
            .holds
            .values()
            .filter(|(of, _, until)| of == counter && *until > at);
        open.map(|(_, amount, _)| amount).sum()
    }

    fn note(&mut self, counter: &Counter, feature: &str, coverage: &mut Coverage) {
        if feature == "resume_customizations" {
            if self.days.insert(counter.3) && self.days.len() > 1 {
                coverage.hit(Hit::NewDay);
            }
        } else if counter.0 > 0 && self.periods.insert(counter.3) && self.periods.len() > 1 {
            coverage.hit(Hit::NewPeriod);
        }
    }
}

/// When a grant is over: a day after its last period.
fn over(periods: &[(Timestamp, Timestamp)]) -> Timestamp {
    periods[periods.len() - 1].1.plus(DAY)
}

/// A subject of Candidate Chat that is free for ever.
#[derive(Default)]
struct Chat {
    completed: BTreeSet<String>,
    active: BTreeMap<String, String>,
}

impl Chat {
    fn judges(&self, checked: &Checked) -> bool {
        let (outcome, free) = (&checked.outcome, self.completed.is_empty());
        assert_eq!(outcome.reason.allows(), free, "a check: {outcome:?}");
        true
    }

    fn recorded(&mut self, row: &Row, data: &Value) {
        let kind = text(data, "session_type").to_owned();
        match &*row.event_type {
            "session.created" => {
                let room = kind != "resume_creation" || self.completed.is_empty();
                assert!(room, "a session beyond the free one: {row:?}");
                let before = self.active.insert(kind, text(data, "session").to_owned());
                assert_eq!(before, None, "two active sessions of a type: {row:?}");
            }
            "session.superseded" => assert!(self.active.remove(&kind).is_some(), "{row:?}"),
            "session.completed" => {
                self.active.remove(&kind);
                if text(data, "source") == "aivi_bot" {
                    self.completed.insert(text(data, "resource").to_owned());
                }
            }
            "resource.completed" if text(data, "source") == "aivi_bot" => {
                self.completed.insert(text(data, "resource").to_owned());
            }
            "usage.denied" => assert!(
                !self.completed.is_empty(),
                "refused with nothing completed: {row:?}"
            ),
            _ => {}
        }
    }
}

/// A subject of Resume Builder that buys one-time purchases, and nothing else.
#[derive(Default)]
struct Builder {
    payments: BTreeMap<String, Timestamp>,
    made: i64,
    generated: i64,
}

impl Builder {
    fn judges(&self, question: &Question, checked: &Checked) -> bool {
        let (outcome, at) = (&checked.outcome, checked.now);
        if outcome.reason != Reason::WithinLimit {
            return false;
        }
        let payments = self.payments.len() as i64;
        match &*question.feature {
            "resumes" => assert!(self.made <= payments, "a check: {outcome:?}"),
            "ai_generations" => {
                let more = self.generated + question.amount;
                assert!(more <= 30 * payments, "a check: {outcome:?}");
                assert!(
                    self.lives(at),
                    "a check at {at}, after the purchase's end: {outcome:?}"
                );
            }
            _ => return false,
        }
        true
    }

    /// Whether a purchase lives.
    fn lives(&self, at: Timestamp) -> bool {
        let lives = |bought: &Timestamp| *bought <= at && at < bought.plus(ONE_TIME);
        self.payments.values().any(lives)
    }

    fn recorded(&mut self, row: &Row, data: &Value) {
        let at = row.recorded_at;
        let payments = self.payments.len() as i64;
        match (&*row.event_type, text(data, "feature")) {
            ("subscription.purchased", _) => {
                self.payments
                    .entry(text(data, "payment_id").to_owned())
                    .or_insert(at);
            }
            ("resource.created", "resumes") if data.get("outcome").is_some() => {
                self.made += 1;
                assert!(
                    self.made <= 1 + payments,
                    "more resumes than slots: {row:?}"
                );
            }
            ("usage.recorded", "ai_generations") if data.get("outcome").is_some() => {
                self.generated += data["amount"].as_i64().unwrap_or(1);
                assert!(
                    self.generated <= 30 * payments,
                    "more generations than were bought: {row:?}"
                );
                assert!(self.lives(at), "used after the purchase's end: {row:?}");
            }
            _ => {}
        }
    }
}
