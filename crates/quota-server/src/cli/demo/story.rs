//! The day as data: scenes of steps, each with what must come of it.

use anyhow::Context as _;
use quota_core::time::{SECOND, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A day.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// What happens, in this order.
    #[serde(rename = "scene")]
    pub scenes: Vec<Scene>,
    /// What it must come to.
    pub totals: Totals,
}

/// Some steps that belong together.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// For people.
    pub title: String,
    /// Whose users these are.
    pub product: String,
    /// What happens, in this order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// Something that somebody does, and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// For people.
    pub say: String,
    /// What is done.
    #[serde(rename = "do")]
    pub deed: Deed,
    /// Members that the answer must have.
    pub then: Map<String, Value>,
}

/// What can be done.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// An event over HTTP.
    Tell(Fact),
    /// Messages to the product's inbox topic; the last must be good.
    Inbox(Vec<Message>),
    /// A consume, or a hold.
    Consume(Use),
    /// Consumes at the same time.
    Race(Vec<Use>),
    /// A hold is confirmed.
    Confirm(Held),
    /// A hold is released.
    Release(Held),
    /// A question.
    Check(Use),
    /// All that a subject may do.
    Entitlements(Whose),
}

/// A subject.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Its name.
    pub subject: String,
}

/// A hold, by the name that its consume gave it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Whose.
    pub subject: String,
    /// The name.
    pub hold: String,
}

/// A use that is asked for, or asked about.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// Whose.
    pub subject: String,
    /// Of what.
    pub feature: String,
    /// On what.
    pub resource: Option<String>,
    /// The caller's id.
    pub id: Option<String>,
    /// For how long it is held, instead of used.
    pub hold_seconds: Option<i64>,
    /// What the story calls that hold.
    pub named: Option<String>,
}

/// An event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Whose.
    pub subject: String,
    /// The bare type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: String,
    /// How long before the day's beginning it happened; where it is left out, the ledger says when.
    pub ago: Option<String>,
    /// What happened.
    #[serde(default)]
    pub data: Map<String, Value>,
}

/// A message to an inbox.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// Any text.
    Raw {
        /// The text.
        raw: String,
    },
    /// An event.
    Fact(Fact),
}

/// What the day must come to.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Requests and messages.
    pub came_in: u64,
    /// Events in the ledger.
    pub recorded: u64,
    /// Wishes that were refused.
    pub refused: u64,
    /// What came once more and changed nothing.
    pub deduplicated: u64,
    /// Messages that were put aside.
    pub dead_letters: u64,
    /// Subjects that have events.
    pub subjects: u64,
    /// Events in the ledger, by type.
    pub ledger: BTreeMap<String, u64>,
}

impl Day {
    /// The day that comes with the program.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn shipped() -> anyhow::Result<Self> {
        toml::from_str(include_str!("day.toml")).context("the day of the demo")
    }
}

impl Fact {
    /// The event as it is sent, on a day that began at `dawn`.
    ///
    /// # Errors
    /// `ago` is no time.
    pub fn to_event(&self, dawn: Timestamp) -> anyhow::Result<Value> {
        let mut event = json!({
            "specversion": "1.0",
            "type": format!("quota.{}.v1", self.kind),
            "source": "/demo",
            "id": self.id,
            "subject": self.subject,
            "data": self.data,
        });
        if let (Some(ago), Some(members)) = (&self.ago, event.as_object_mut()) {
            let ago = micros(ago).with_context(|| format!("{ago:?} is no time"))?;
            members.insert("time".into(), dawn.plus(-ago).to_string().into());
        }
        Ok(event)
    }
}

/// Reads `21 days 23 hours`.
fn micros(text: &str) -> Option<i64> {
    let mut words = text.split_whitespace();
    let mut sum = 0;
    while let Some(number) = words.next() {
        let unit = match words.next()?.trim_end_matches('s') {
            "day" => 24 * 60 * 60 * SECOND,
            "hour" => 60 * 60 * SECOND,
            "minute" => 60 * SECOND,
            _ => return None,
        };
        sum += number.parse::<i64>().ok()? * unit;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(micros("2 days"), Some(2 * 86_400 * SECOND));
        assert_eq!(micros("1 day 2 hours"), Some(26 * 3_600 * SECOND));
        assert_eq!(micros("30 minutes"), Some(1_800 * SECOND));
        assert_eq!(micros("30"), None);
        assert_eq!(micros("3 moons"), None);
    }

    #[test]
    fn the_day_is_whole() {
        let day = Day::shipped().unwrap();
        assert!(day.scenes.iter().all(|scene| !scene.steps.is_empty()));
        let sum: u64 = day.totals.ledger.values().sum();
        assert_eq!(sum, day.totals.recorded);
    }
}
