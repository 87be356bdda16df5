//! JSON Schemas of events: what readers find, and what doors take.

use super::data::is_service_member;
use super::{MAX_MONEY, MAX_NAME, MAX_UNITS, MAX_WORDS};
use crate::event;
use schemars::Schema;
use serde_json::{Map, Value, json};

/// Visible characters, none of them a space at the ends.
const VISIBLE: &str = r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$";

/// The schema of every type as it is recorded, for readers: members that it does not name may come, and are to be
/// tolerated.
#[must_use]
pub fn event_schemas() -> Vec<(&'static str, Value)> {
    let types = event::types().into_iter();
    types
        .map(|(name, _, data)| (name, event_schema(name, data)))
        .collect()
}

/// The schema of every type that a service may publish, for its sender: what a door refuses, it refuses.
///
/// The catalog's part is not in it: which features and plans there are, and where a resource is needed.
#[must_use]
pub fn publish_schemas() -> Vec<(&'static str, Value)> {
    let published = event::types()
        .into_iter()
        .filter(|(_, published, _)| *published);
    published
        .map(|(name, _, data)| (name, publish_schema(name, data)))
        .collect()
}

fn event_schema(name: &str, data: Schema) -> Value {
    let (mut data, definitions) = parts(data);
    let own = ["catalog.published", "ledger.epoch_started"].contains(&name);
    let text = |what: &str| json!({"description": what, "type": "string", "minLength": 1});
    let mut properties = envelope(name, text);
    let extensions = [
        ("product", "The product."),
        ("ledgerid", "The ledger's id."),
        ("epoch", "The ledger's epoch."),
        ("partition", "The ledger's partition."),
        ("offset", "The offset in that partition, dense from 0."),
        (
            "subjectseq",
            "The number among the subject's events, dense from 1.",
        ),
        (
            "hash",
            "The row's link of the hash chain, in hexadecimal digits.",
        ),
        (
            "catalogversion",
            "The catalog version that it was judged under; 0 for none.",
        ),
        (
            "recordedtime",
            "When it was recorded: RFC 3339 with six decimals.",
        ),
    ];
    for (extension, what) in extensions {
        properties.insert(extension.into(), text(what));
    }
    let description = data.remove("description");
    properties.insert("data".into(), data.into());
    let mut required = vec!["specversion", "id", "source", "type", "time", "data"];
    if !own {
        required.push("subject");
    }
    whole(
        name,
        "as recorded",
        description,
        properties,
        required,
        definitions,
    )
}

fn publish_schema(name: &str, data: Schema) -> Value {
    let (mut data, mut definitions) = parts(data);
    let required = data.get("required").cloned().unwrap_or_default();
    let needed = |member: &str| {
        let names = required.as_array();
        names.is_some_and(|names| names.iter().any(|name| name == member))
    };
    if let Some(Value::Object(members)) = data.get_mut("properties") {
        members.retain(|member, _| !is_service_member(member));
        for (member, schema) in members.iter_mut() {
            bound(name, member, schema);
            if !needed(member) {
                nullable(schema);
            }
        }
    }
    data.insert("additionalProperties".into(), false.into());
    definitions.retain(|definition, _| definition == "Timestamp");
    let text = |what: &str| json!({"description": what, "type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": VISIBLE});
    let mut properties = envelope(name, text);
    properties.insert(
        "product".into(),
        text("The product that it is sent to; another is refused."),
    );
    let description = data.remove("description");
    properties.insert("data".into(), data.into());
    let mut required = vec!["specversion", "id", "source", "type", "subject"];
    if name != "subject.registered" {
        required.push("data");
    }
    whole(
        name,
        "as published",
        description,
        properties,
        required,
        definitions,
    )
}

/// A data schema's members, and the definitions that they refer to.
fn parts(schema: Schema) -> (Map<String, Value>, Map<String, Value>) {
    let Value::Object(mut data) = schema.to_value() else {
        return (Map::new(), Map::new());
    };
    data.shift_remove("$schema");
    data.shift_remove("title");
    match data.shift_remove("$defs") {
        Some(Value::Object(definitions)) => (data, definitions),
        _ => (data, Map::new()),
    }
}

fn envelope(name: &str, text: impl Fn(&str) -> Value) -> Map<String, Value> {
    let mut source = text("Who told: a URI reference; quota:… is the service itself.");
    if let Some(source) = source.as_object_mut() {
        source.insert("format".into(), "uri-reference".into());
    }
    let members = json!({
        "specversion": {"const": "1.0"},
        "id": text("Unique per product, subject and source, for ever."),
        "source": source,
        "type": {"const": format!("quota.{name}.v1")},
        "subject": text("The subject whose quota counts: the product's own opaque id."),
        "time": {"description": "When it happened; when left out, now.", "type": "string", "format": "date-time"},
        "datacontenttype": {"description": "JSON.", "type": "string"}
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn whole(
    name: &str,
    state: &str,
    description: Option<Value>,
    properties: Map<String, Value>,
    required: Vec<&str>,
    definitions: Map<String, Value>,
) -> Value {
    let mut schema = Map::new();
    schema.insert(
        "$schema".into(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    schema.insert("title".into(), format!("quota.{name}.v1, {state}").into());
    if let Some(description) = description {
        schema.insert("description".into(), description);
    }
    schema.insert("type".into(), "object".into());
    schema.insert("required".into(), required.into());
    schema.insert("properties".into(), properties.into());
    if !definitions.is_empty() {
        schema.insert("$defs".into(), definitions.into());
    }
    schema.into()
}

/// Lets null stand for a member that may be left out.
fn nullable(schema: &mut Value) {
    if let Some(kind) = schema.get_mut("type")
        && kind.is_string()
    {
        *kind = json!([kind, "null"]);
    }
}

/// Adds what a door asks of one member of `data`.
fn bound(name: &str, member: &str, schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    let mut add = |key: &str, value: Value| schema.insert(key.to_owned(), value);
    match (name, member) {
        ("usage.recorded", "amount") => {
            add("minimum", 1.into());
            add("maximum", MAX_UNITS.into());
        }
        (_, "amount") => {
            let most = if name == "usage.imported" {
                MAX_UNITS
            } else {
                MAX_MONEY
            };
            add("minimum", 0.into());
            add("maximum", most.into());
        }
        (_, "currency") => {
            add("pattern", "^[A-Z]{3}$".into());
        }
        (_, "flag") => {
            add("pattern", "^[a-z0-9._-]{1,64}$".into());
        }
        (_, "starts_at" | "ends_at" | "at_period_end" | "value") => {}
        (_, text) => {
            let most = if text == "reason" {
                MAX_WORDS
            } else {
                MAX_NAME
            };
            add("minLength", 1.into());
            add("maxLength", most.into());
            add("pattern", VISIBLE.into());
        }
    }
}
