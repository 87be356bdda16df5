//! The committed schemas and examples: fresh, and true of what the code reads and takes.

#![expect(
    clippy::disallowed_methods,
    reason = "this test reads and writes the committed files"
)]

use proptest::prelude::*;
use quota_core::catalog::{self, Catalog};
use quota_core::door::{admit, event_schemas, parse_structured, publish_schemas};
use quota_core::event::{Event, types};
use quota_core::time::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const UPDATE: &str = "UPDATE_SCHEMAS=1 cargo test -p quota-core schemas";

/// The features and plans that random events speak of.
const CATALOG: &str = r#"
product = "any"
time_zone = "Asia/Kolkata"
[features.resume_edits]
[features.resume_analyses]
[features.ai_generations]
resource = "on"
[features.resumes]
resource = "makes"
[plans.free]
rank = 0
[plans.basic]
rank = 1
period = "month"
[plans.pro]
rank = 2
period = "open"
[plans.unlock]
period = "21 days"
opens = "named"
"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas")
}

/// What the code makes, by path within the folder.
fn generated() -> BTreeMap<String, Value> {
    let events = event_schemas().into_iter();
    let events = events.map(|(name, schema)| (format!("events/{name}.v1.json"), schema));
    let published = publish_schemas().into_iter();
    let published = published.map(|(name, schema)| (format!("publish/{name}.v1.json"), schema));
    let catalog = ("catalog.json".to_owned(), catalog::schema());
    events.chain(published).chain([catalog]).collect()
}

#[test]
fn schemas_are_fresh() {
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    for (path, schema) in generated() {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        let file = folder().join(&path);
        if update {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let committed = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == text,
            "schemas/{path} is not what the code makes; run: {UPDATE}"
        );
    }
}

#[test]
fn no_schema_is_left_over() {
    let generated = generated();
    for part in ["events", "publish"] {
        for name in files(part) {
            let path = format!("{part}/{name}");
            assert!(
                generated.contains_key(&path),
                "schemas/{path} is of no type; delete it"
            );
        }
    }
}

