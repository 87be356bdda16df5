//! What came of a step, in the words that a scenario expects it in.

use super::play::{Fault, Stage};
use crate::command::{Answer, Decision, Refusal, SessionAnswer};
use crate::entitlements::entitlements;
use crate::event::Event;
use crate::render;
use crate::row::Row;
use crate::time::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

impl Stage {
    pub(super) fn entitlements(&self, at: Timestamp) -> Value {
        let version = self.desk.catalog_version();
        let address = self.desk.address();
        let Some(catalog) = self.desk.catalog(version) else {
            return Value::Null;
        };
        let body = entitlements(
            self.desk.state(),
            catalog,
            version,
            &address.product,
            &address.subject,
            at,
        );
        // Resources and grants are named by their ids, so that a scenario can speak of one.
        let mut body = body;
        for list in ["grants", "resources"] {
            if let Some(Value::Array(items)) = body.get(list) {
                let by_id = items
                    .iter()
                    .filter_map(|item| Some((item.get("id")?.as_str()?.to_owned(), item.clone())));
                let by_id: Map<String, Value> = by_id.collect();
                body.insert(list.into(), Value::Object(by_id));
            }
        }
        Value::Object(body)
    }

    pub(super) fn came(&self, answer: Answer, at: Timestamp) -> Result<Map<String, Value>, Fault> {
        Ok(match answer {
            Answer::Recorded { duplicate, .. } => named([("duplicate", json!(duplicate))]),
            Answer::Decided(decision) => self.decided(&decision, at)?,
            Answer::Hold { status, .. } => named([("hold", json!(status.word()))]),
            Answer::Session(answer) => self.session(&answer, at)?,
            Answer::Swept { recorded } => named([("swept", json!(recorded))]),
            Answer::Refused(refusal) => refused(&refusal),
        })
    }

    fn session(&self, answer: &SessionAnswer, at: Timestamp) -> Result<Map<String, Value>, Fault> {
        if let Some(denied) = &answer.denied {
            return self.decided(denied, at);
        }
        let session = serde_json::to_value(&answer.session).map_err(|error| error.to_string())?;
        Ok(named([("session", session)]))
    }

    pub(super) fn decided(
        &self,
        decision: &Decision,
        at: Timestamp,
    ) -> Result<Map<String, Value>, Fault> {
        let evidence: Vec<String> = decision
            .outcome
            .evidence
            .iter()
            .map(|offset| self.event_at(*offset))
            .collect();
        let mut came = render::decision(decision, &evidence, at, 0);
        came.insert("upgrade".into(), json!(decision.outcome.offers));
        came.insert("replayed".into(), json!(decision.replayed));
        let name = self
            .holds
            .iter()
            .find(|(_, id)| Some(*id) == decision.hold.as_ref());
        if let Some((name, _)) = name {
            came.insert("hold".into(), json!(name));
        }
        Ok(came)
    }

    /// The id of the event at an offset of the subject's partition.
    fn event_at(&self, offset: i64) -> String {
        let row = self.desk.rows().iter().find(|row| row.offset == offset);
        row.map_or_else(
            || format!("nothing at offset {offset}"),
            |row| row.id.to_string(),
        )
    }
}

pub(super) fn refused(refusal: &Refusal) -> Map<String, Value> {
    named([
        ("refused", json!(refusal.code)),
        ("status", json!(refusal.status)),
        ("field", json!(refusal.field)),
        ("message", json!(refusal.message)),
    ])
}

/// An event as a scenario speaks of it.
pub(super) fn recorded(row: &Arc<Row>) -> Result<Value, Fault> {
    let event = Event::decode(&row.event_type, row.type_version, &row.payload)
        .map_err(|error| error.to_string())?;
    let data: Value = serde_json::from_slice(&event.encode()).map_err(|error| error.to_string())?;
    Ok(json!({
        "type": &*row.event_type,
        "id": &*row.id,
        "source": &*row.source,
        "occurred_at": row.occurred_at,
        "recorded_at": row.recorded_at,
        "catalog_version": row.catalog_version,
        "data": data,
    }))
}

pub(super) fn named<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
