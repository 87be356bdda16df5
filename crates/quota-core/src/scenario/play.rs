//! Playing: each step's facts and wishes are carried out at a desk, and its expectations compared.

use super::came;
use super::compare::{self, Mismatch};
use super::{Failure, Place, Published, Report, Scenario, Step, Unplayable, When};
use crate::catalog::Catalog;
use crate::command::{Adjust, Answer, Consume, Wish};
use crate::desk::Desk;
use crate::door;
use crate::judge::Question;
use crate::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use toml::Spanned;

/// What a step cannot be carried out for.
pub(super) type Fault = String;

/// Plays a scenario that was read from `text`.
pub(super) fn play(catalog: &str, text: &str, scenario: &Scenario) -> Result<Report, Unplayable> {
    let mut report = Report {
        title: scenario.title.clone(),
        steps: 0,
        expectations: 0,
        failures: Vec::new(),
    };
    let catalog = match &scenario.catalog {
        Some(switches) => switched(catalog, switches).map_err(Unplayable::Form)?,
        None => catalog.to_owned(),
    };
    let mut stage: Option<Stage> = None;
    for (index, step) in scenario.step.iter().enumerate() {
        let place = place(text, index, step);
        let at_step = |fault| Unplayable::Step {
            place: place.clone(),
            fault,
        };
        let step = step.as_ref();
        let at = instant(&step.at).map_err(at_step)?;
        let stage = match &mut stage {
            Some(stage) => stage,
            none => none.insert(Stage {
                desk: Desk::new(
                    Catalog::parse(&catalog).map_err(Unplayable::Catalog)?,
                    &scenario.subject,
                    at,
                ),
                holds: BTreeMap::new(),
                step: 0,
            }),
        };
        stage.step = index + 1;
        let came = stage.step(step, at).map_err(at_step)?;
        let mut mismatches: Vec<Mismatch> = Vec::new();
        let expected = step.then.clone().unwrap_or_default();
        report.expectations += compare::members(&expected, &came, "", &mut mismatches);
        report.steps += 1;
        let failures = mismatches.into_iter().map(|mismatch| Failure {
            place: place.clone(),
            member: mismatch.member,
            expected: mismatch.expected,
            came: mismatch.came,
        });
        report.failures.extend(failures);
    }
    Ok(report)
}

fn place(text: &str, index: usize, step: &Spanned<Step>) -> Place {
    let before = text.get(..step.span().start).unwrap_or_default();
    let Step { at, note, .. } = step.as_ref();
    let words = match note {
        Some(note) => format!("{at}: {note}"),
        None => at.clone(),
    };
    Place {
        step: index + 1,
        line: before.matches('\n').count() + 1,
        words,
    }
}

fn instant(text: &str) -> Result<Timestamp, Fault> {
    Timestamp::parse(text)
        .ok_or_else(|| format!("{text:?} is no time, such as 2026-11-20T12:00:00+05:30"))
}

/// A catalog with some members set anew.
fn switched(catalog: &str, switches: &toml::Table) -> Result<String, Fault> {
    let mut table: toml::Table =
        toml::from_str(catalog).map_err(|error| format!("the catalog: {error}"))?;
    merge(&mut table, switches);
    toml::to_string(&table).map_err(|error| format!("the catalog with its switches: {error}"))
}