fn files(part: &str) -> Vec<String> {
    let listed = fs::read_dir(folder().join(part)).unwrap();
    let mut names: Vec<String> = listed
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The examples: file name, bare type, event.
fn examples() -> Vec<(String, String, Value)> {
    let read = |name: String| {
        let text = fs::read_to_string(folder().join("examples").join(&name)).unwrap();
        let event: Value = serde_json::from_str(&text).unwrap();
        let bare = event["type"].as_str().unwrap();
        let bare = bare
            .strip_prefix("quota.")
            .unwrap()
            .strip_suffix(".v1")
            .unwrap()
            .to_owned();
        assert!(
            name.starts_with(&format!("{bare}.v1.")),
            "{name} holds {bare}"
        );
        (name, bare, event)
    };
    files("examples").into_iter().map(read).collect()
}

type Validators = BTreeMap<&'static str, jsonschema::Validator>;

fn validators(schemas: Vec<(&'static str, Value)>) -> Validators {
    let validator = |schema: &Value| {
        jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .unwrap()
    };
    schemas
        .iter()
        .map(|(name, schema)| (*name, validator(schema)))
        .collect()
}

#[test]
fn every_type_has_examples_and_they_are_read_and_written_alike() {
    let schemas = validators(event_schemas());
    let examples = examples();
    for (name, _, _) in types() {
        assert!(
            examples.iter().any(|(_, bare, _)| bare == name),
            "no example of {name}"
        );
    }
    for (name, bare, event) in examples {
        let faults: Vec<String> = schemas[bare.as_str()]
            .iter_errors(&event)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{name}: {faults:?}");
        let data = serde_json::to_string(&event["data"]).unwrap();
        let decoded = Event::decode(&bare, 1, data.as_bytes()).unwrap();
        assert_eq!(decoded.type_name(), bare);
        assert_eq!(String::from_utf8(decoded.encode()).unwrap(), data, "{name}");
        // Readers tolerate what a later version may add.
        let mut later = event["data"].clone();
        later["added_later"] = json!({"x": [1]});
        let later = Event::decode(&bare, 1, later.to_string().as_bytes()).unwrap();
        assert_eq!(later, decoded, "{name}");
    }
}

#[test]
fn what_a_service_would_send_is_taken() {
    let schemas = validators(publish_schemas());
    let now = Timestamp::parse("2026-11-20T12:00:00Z").unwrap();
    let mut taken = BTreeSet::new();
    for (name, bare, event) in examples() {
        if event["source"].as_str().unwrap().starts_with("quota:") {
            continue;
        }
        let faults: Vec<String> = schemas[bare.as_str()]
            .iter_errors(&event)
            .map(|fault| fault.to_string())
            .collect();
        assert!(faults.is_empty(), "{name}: {faults:?}");
        let envelope = parse_structured(event.to_string().as_bytes()).unwrap();
        let product = event["product"].as_str().unwrap();
        let catalog = folder().join(format!(
            "../crates/quota-core/catalogs/{product}/catalog.toml"
        ));
        let catalog = Catalog::parse(&fs::read_to_string(catalog).unwrap()).unwrap();
        let (subject, fact) = admit(&envelope, product, &catalog, now)
            .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(event["subject"], subject);
        assert_eq!(
            serde_json::from_slice::<Value>(&fact.event.encode()).unwrap(),
            event["data"],
            "{name}"
        );
        taken.insert(bare);
    }
    assert!(
        taken.iter().eq(schemas.keys()),
        "an example of every type that may be published"
    );
}

/// Members that some type has or has not, and values that some member takes or does not.
fn data() -> impl Strategy<Value = Value> {
    let names = [
        "feature",
        "amount",
        "resource",
        "plan",
        "payment_id",
        "currency",
        "subscription",
        "starts_at",
        "ends_at",
        "at_period_end",
        "reason",
        "source",
        "flag",
        "value",
        "hold",
        "outcome",
        "bypassed",
        "email",
    ];
    let values = prop_oneof![
        Just(Value::Null),
        Just(json!("resume_edits")),
        Just(json!("basic")),
        Just(json!("INR")),
        Just(json!("inr")),
        Just(json!("")),
        Just(json!(" x")),
        Just(json!("a\u{7}b")),
        Just(json!("ü".repeat(128))),
        Just(json!("ü".repeat(129))),
        Just(json!("2026-11-01T00:00:00Z")),
        Just(json!("2026-11-31T00:00:00Z")),
        Just(json!(true)),
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(2.0)),
        Just(json!(1.5)),
        Just(json!(-1)),
        Just(json!(1_000_000_001)),
        Just(json!(9_007_199_254_740_992_i64)),
        Just(json!([])),
        Just(json!({})),
    ];
    let member = (proptest::sample::select(names.to_vec()), values);
    proptest::collection::vec(member, 0..6).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// What the schema for senders refuses, the door refuses; what it takes, only the catalog and the rules between
    /// members can refuse.
    #[test]
    fn doors_and_schemas_agree(data in data(), which in 0..11_usize) {
        static VALIDATORS: OnceLock<Validators> = OnceLock::new();
        static PARSED: OnceLock<Catalog> = OnceLock::new();
        let validators = VALIDATORS.get_or_init(|| validators(publish_schemas()));
        let catalog = PARSED.get_or_init(|| Catalog::parse(CATALOG).unwrap());
        let (name, validator) = validators.iter().nth(which).unwrap();
        let event = json!({
            "specversion": "1.0", "id": "e", "source": "/a", "type": format!("quota.{name}.v1"), "subject": "u",
            "data": data
        });
        let envelope = parse_structured(event.to_string().as_bytes()).unwrap();
        let now = Timestamp::parse("2026-10-20T12:00:00Z").unwrap();
        let verdict = admit(&envelope, "any", catalog, now);
        let fits = validator.is_valid(&event);
        prop_assert!(fits || verdict.is_err(), "the door takes what the schema refuses: {event}");
        if let Err(fault) = verdict && fits {
            let of_catalog = ["unknown_feature", "unknown_plan", "resource_required"].contains(&fault.code);
            let between = ["data.ends_at", "data.resource"].contains(&fault.field.as_deref().unwrap_or_default());
            prop_assert!(of_catalog || between, "{name}: {fault:?} though the schema takes {event}");
        }
    }
}
