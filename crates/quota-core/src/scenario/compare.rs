//! What a scenario expects, against what came.

use crate::time::Timestamp;
use serde_json::{Map, Value};

/// An expectation that was not met: the member, what was expected, and what came.
pub(super) struct Mismatch {
    pub member: String,
    pub expected: String,
    pub came: String,
}

/// Compares the members that are expected, and no others; tells how many were compared.
pub(super) fn members(
    expected: &Map<String, Value>,
    came: &Map<String, Value>,
    path: &str,
    mismatches: &mut Vec<Mismatch>,
) -> usize {
    let mut compared = 0;
    for (name, expected) in expected {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        match came.get(name) {
            Some(came) => compared += value(expected, came, &path, mismatches),
            None => {
                compared += 1;
                let there: Vec<&str> = came.keys().map(String::as_str).collect();
                mismatches.push(Mismatch {
                    member: path,
                    expected: expected.to_string(),
                    came: format!("no such member; there are {}", there.join(", ")),
                });
            }
        }
    }
    compared
}

fn value(expected: &Value, came: &Value, path: &str, mismatches: &mut Vec<Mismatch>) -> usize {
    match (expected, came) {
        (Value::Object(expected), Value::Object(came)) => {
            return members(expected, came, path, mismatches);
        }
        (Value::Array(wanted), Value::Array(there)) if wanted.len() == there.len() => {
            let pairs = wanted.iter().zip(there).enumerate();
            return pairs
                .map(|(index, (wanted, there))| {
                    value(wanted, there, &format!("{path}[{index}]"), mismatches)
                })
                .sum();
        }
        _ if same(expected, came, path) => {}
        _ => mismatches.push(Mismatch {
            member: path.to_owned(),
            expected: expected.to_string(),
            came: came.to_string(),
        }),
    }
    1
}

fn same(expected: &Value, came: &Value, path: &str) -> bool {
    match (expected, came) {
        (Value::String(word), Value::Null) => word == "none",
        (Value::String(text), Value::Object(event)) if event.contains_key("type") => {
            event.get("type").and_then(Value::as_str) == Some(text)
        }
        (Value::String(text), body) if path.ends_with("denial.body") => letters(text, body),
        (Value::String(wanted), Value::String(there)) if wanted != there => {
            let instants = Timestamp::parse(wanted).zip(Timestamp::parse(there));
            instants.is_some_and(|(wanted, there)| wanted == there)
        }
        _ => expected == came,
    }
}

/// Whether a text is this JSON, the order of its members too.
fn letters(text: &str, body: &Value) -> bool {
    let written = |json: &Value| serde_json::to_string(json).ok();
    serde_json::from_str::<Value>(text).is_ok_and(|wanted| written(&wanted) == written(body))
}
