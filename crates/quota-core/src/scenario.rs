//! Scenarios: a product's rules as stories that a product manager can read, and that a machine plays.
//!
//! A scenario is a TOML file of steps. Each happens `at` a time; it may publish facts (`given`), ask for something
//! (`when`), and says what must come of it (`then`):
//!
//! ```toml
//! title = "A one-time purchase pays for one resume"
//!
//! [[step]]
//! at = "2026-11-01T10:00:00+05:30"
//! given = { type = "subscription.purchased", data = { plan = "one_time", payment_id = "pay_1" } }
//!
//! [[step]]
//! at = "2026-11-01T10:05:00+05:30"
//! when = { consume = "resumes", resource = "r1" }
//! then = { allowed = true, plan = "one_time", used = 1, limit = 1 }
//! ```
//!
//! **`given`** is one fact or a list: `type` and `data` as services publish them, through the same door. `time` is when
//! it happened (default: `at`, which is when it is told). `id` and `source` have defaults, and so have a purchase's
//! `amount` and `currency`: its plan's price.
//!
//! **`when`** is one of `consume`, `check`, `confirm`, `release`, `adjust`, `open_session`, `complete_session`, `sweep`
//! and `entitlements`. `named` gives a hold or session a name for later steps; `times` asks so often, and the last answer
//! counts.
//!
//! **`then`** names members of the answer, those that matter: of a decision as the API tells it, but `upgrade` lists plan
//! ids; `denial.body` is JSON text, compared letter by letter but for white space; `refused` is the code of an error,
//! `duplicate` is of a fact, `session`, `hold` and `swept` of their commands. `recorded` lists the events that the step
//! added to the ledger, by type or with some of their members. `entitlements` holds at the end of the step. `"none"`
//! stands for null; times may be written in any zone.
//!
//! `[catalog]` throws switches for the whole scenario, a step's `publish` from there on: both change those members alone.

mod came;
mod compare;
mod play;

use crate::catalog::Fault;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;
use thiserror::Error;
use toml::Spanned;

/// A scenario, as its author writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    title: String,
    #[serde(default = "someone")]
    subject: String,
    catalog: Option<toml::Table>,
    #[serde(default)]
    step: Vec<Spanned<Step>>,
}

fn someone() -> String {
    "u1".to_owned()
}

/// One step of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: String,
    /// For the reader.
    note: Option<String>,
    publish: Option<toml::Table>,
    given: Option<Given>,
    when: Option<When>,
    then: Option<Map<String, Value>>,
}

/// Facts that services publish.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Given {
    One(Published),
    Several(Vec<Published>),
}

impl Given {
    fn facts(&self) -> &[Published] {
        match self {
            Self::One(fact) => std::slice::from_ref(fact),
            Self::Several(facts) => facts,
        }
    }
}

/// A fact that a service publishes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    r#type: String,
    #[serde(default)]
    data: Map<String, Value>,
    time: Option<String>,
    id: Option<String>,
    source: Option<String>,
}

/// What is asked for: one of the first nine, and what goes with it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    consume: Option<String>,
    check: Option<String>,
    confirm: Option<String>,
    release: Option<String>,
    adjust: Option<String>,
    open_session: Option<String>,
    complete_session: Option<String>,
    sweep: bool,
    entitlements: bool,
    amount: Option<i64>,
    resource: Option<String>,
    key: Option<String>,
    hold_seconds: Option<i64>,
    force_new: bool,
    named: Option<String>,
    reason: Option<String>,
    actor: Option<String>,
    times: Option<usize>,
}

/// The scenario cannot be played at all.
#[derive(Debug, Error)]
pub enum Unplayable {
    /// The catalog is not valid, maybe only with the scenario's switches.
    #[error("the catalog is not valid: {}", list(.0))]
    Catalog(Vec<Fault>),
    /// The scenario is no TOML, or not of this form.
    #[error("{0}")]
    Form(String),
    /// A step cannot be carried out as it stands.
    #[error("{place}: {fault}")]
    Step {
        /// Which.
        place: Place,
        /// What is wrong with it.
        fault: String,
    },
}

fn list(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
    faults.join("; ")
}

/// A step of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1.
    pub step: usize,
    /// Its line in the file, from 1.
    pub line: usize,
    /// Its time and note, as written.
    pub words: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} (line {}, {})", self.step, self.line, self.words)
    }
}

/// An expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub place: Place,
    /// The member of the answer.
    pub member: String,
    /// What the scenario says.
    pub expected: String,
    /// What came.
    pub came: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            member,
            expected,
            came,
        } = self;
        write!(f, "{place}: {member}: expected {expected}, came {came}")
    }
}

/// What came of playing a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The scenario's title.
    pub title: String,
    /// How many steps were played.
    pub steps: usize,
    /// How many expectations there were.
    pub expectations: usize,
    /// Those that were not met.
    pub failures: Vec<Failure>,
}

/// Plays a scenario under a catalog.
///
/// # Errors
/// Where it cannot be played: a catalog or scenario that is not valid. A failed expectation is in the report instead.
pub fn run(catalog: &str, scenario: &str) -> Result<Report, Unplayable> {
    let scenario_read: Scenario =
        toml::from_str(scenario).map_err(|error| Unplayable::Form(error.to_string()))?;
    play::play(catalog, scenario, &scenario_read)
}