fn merge(table: &mut toml::Table, switches: &toml::Table) {
    for (name, value) in switches {
        match (table.get_mut(name), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(switches)) => {
                merge(inner, switches);
            }
            _ => {
                table.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A desk, and what the steps so far have named.
pub(super) struct Stage {
    pub(super) desk: Desk,
    pub(super) holds: BTreeMap<String, String>,
    step: usize,
}

impl Stage {
    /// Carries a step out; tells what came of it.
    fn step(&mut self, step: &Step, at: Timestamp) -> Result<Map<String, Value>, Fault> {
        let before = self.desk.rows().len();
        if self
            .desk
            .rows()
            .last()
            .is_some_and(|row| at < row.recorded_at)
        {
            return Err("steps must go forward in time".to_owned());
        }
        if let Some(switches) = &step.publish {
            let current = self.desk.catalog(self.desk.catalog_version());
            let current = current
                .map(|catalog| catalog.text().to_owned())
                .unwrap_or_default();
            let text = switched(&current, switches)?;
            let catalog = Catalog::parse(&text).map_err(|faults| super::list(&faults))?;
            self.desk.publish(catalog, at);
        }
        let mut came = Map::new();
        let facts = step.given.as_ref().map(super::Given::facts).unwrap_or(&[]);
        let expects_refusal = step
            .then
            .as_ref()
            .is_some_and(|then| then.contains_key("refused"));
        for (index, fact) in facts.iter().enumerate() {
            came = self.given(fact, index, at)?;
            if came.contains_key("refused") && !(expects_refusal && step.when.is_none()) {
                return Err(format!(
                    "the fact {:?} was refused: {}",
                    fact.r#type,
                    Value::Object(came)
                ));
            }
        }
        if let Some(when) = &step.when {
            came = self.when(when, at)?;
        }
        let rows = self.desk.rows().get(before..).unwrap_or_default();
        let recorded: Result<Vec<Value>, Fault> = rows
            .iter()
            .filter(|row| !row.subject.is_empty())
            .map(came::recorded)
            .collect();
        came.insert("recorded".into(), Value::Array(recorded?));
        came.insert("entitlements".into(), self.entitlements(at));
        Ok(came)
    }

    /// Publishes a fact through the door.
    fn given(
        &mut self,
        fact: &Published,
        index: usize,
        at: Timestamp,
    ) -> Result<Map<String, Value>, Fault> {
        let mut data = fact.data.clone();
        let Some(catalog) = self.desk.catalog(self.desk.catalog_version()).cloned() else {
            return Err("no catalog".to_owned());
        };
        if matches!(
            fact.r#type.as_str(),
            "subscription.purchased" | "subscription.renewed"
        ) {
            fill_price(&catalog, &mut data);
        }
        let default_id = format!("given-{}-{}", self.step, index + 1);
        let mut event = json!({
            "specversion": "1.0",
            "type": format!("quota.{}.v1", fact.r#type),
            "source": fact.source.as_deref().unwrap_or("/scenario"),
            "id": fact.id.as_deref().unwrap_or(&default_id),
            "subject": self.desk.address().subject,
            "data": data,
        });
        if let (Some(time), Some(event)) = (&fact.time, event.as_object_mut()) {
            event.insert("time".into(), json!(time));
        }
        let admitted = door::parse_structured(event.to_string().as_bytes())
            .and_then(|envelope| door::admit(&envelope, catalog.product(), &catalog, at));
        let answer = match admitted {
            Ok((_, fact)) => self.desk.submit(Wish::Record(fact), at),
            Err(rejection) => {
                let refused = [
                    ("refused", json!(rejection.code)),
                    ("field", json!(rejection.field)),
                    ("message", json!(rejection.message)),
                ];
                return Ok(came::named(refused));
            }
        };
        self.came(answer, at)
    }

    fn when(&mut self, when: &When, at: Timestamp) -> Result<Map<String, Value>, Fault> {
        when.one_verb()?;
        let times = when.times.unwrap_or(1);
        let mut came = Map::new();
        for time in 1..=times {
            let nth = if times > 1 {
                format!("-{time}")
            } else {
                String::new()
            };
            let question = |feature: &String| Question {
                feature: feature.clone(),
                amount: when.amount.unwrap_or(1),
                resource: when.resource.clone(),
            };
            if let Some(feature) = &when.check {
                came = match self.desk.check(&question(feature), at) {
                    Ok(decision) => self.decided(&decision, at)?,
                    Err(refusal) => came::refused(&refusal),
                };
            } else if let Some(wish) = self.wish(when, &nth) {
                let answer = self.desk.submit(wish, at);
                if let (Some(name), Answer::Decided(decision)) = (&when.named, &answer)
                    && let Some(hold) = &decision.hold
                {
                    self.holds.insert(name.clone(), hold.clone());
                }
                came = self.came(answer, at)?;
            }
        }
        Ok(came)
    }

    fn wish(&self, when: &When, nth: &str) -> Option<Wish> {
        let fresh_id = format!("step-{}{nth}", self.step);
        let key = when.key.as_ref().map(|key| format!("{key}{nth}"));
        let hold = |name: &String| self.holds.get(name).unwrap_or(name).clone();
        if let Some(feature) = &when.consume {
            return Some(Wish::Consume(Consume {
                feature: feature.clone(),
                amount: when.amount.unwrap_or(1),
                resource: when.resource.clone(),
                hold_seconds: when.hold_seconds,
                key,
                fresh_id,
            }));
        }
        if let Some(name) = &when.confirm {
            return Some(Wish::Confirm { hold: hold(name) });
        }
        if let Some(name) = &when.release {
            return Some(Wish::Release { hold: hold(name) });
        }
        if let Some(feature) = &when.adjust {
            return Some(Wish::Adjust(Adjust {
                feature: feature.clone(),
                amount: when.amount.unwrap_or(1),
                reason: when.reason.clone().unwrap_or_else(|| "goodwill".to_owned()),
                actor: when.actor.clone().unwrap_or_else(|| "support".to_owned()),
                id: key.unwrap_or(fresh_id),
            }));
        }
        if let Some(session_type) = &when.open_session {
            return Some(Wish::OpenSession {
                session_type: session_type.clone(),
                force_new: when.force_new,
                fresh_id: when.named.clone().unwrap_or(fresh_id),
            });
        }
        if let Some(session) = &when.complete_session {
            return Some(Wish::CompleteSession {
                session: session.clone(),
                resource: when.resource.clone().unwrap_or_default(),
            });
        }
        when.sweep.then_some(Wish::Sweep)
    }
}

impl When {
    fn one_verb(&self) -> Result<(), Fault> {
        let verbs = [
            self.consume.is_some(),
            self.check.is_some(),
            self.confirm.is_some(),
            self.release.is_some(),
            self.adjust.is_some(),
            self.open_session.is_some(),
            self.complete_session.is_some(),
            self.sweep,
            self.entitlements,
        ];
        match verbs.iter().filter(|verb| **verb).count() {
            1 => Ok(()),
            _ => Err("`when` needs exactly one of consume, check, confirm, release, adjust, open_session, complete_session, sweep, entitlements".to_owned()),
        }
    }
}

fn fill_price(catalog: &Catalog, data: &mut Map<String, Value>) {
    let plan = data
        .get("plan")
        .and_then(Value::as_str)
        .and_then(|plan| catalog.plan(plan));
    let (price, currency) = plan.map_or((None, None), |plan| (plan.price, plan.currency.clone()));
    data.entry("amount")
        .or_insert_with(|| json!(price.unwrap_or(0)));
    data.entry("currency")
        .or_insert_with(|| json!(currency.unwrap_or_else(|| "INR".to_owned())));
}
