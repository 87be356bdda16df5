//! What the rows of one subject must say, by a model of a few dozen lines that knows the harness's one plan and nothing
//! else: it is not the program's fold, and shares no line with it.

use crate::ledger::Row;
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// The catalog of the harness.
pub const CATALOG: &str = r#"
product = "chaos"
time_zone = "Asia/Kolkata"
[features.one]
message = "No more of one"
[features.three]
message = "No more of three"
[features.ten]
message = "No more of ten"
[features.daily]
message = "No more for today"
[features.open]
message = "Never said"
[plans.free]
rank = 0
price = 0
currency = "INR"
[plans.free.limits]
one = { limit = 1 }
three = { limit = 3 }
ten = { limit = 10 }
daily = { limit = 5, window = "day" }
open = { unlimited = true }
"#;

/// The features of that catalog.
pub const FEATURES: [&str; 5] = ["one", "three", "ten", "daily", "open"];

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// India's clocks are this far ahead of UTC, all year round.
const INDIA: i64 = 19_800 * SECOND;
/// Pieces of evidence that a refusal names, at most.
const EVIDENCE: usize = 10;

/// The limit of a feature.
fn limit(feature: &str) -> Option<i64> {
    match feature {
        "one" => Some(1),
        "three" => Some(3),
        "ten" => Some(10),
        "daily" => Some(5),
        _ => None,
    }
}

/// The window that holds an instant: a day by India's clocks, or the one that never ends.
fn window(feature: &str, at: i64) -> i64 {
    if feature == "daily" {
        (at + INDIA).div_euclid(DAY)
    } else {
        0
    }
}

struct Hold {
    feature: String,
    amount: i64,
    held_at: i64,
    ends_at: i64,
}

/// What is known of a subject after some of its rows.
#[derive(Default)]
pub struct Subject {
    pub seq: i64,
    pub offset: Option<i64>,
    used: HashMap<(String, i64), i64>,
    /// Where each counter's units were used, oldest first.
    places: HashMap<(String, i64), Vec<i64>>,
    holds: BTreeMap<String, Hold>,
}

fn number(data: &Value, name: &str) -> Option<i64> {
    data.get(name).and_then(Value::as_i64)
}

fn text<'v>(data: &'v Value, name: &str) -> Option<&'v str> {
    data.get(name).and_then(Value::as_str)
}

impl Subject {
    /// Units of a feature that are used and held at an instant.
    pub fn counted(&self, feature: &str, at: i64) -> (i64, i64) {
        let window_now = window(feature, at);
        let used = self.used.get(&(feature.to_owned(), window_now));
        let counts = |hold: &&Hold| {
            hold.feature == feature
                && hold.ends_at > at
                && window(feature, hold.held_at) == window_now
        };
        let held = self.holds.values().filter(counts).map(|hold| hold.amount);
        (used.copied().unwrap_or(0), held.sum())
    }

    /// Whether so many units more are allowed at an instant.
    pub fn allows(&self, feature: &str, amount: i64, at: i64) -> bool {
        let (used, held) = self.counted(feature, at);
        limit(feature).is_none_or(|limit| used + held + amount <= limit)
    }

    /// Takes in the subject's next row; an error says what in it cannot be.
    pub fn take(&mut self, row: &Row) -> anyhow::Result<()> {
        let data = row.data()?;
        match row.kind.as_str() {
            "usage.recorded" => self.recorded(row, &data)?,
            "usage.held" => self.held(row, &data)?,
            "usage.released" => {
                let hold = text(&data, "hold").context("a release of nothing")?;
                let hold = self.holds.remove(hold).context("released, and not open")?;
                ensure!(hold.ends_at > row.recorded_at, "released after its time");
            }
            "usage.denied" => self.denied(row, &data)?,
            other => bail!("nobody asked for a {other}"),
        }
        Ok(())
    }

