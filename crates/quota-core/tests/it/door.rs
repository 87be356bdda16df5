//! What gets through a door, and what is told to those who do not.

mod data;
mod envelope;

use proptest::prelude::*;
use quota_core::catalog::Catalog;
use quota_core::command::Fact;
use quota_core::door::{Rejection, admit, parse_batch, parse_http, parse_structured};
use quota_core::event::{Event, types};
use quota_core::time::{SECOND, Timestamp};
use serde_json::{Value, json};
use std::sync::OnceLock;

const CATALOG: &str = r#"
product = "acme"
time_zone = "Asia/Kolkata"
[features.edits]
[features.resumes]
resource = "makes"
[features.ai]
resource = "on"
[features.chats]
counted = "subject"
completions = { source = "bot" }
[features.old]
retired = true
[plans.free]
rank = 0
[plans.pro]
rank = 1
price = 100
currency = "INR"
period = "month"
[plans.gone]
rank = 2
period = "open"
retired = true
[plans.unlock]
price = 50
currency = "INR"
period = "21 days"
opens = "named"
"#;

fn now() -> Timestamp {
    Timestamp::parse("2026-11-20T12:00:00Z").unwrap()
}

pub fn catalog() -> &'static Catalog {
    static PARSED: OnceLock<Catalog> = OnceLock::new();
    PARSED.get_or_init(|| Catalog::parse(CATALOG).unwrap())
}

fn event(name: &str, data: Value) -> Value {
    json!({
        "specversion": "1.0", "id": "e1", "source": "/resume-api", "type": format!("quota.{name}.v1"),
        "subject": "u1", "data": data
    })
}

fn let_in(event: &Value) -> Result<(String, Fact), Rejection> {
    let envelope = parse_structured(event.to_string().as_bytes())?;
    admit(&envelope, "acme", catalog(), now())
}

fn fact(name: &str, data: Value) -> Event {
    let_in(&event(name, data)).unwrap().1.event
}

fn refused(event: &Value) -> (&'static str, String) {
    let rejection = let_in(event).unwrap_err();
    assert!(!rejection.message.is_empty());
    (rejection.code, rejection.field.unwrap_or_default())
}

fn refused_data(name: &str, data: Value) -> (&'static str, String) {
    refused(&event(name, data))
}

/// `event` with one member set, or taken away by null.
fn with(mut event: Value, member: &str, value: Value) -> Value {
    event[member] = value;
    event
}

