//! What data is refused, and with which words.

use super::{event, fact, let_in, refused, refused_data, with};
use serde_json::{Value, json};

#[test]
fn data_is_judged_member_by_member() {
    let cases = [
        ("usage.recorded", json!({}), "data.feature"),
        ("usage.recorded", json!({"feature": 1}), "data.feature"),
        (
            "usage.recorded",
            json!({"feature": "edits", "amount": 0}),
            "data.amount",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "amount": 1_000_000_001}),
            "data.amount",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "amount": 1.5}),
            "data.amount",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "amount": "1"}),
            "data.amount",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "resource": ""}),
            "data.resource",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "email": "a@b.c"}),
            "data.email",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "bypassed": true}),
            "data.bypassed",
        ),
        (
            "usage.recorded",
            json!({"feature": "edits", "outcome": null}),
            "data.outcome",
        ),
        (
            "resource.created",
            json!({"resource": "r", "hold": "h"}),
            "data.hold",
        ),
        ("subject.registered", json!({"name": "x"}), "data.name"),
        (
            "subscription.purchased",
            json!({"payment_id": "p", "amount": 1, "currency": "INR"}),
            "data.plan",
        ),
        (
            "subscription.purchased",
            json!({"plan": "pro", "amount": 1, "currency": "INR"}),
            "data.payment_id",
        ),
        (
            "subscription.purchased",
            json!({"plan": "pro", "payment_id": "p", "currency": "INR"}),
            "data.amount",
        ),
        (
            "subscription.purchased",
            json!({"plan": "pro", "payment_id": "p", "amount": 1}),
            "data.currency",
        ),
        (
            "subscription.cancelled",
            json!({"at_period_end": "no"}),
            "data.at_period_end",
        ),
        (
            "subject.flagged",
            json!({"flag": "SuperAdmin", "value": true}),
            "data.flag",
        ),
        (
            "subject.flagged",
            json!({"flag": "superadmin"}),
            "data.value",
        ),
        ("usage.imported", json!({"feature": "edits"}), "data.amount"),
        (
            "usage.imported",
            json!({"feature": "edits", "amount": -1}),
            "data.amount",
        ),
    ];
    for (name, data, field) in cases {
        assert_eq!(
            refused_data(name, data.clone()),
            ("invalid_event", field.to_owned()),
            "{name} {data}"
        );
    }
    // A whole number is whole however it is written.
    assert_eq!(
        fact("usage.recorded", json!({"feature": "edits", "amount": 2.0})),
        fact("usage.recorded", json!({"feature": "edits", "amount": 2})),
    );
}

#[test]
fn an_unknown_member_is_refused_with_those_that_there_are() {
    let sent = event(
        "usage.recorded",
        json!({"feature": "edits", "user_email": "a@b.c"}),
    );
    let rejection = let_in(&sent).unwrap_err();
    assert_eq!(rejection.field.as_deref(), Some("data.user_email"));
    assert_eq!(
        rejection.message,
        "data.user_email is not known here; there are feature, amount, resource"
    );
}

#[test]
fn purchases_are_judged_by_their_plan() {
    let purchase = |member: &str, value: Value| {
        let data = json!({"plan": "pro", "payment_id": "p", "amount": 1, "currency": "INR"});
        event("subscription.purchased", with(data, member, value))
    };
    let invalid = |field: &str| ("invalid_event", format!("data.{field}"));
    assert_eq!(
        refused(&purchase("plan", json!("platinum"))),
        ("unknown_plan", "data.plan".into())
    );
    assert_eq!(refused(&purchase("plan", json!("free"))), invalid("plan"));
    assert_eq!(
        refused(&purchase("plan", json!("unlock"))),
        ("resource_required", "data.resource".into())
    );
    assert_eq!(
        refused(&purchase("resource", json!("r1"))),
        invalid("resource")
    );
    for currency in ["inr", "INRR", "₹", "IN1"] {
        assert_eq!(
            refused(&purchase("currency", json!(currency))),
            invalid("currency")
        );
    }
    assert_eq!(refused(&purchase("amount", json!(-1))), invalid("amount"));
    assert_eq!(
        refused(&purchase("ends_at", json!("soon"))),
        invalid("ends_at")
    );
    let at_its_start = with(
        purchase("ends_at", json!("2026-11-20T12:00:00Z")),
        "time",
        json!("2026-11-20T12:00:00Z"),
    );
    assert_eq!(refused(&at_its_start), invalid("ends_at"));
    let redelivered = purchase("ends_at", json!("2026-11-20T11:00:00Z"));
    assert!(
        let_in(&redelivered).is_ok(),
        "the decision knows whether it was told before"
    );
    let past = with(
        purchase("ends_at", json!("2026-11-01T00:00:01Z")),
        "time",
        json!("2026-11-01T00:00:00Z"),
    );
    assert!(let_in(&past).is_ok(), "told late, with its own time");
}

#[test]
fn features_say_which_event_is_theirs() {
    let (unknown, field) = refused_data("usage.recorded", json!({"feature": "nope"}));
    assert_eq!(
        (unknown, field.as_str()),
        ("unknown_feature", "data.feature")
    );
    for (name, data) in [
        ("usage.imported", json!({"feature": "nope", "amount": 1})),
        (
            "resource.created",
            json!({"resource": "r", "feature": "nope"}),
        ),
    ] {
        assert_eq!(refused_data(name, data).0, "unknown_feature");
    }
    let told = |name: &str, data: Value| let_in(&event(name, data)).unwrap_err();
    let made = told("usage.recorded", json!({"feature": "resumes"}));
    assert_eq!(
        (made.code, made.field.as_deref()),
        ("invalid_event", Some("data.feature"))
    );
    assert!(
        made.message.contains("resource.created"),
        "{}",
        made.message
    );
    let completed = told("usage.recorded", json!({"feature": "chats"}));
    assert!(
        completed.message.contains("resource.completed"),
        "{}",
        completed.message
    );
    assert!(
        told(
            "resource.created",
            json!({"resource": "r", "feature": "chats"})
        )
        .message
        .contains("completed")
    );
    assert_eq!(
        refused_data("usage.recorded", json!({"feature": "ai"})),
        ("resource_required", "data.resource".into())
    );
}
