//! No story passes a limit; and a small oracle, written from the products' description alone, foretells every decision.

use crate::actor::Actor;
use crate::acts::{Act, Later, asking, dealing, stories_of};
use crate::properties::config;
use chrono::{DateTime, FixedOffset, Months};
use proptest::prelude::*;
use proptest::sample::select;
use quota_core::command::{Answer, Wish};
use quota_core::event::Event;
use quota_core::time::{DAY, SECOND, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// What a plan allows of a feature; none where it sets no limit.
fn limit(plan: &str, feature: &str) -> Option<i64> {
    Some(match (plan, feature) {
        ("free", "resume_edits" | "resume_analyses" | "interviews") => 1,
        ("free", "resume_customizations") => 3,
        ("basic", "resume_edits" | "resume_analyses") => 10,
        ("basic", "interviews") => 3,
        ("pro", "interviews") => 10,
        ("basic" | "pro" | "pro_plus", "resume_customizations") => 20,
        ("free", "resumes" | "resume_downloads") | ("one_time", "resumes") => 1,
        ("one_time" | "unlock", "ai_generations") => 30,
        ("one_time" | "unlock", "resume_downloads") => 10,
        _ => return None,
    })
}

/// Every counter of a stored subject row: its plan, feature, units used and extra units.
fn counters(subject: &Value) -> Vec<(String, String, i64, i64)> {
    let mut found = Vec::new();
    let mut add = |plan: &str, counters: &Value| {
        for (feature, windows) in counters.as_object().into_iter().flatten() {
            for window in windows.as_array().unwrap() {
                let number = |name: &str| window[name].as_i64().unwrap_or(0);
                found.push((
                    plan.to_owned(),
                    feature.clone(),
                    number("used"),
                    number("extra"),
                ));
            }
        }
    };
    add("free", &subject["free"]);
    for grant in subject["grants"].as_array().into_iter().flatten() {
        add(grant["plan"].as_str().unwrap(), &grant["counters"]);
    }
    found
}

fn india(at: Timestamp) -> DateTime<FixedOffset> {
    at.to_utc()
        .with_timezone(&FixedOffset::east_opt(19_800).unwrap())
}

/// The start of the day in India that holds an instant, and that of its month.
fn day(at: Timestamp) -> i64 {
    let shift = 19_800 * SECOND;
    (at.micros() + shift).div_euclid(DAY) * DAY - shift
}

/// A grant, as the oracle knows it.
#[derive(Debug, Default)]
struct Paid {
    plan: &'static str,
    start: i64,
    months: u32,
    ends: Vec<i64>,
    stopped: Option<i64>,
    at_once: bool,
}

impl Paid {
    fn end_of_month(&self, months: u32) -> i64 {
        let start = india(Timestamp::from_micros(self.start));
        let end = start.checked_add_months(Months::new(months)).unwrap();
        end.timestamp_micros()
    }

    fn until(&self) -> i64 {
        self.stopped.unwrap_or(self.ends[self.ends.len() - 1] + DAY)
    }

    fn lives(&self, at: i64) -> bool {
        self.start <= at && at < self.until()
    }

    /// The start of the period that holds an instant; in grace the last one's.
    fn period(&self, at: i64) -> i64 {
        let mut periods =
            std::iter::once(self.start).chain(self.ends[..self.ends.len() - 1].iter().copied());
        periods.rfind(|start| *start <= at).unwrap()
    }

    fn rank(&self) -> usize {
        ["basic", "pro", "pro_plus"]
            .iter()
            .position(|plan| *plan == self.plan)
            .unwrap()
    }
}

/// A counter's window: whose it is (0 is the free plan), of which feature, from when.
type Window = (usize, String, i64);

/// A few lines that know applyx's rules.
#[derive(Debug, Default)]
struct Oracle {
    grants: Vec<Paid>,
    payments: Vec<u8>,
    used: BTreeMap<Window, i64>,
    extra: BTreeMap<Window, i64>,
    holds: BTreeMap<String, (Window, i64, i64)>,
}

impl Oracle {
    fn holder(&self, at: i64) -> Option<usize> {
        let living = (0..self.grants.len()).filter(|index| self.grants[*index].lives(at));
        living.max_by_key(|index| self.grants[*index].rank())
    }

    fn pays(&mut self, plan: &'static str, payment: u8, at: i64) {
        if self.payments.contains(&payment) {
            return;
        }
        self.payments.push(payment);
        let live = self
            .grants
            .iter_mut()
            .rev()
            .find(|grant| grant.plan == plan && grant.lives(at));
        if let Some(grant) = live {
            grant.months += 1;
            grant.ends.push(grant.end_of_month(grant.months));
            grant.stopped = None;
            return;
        }
        let mut grant = Paid {
            plan,
            start: at,
            months: 1,
            ..Paid::default()
        };
        grant.ends.push(grant.end_of_month(1));
        self.grants.push(grant);
    }

    fn cancels(&mut self, at_end: bool, at: i64) {
        if let Some(grant) = self.grants.iter_mut().rev().find(|grant| grant.lives(at)) {
            grant.at_once = !at_end;
            grant.stopped = Some(if at_end {
                grant.ends[grant.ends.len() - 1]
            } else {
                at
            });
        }
    }

    /// When free usage last began anew: at a natural end that left no paid plan.
    fn anew(&self, at: i64) -> i64 {
        let natural = self
            .grants
            .iter()
            .filter(|grant| !grant.at_once && grant.until() <= at);
        let ends = natural
            .map(Paid::until)
            .filter(|end| !self.grants.iter().any(|grant| grant.lives(*end)));
        ends.max().unwrap_or(0)
    }

    fn window(&self, feature: &str, at: i64) -> (Window, &'static str, Option<i64>) {
        let daily = feature == "resume_customizations";
        let today = day(Timestamp::from_micros(at));
        match self.holder(at) {
            Some(index) => {
                let start = if daily {
                    today
                } else {
                    self.grants[index].period(at)
                };
                let plan = self.grants[index].plan;
                (
                    (index + 1, feature.to_owned(), start),
                    plan,
                    limit(plan, feature),
                )
            }
            None => {
                let start = self.anew(at).max(if daily { today } else { 0 });
                let units = limit("free", feature).filter(|_| feature != "resume_downloads");
                ((0, feature.to_owned(), start), "free", units)
            }
        }
    }

    fn held(&self, window: &Window, at: i64) -> i64 {
        let open = self
            .holds
            .values()
            .filter(|(of, _, until)| of == window && at < *until);
        open.map(|(_, amount, _)| amount).sum()
    }
}

/// Everything that can be done at applyx and is foretold here.
fn applyx() -> impl Strategy<Value = Act> {
    let pay = (1_usize..4, any::<bool>(), 0_u8..30).prop_map(|(plan, renewal, payment)| Act::Pay {
        plan: [0, 0, 2, 3][plan],
        renewal,
        payment,
        subscription: None,
        resource: 0,
        starts: None,
        ends: None,
        back: 0,
    });
    let cancel = any::<bool>().prop_map(|at_end| Act::Cancel {
        payment: None,
        subscription: None,
        at_end,
        back: 0,
    });
    let adjust = (select(vec![0_usize, 1, 2, 4]), 1_i64..4)
        .prop_map(|(feature, amount)| Act::Adjust { feature, amount });
    prop_oneof![24 => asking(), 4 => pay, 2 => cancel, 1 => adjust]
}

/// Plays a story, foretelling each decision.
fn foretell(story: &[Later]) -> Result<(), TestCaseError> {
    let mut actor = Actor::new(1);
    let mut oracle = Oracle::default();
    for later in story {
        let Some((wish, answer)) = actor.act(later) else {
            continue;
        };
        let at = actor.now.micros();
        match (&later.1, &answer, &wish) {
            (Act::Pay { plan, payment, .. }, ..) => {
                oracle.pays(["basic", "free", "pro", "pro_plus"][*plan], *payment, at);
            }
            (Act::Cancel { at_end, .. }, ..) => oracle.cancels(*at_end, at),
            (Act::Adjust { amount, .. }, _, Wish::Adjust(adjust)) => {
                let (window, ..) = oracle.window(&adjust.feature, at);
                *oracle.extra.entry(window).or_default() += amount;
            }
            (_, Answer::Decided(decision), Wish::Consume(consume)) if !decision.replayed => {
                let (window, plan, limit) = oracle.window(&consume.feature, at);
                let limit =
                    limit.map(|limit| limit + oracle.extra.get(&window).copied().unwrap_or(0));
                let used = oracle.used.get(&window).copied().unwrap_or(0);
                let held = oracle.held(&window, at);
                let allowed = limit.is_none_or(|limit| used + held + consume.amount <= limit);
                let outcome = &decision.outcome;
                prop_assert_eq!(
                    outcome.reason.allows(),
                    allowed,
                    "{:?} at {}: {:?}",
                    consume,
                    actor.now,
                    oracle
                );
                prop_assert_eq!(outcome.plan.as_deref(), Some(plan));
                prop_assert_eq!(outcome.limit, limit);
                if consume.feature == "resume_downloads" {
                    continue;
                }
                let (more_used, more_held) = match (allowed, consume.hold_seconds) {
                    (false, _) => (0, 0),
                    (true, None) => (consume.amount, 0),
                    (true, Some(_)) => (0, consume.amount),
                };
                prop_assert_eq!(
                    (outcome.used, outcome.held),
                    (used + more_used, held + more_held)
                );
                *oracle.used.entry(window.clone()).or_default() += more_used;
                if let (Some(hold), Some(seconds)) = (&decision.hold, consume.hold_seconds) {
                    oracle.holds.insert(
                        hold.clone(),
                        (window, consume.amount, at + seconds * SECOND),
                    );
                }
            }
            (_, Answer::Hold { hold, status, .. }, _) => {
                let open = oracle
                    .holds
                    .remove(hold)
                    .filter(|(_, _, until)| at < *until);
                if let (Some((window, amount, _)), "confirmed") = (open, status.word()) {
                    *oracle.used.entry(window).or_default() += amount;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(25))]

    /// Whatever is asked, held, bought, cancelled and deleted: no counter passes its limit and the extra units given.
    /// Seen to fail with open holds left out of the room that is left, and with `pick` taking a full counter.
    #[test]
    fn no_counter_passes_its_limit(story in stories_of(prop_oneof![3 => asking(), 2 => dealing()]), product in 0_usize..3) {
        let mut actor = Actor::new(product);
        for later in &story {
            actor.act(later);
            let subject: Value = serde_json::from_slice(&actor.desk.state().subject_bytes()).unwrap();
            for (plan, feature, used, extra) in counters(&subject) {
                if let Some(limit) = limit(&plan, &feature) {
                    prop_assert!(used <= limit + extra, "{} of {}: {} of {} and {}", feature, plan, used, limit, extra);
                }
            }
        }
    }

    /// What a purchase paid for is counted from the ledger's own rows: at most one resume for each purchase, one on free,
    /// and for each resume no more work than its purchase sells. Seen to fail with a slot's use not charged.
    #[test]
    fn a_purchase_sells_one_resume_and_its_units(story in stories_of(bought_and_asked())) {
        let mut actor = Actor::new(2);
        for later in &story {
            actor.act(later);
        }
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        let mut work: BTreeMap<(String, String), i64> = BTreeMap::new();
        let mut bought = 0;
        for row in actor.desk.rows() {
            match Event::decode(&row.event_type, row.type_version, &row.payload).unwrap() {
                Event::SubscriptionPurchased(_) => bought += 1,
                Event::ResourceCreated(data) => {
                    let plan = data.outcome.and_then(|outcome| outcome.plan);
                    made.entry(data.resource).or_insert(plan.unwrap_or_default());
                }
                Event::UsageRecorded(data) => {
                    *work.entry((data.resource.unwrap_or_default(), data.feature)).or_default() += data.amount;
                }
                _ => {}
            }
        }
        let free = made.values().filter(|plan| *plan == "free").count();
        let paid = made.values().filter(|plan| *plan == "one_time").count();
        prop_assert!(free <= 1, "{made:?}");
        prop_assert!(paid <= bought, "{made:?}, {bought} bought");
        for ((resource, feature), amount) in work {
            let plan = made.get(&resource).map_or("", String::as_str);
            if let (Some(limit), "one_time") = (limit(plan, &feature), plan) {
                prop_assert!(amount <= limit, "{amount} {feature} on {resource}");
            }
        }
    }

    /// The oracle and the core decide the same, unit by unit. Seen to fail with two days of grace, with a renewal's new
    /// period sharing the old one's counter, with free usage starting anew after an end at once, and with days of UTC.
    #[test]
    fn the_oracle_foretells_every_decision(story in stories_of(applyx())) {
        foretell(&story)?;
    }
}

fn bought_and_asked() -> impl Strategy<Value = Act> {
    let pay = (0_u8..40).prop_map(|payment| Act::Pay {
        plan: 1,
        renewal: false,
        payment,
        subscription: None,
        resource: 0,
        starts: None,
        ends: None,
        back: 0,
    });
    let consume = (0_usize..5, select(vec![1_i64, 1, 1, 4, 9]), 0_u8..5).prop_map(
        |(feature, amount, resource)| Act::Consume {
            feature,
            amount: if feature == 4 { 1 } else { amount },
            resource: Some(resource),
            key: None,
            hold: None,
        },
    );
    prop_oneof![1 => pay, 6 => consume]
}