#[test]
fn a_plain_event_becomes_its_fact() {
    let sent = with(
        event("usage.recorded", json!({"feature": "edits"})),
        "time",
        json!("2026-11-20T13:00:00+05:30"),
    );
    let (subject, fact) = let_in(&sent).unwrap();
    assert_eq!(subject, "u1");
    assert_eq!(
        (fact.source.as_str(), fact.id.as_str()),
        ("/resume-api", "e1")
    );
    assert_eq!(fact.time, Timestamp::parse("2026-11-20T07:30:00Z"));
    assert_eq!(fact.event.encode(), br#"{"feature":"edits","amount":1}"#);
    // Without a time, it is the ledger's to say when.
    assert_eq!(
        let_in(&event("subject.registered", json!({})))
            .unwrap()
            .1
            .time,
        None
    );
}

/// Data that gets in, of every type that may be published.
fn accepted() -> Vec<(&'static str, Value)> {
    vec![
        (
            "usage.recorded",
            json!({"feature": "ai", "amount": 3, "resource": "r1"}),
        ),
        (
            "usage.recorded",
            json!({"feature": "old", "resource": null}),
        ),
        ("subject.registered", json!({})),
        (
            "subscription.purchased",
            json!({"plan": "pro", "payment_id": "p", "amount": 7, "currency": "USD"}),
        ),
        (
            "subscription.renewed",
            json!({"plan": "gone", "payment_id": "p", "amount": 0, "currency": "INR", "subscription": "s",
                "starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-01T00:00:00.000001Z"}),
        ),
        (
            "subscription.purchased",
            json!({"plan": "unlock", "payment_id": "p", "amount": 50, "currency": "INR", "resource": "r1"}),
        ),
        ("subscription.cancelled", json!({})),
        (
            "subscription.cancelled",
            json!({"payment_id": "p", "subscription": "s", "at_period_end": false, "reason": "x y"}),
        ),
        (
            "resource.created",
            json!({"resource": "r1", "feature": "edits"}),
        ),
        (
            "resource.completed",
            json!({"resource": "r1", "source": "bot"}),
        ),
        ("resource.deleted", json!({"resource": "r1"})),
        ("resource.unlocked", json!({"resource": "r1"})),
        (
            "subject.flagged",
            json!({"flag": "superadmin", "value": false}),
        ),
        ("usage.imported", json!({"feature": "chats", "amount": 0})),
    ]
}

#[test]
fn every_publishable_type_gets_in() {
    let cases = accepted();
    for (name, data) in &cases {
        assert_eq!(fact(name, data.clone()).type_name(), *name, "{data}");
    }
    for (name, published, _) in types() {
        let known = cases.iter().any(|(case, _)| *case == name);
        assert_eq!(known, published, "{name}");
        if !published {
            assert_eq!(
                refused_data(name, json!({})),
                ("invalid_event", "type".into()),
                "{name}"
            );
        }
    }
    // A type that needs no data may leave it out.
    let mut bare = event("subject.registered", json!({}));
    bare.as_object_mut().unwrap().remove("data");
    assert!(let_in(&bare).is_ok());
}

#[test]
fn attributes_are_judged_by_name() {
    let good = || event("usage.recorded", json!({"feature": "edits"}));
    let long = "ü".repeat(129);
    let cases = [
        ("specversion", json!("0.3"), "specversion"),
        ("specversion", json!(1.0), "specversion"),
        ("specversion", Value::Null, "specversion"),
        ("id", Value::Null, "id"),
        ("id", json!(""), "id"),
        ("id", json!(7), "id"),
        ("id", json!(" a"), "id"),
        ("id", json!("a\u{a0}"), "id"),
        ("id", json!("a\u{0}b"), "id"),
        ("id", json!(long), "id"),
        ("source", Value::Null, "source"),
        ("source", json!("two words"), "source"),
        ("source", json!("quota:consume"), "source"),
        ("source", json!("QUOTA:x"), "source"),
        ("type", Value::Null, "type"),
        ("type", json!("usage.recorded"), "type"),
        ("type", json!("quota.usage.recorded.v2"), "type"),
        ("type", json!("quota.usage.denied.v1"), "type"),
        ("subject", Value::Null, "subject"),
        ("subject", json!("u\n1"), "subject"),
        ("time", json!("yesterday"), "time"),
        ("time", json!(1_700_000_000), "time"),
        ("datacontenttype", json!("text/plain"), "datacontenttype"),
        ("data", json!("{}"), "data"),
        ("data", Value::Null, "data"),
        ("data", json!([]), "data"),
    ];
    for (member, value, field) in cases {
        let found = refused(&with(good(), member, value.clone()));
        assert_eq!(
            found,
            ("invalid_event", field.to_owned()),
            "{member} = {value}"
        );
    }
    assert!(let_in(&with(good(), "id", json!("ü".repeat(128)))).is_ok());
    assert!(
        let_in(&with(
            good(),
            "datacontenttype",
            json!("application/json; charset=utf-8")
        ))
        .is_ok()
    );
    assert!(
        let_in(&with(good(), "traceparent", json!("00-ab"))).is_ok(),
        "extensions are accepted"
    );
    assert!(let_in(&with(good(), "product", json!("acme"))).is_ok());
    assert_eq!(
        refused(&with(good(), "product", json!("other"))),
        ("wrong_product", "product".into())
    );
}

#[test]
fn the_future_begins_after_five_minutes() {
    let at = |ahead: i64| {
        with(
            event("subject.registered", json!({})),
            "time",
            json!(now().plus(ahead).to_string()),
        )
    };
    assert!(let_in(&at(300 * SECOND)).is_ok());
    assert_eq!(refused(&at(300 * SECOND + 1)), ("in_future", "time".into()));
}

proptest! {
    /// Whatever bytes come, the answer is an answer.
    #[test]
    fn no_bytes_break_a_door(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            if let Ok(envelope) = parse_structured(bytes) {
                let _ = admit(&envelope, "acme", catalog(), now());
            }
            let _ = parse_batch(bytes);
            let headers = [("ce-id", bytes), ("ce-source", b"/a")];
            let _ = parse_http(headers, bytes).map(|envelope| admit(&envelope, "acme", catalog(), now()));
        }
    }

    /// A member that a type does not have is refused by its name, whatever the name and the type.
    #[test]
    fn strangers_are_refused_by_name(name in "[a-z_]{1,20}|\\PC{1,20}") {
        let types = types();
        for (kind, data) in accepted() {
            let schema = types.iter().find(|(name, _, _)| *name == kind).unwrap().2.as_value();
            if schema["properties"].get(&name).is_none() {
                let found = refused_data(kind, with(data, &name, json!(1)));
                prop_assert_eq!(found, ("invalid_event", format!("data.{name}")));
            }
        }
    }
}