    fn recorded(&mut self, row: &Row, data: &Value) -> anyhow::Result<()> {
        let feature = text(data, "feature").context("no feature")?;
        let amount = number(data, "amount").unwrap_or(1);
        let mut at = row.occurred_at;
        if let Some(id) = text(data, "hold") {
            let hold = self.holds.remove(id).context("confirmed, and not open")?;
            ensure!(hold.ends_at > row.recorded_at, "confirmed after its time");
            ensure!(
                (hold.feature.as_str(), hold.amount) == (feature, amount),
                "confirmed as something else"
            );
            at = hold.held_at;
        } else if row.source == "quota:consume" {
            self.allowed(row, data, feature, amount, (amount, 0))?;
        }
        let counter = (feature.to_owned(), window(feature, at));
        *self.used.entry(counter.clone()).or_default() += amount;
        self.places.entry(counter).or_default().push(row.offset);
        Ok(())
    }

    fn held(&mut self, row: &Row, data: &Value) -> anyhow::Result<()> {
        let feature = text(data, "feature").context("no feature")?;
        let amount = number(data, "amount").context("no amount")?;
        let seconds = number(data, "hold_seconds").context("no time")?;
        let id = text(data, "hold").context("no hold")?;
        self.allowed(row, data, feature, amount, (0, amount))?;
        let hold = Hold {
            feature: feature.to_owned(),
            amount,
            held_at: row.occurred_at,
            ends_at: row.recorded_at + seconds * SECOND,
        };
        ensure!(
            self.holds.insert(id.to_owned(), hold).is_none(),
            "one hold, twice"
        );
        Ok(())
    }

    /// What was allowed had room, and its outcome says what the counters came to with it.
    fn allowed(
        &self,
        row: &Row,
        data: &Value,
        feature: &str,
        amount: i64,
        (more_used, more_held): (i64, i64),
    ) -> anyhow::Result<()> {
        let (used, held) = self.counted(feature, row.recorded_at);
        ensure!(
            self.allows(feature, amount, row.recorded_at),
            "{amount} of {feature} allowed beyond the limit: {used} used, {held} held"
        );
        let reason = if limit(feature).is_some() {
            "within_limit"
        } else {
            "unlimited"
        };
        told(data, feature, reason, (used + more_used, held + more_held))
    }

    fn denied(&self, row: &Row, data: &Value) -> anyhow::Result<()> {
        let feature = text(data, "feature").context("no feature")?;
        let amount = number(data, "amount").context("no amount")?;
        let counted = self.counted(feature, row.recorded_at);
        ensure!(
            !self.allows(feature, amount, row.recorded_at),
            "{amount} of {feature} denied with room for it: {counted:?}"
        );
        told(data, feature, "limit_reached", counted)?;
        let counter = (feature.to_owned(), window(feature, row.recorded_at));
        let places = self.places.get(&counter).map_or(&[][..], Vec::as_slice);
        let newest: Vec<Value> = places
            .iter()
            .rev()
            .take(EVIDENCE)
            .map(|at| (*at).into())
            .collect();
        let evidence = data.pointer("/outcome/evidence").and_then(Value::as_array);
        let evidence = evidence.map_or(&[][..], Vec::as_slice);
        ensure!(
            evidence == newest,
            "denied by the evidence of {evidence:?}, and it was {newest:?}"
        );
        Ok(())
    }
}

/// The row's frozen outcome is this.
fn told(data: &Value, feature: &str, reason: &str, (used, held): (i64, i64)) -> anyhow::Result<()> {
    let outcome = data.get("outcome").context("no outcome")?;
    let found = (
        text(outcome, "reason"),
        number(outcome, "used"),
        number(outcome, "held").unwrap_or(0),
        number(outcome, "limit"),
    );
    let expected = (Some(reason), Some(used), held, limit(feature));
    ensure!(
        found == expected,
        "its outcome says {found:?}, and it was {expected:?}"
    );
    Ok(())
}
