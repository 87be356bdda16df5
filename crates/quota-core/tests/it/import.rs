//! Import: a line about an existing user, and the facts that it stands for.

use quota_core::catalog::{Catalog, shipped};
use quota_core::door::import;
use quota_core::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

fn judge(product: &str, line: Value) -> Result<(String, Vec<Value>), (String, String)> {
    let text = shipped().into_iter().find(|(name, _)| *name == product);
    judge_by(text.unwrap().1, line)
}

fn judge_by(catalog: &str, line: Value) -> Result<(String, Vec<Value>), (String, String)> {
    let catalog = Catalog::parse(catalog).unwrap();
    let now = Timestamp::parse("2026-11-20T12:00:00Z").unwrap();
    let line: Map<String, Value> = line.as_object().unwrap().clone();
    let read = import(&line, &catalog, now).map_err(|rejection| {
        (
            rejection.code.to_owned(),
            rejection.field.unwrap_or_default(),
        )
    });
    read.map(|(subject, facts)| {
        let facts = facts.into_iter().map(|fact| {
            let data: Value = serde_json::from_slice(&fact.event.encode()).unwrap();
            json!([fact.event.type_name(), fact.id, fact.time, data])
        });
        (subject, facts.collect())
    })
}

#[test]
fn a_line_becomes_facts_whose_ids_follow_from_it() {
    let line = json!({
        "subject": "u1", "feature": "resume_edits", "amount": 7, "plan": "basic", "ends_at": "2026-12-01T00:00:00Z",
        "time": "2026-11-10T05:30:00+05:30", "superadmin": true,
    });
    let time = "2026-11-10T00:00:00.000000Z";
    let bought = json!({
        "plan": "basic", "payment_id": "import:u1:basic", "amount": 9900, "currency": "INR",
        "ends_at": "2026-12-01T00:00:00.000000Z",
    });
    let (subject, facts) = judge("applyx", line).unwrap();
    assert_eq!(subject, "u1");
    assert_eq!(
        facts,
        [
            json!([
                "subscription.purchased",
                "import:u1:plan:basic",
                time,
                bought
            ]),
            json!(["usage.imported", format!("import:u1:resume_edits:{time}"), time, {"feature": "resume_edits", "amount": 7}]),
            json!(["subject.flagged", "import:u1:flag:superadmin", null, {"flag": "superadmin", "value": true}]),
        ]
    );
    let plain = json!({"subject": "u1", "feature": "interviews", "amount": 0, "plan": "free", "superadmin": false});
    let (_, facts) = judge("applyx", plain).unwrap();
    assert_eq!(
        facts,
        [
            json!(["usage.imported", "import:u1:interviews", null, {"feature": "interviews", "amount": 0}])
        ],
        "the plan that everybody has is no purchase"
    );
    let long =
        json!({"subject": "u".repeat(128), "feature": "interviews", "amount": 1, "plan": "pro"});
    assert_eq!(judge("applyx", long).unwrap().1.len(), 2);
}

/// A feature may be called what a plan is called, or a flag: each fact of a line has an id of its own.
///
/// Failed when ids were made of the bare names (the second fact contradicts the first, and the line is refused).
#[test]
fn a_line_s_facts_have_ids_of_their_own() {
    let catalog = "product = \"p\"\ntime_zone = \"UTC\"\n[features.pro]\nmessage = \"no more\"\n\
                   [features.superadmin]\nmessage = \"no more\"\n[plans.pro]\nrank = 1\nperiod = \"month\"\n\
                   [plans.pro.limits]\n";
    for feature in ["pro", "superadmin"] {
        let line = json!({"subject": "u1", "feature": feature, "amount": 1, "plan": "pro", "superadmin": true});
        let (_, facts) = judge_by(catalog, line).unwrap();
        let ids: BTreeSet<&str> = facts.iter().filter_map(|fact| fact[1].as_str()).collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
    }
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    let good = json!({"subject": "u1", "feature": "resume_edits", "amount": 1});
    let with = |member: &str, value: Value| {
        let mut line = good.clone();
        line[member] = value;
        judge("applyx", line).unwrap_err()
    };
    let wrong = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    for (member, value, code) in [
        ("subject", Value::Null, "invalid_line"),
        ("subject", json!("u".repeat(129)), "invalid_line"),
        ("feature", json!("nope"), "unknown_feature"),
        ("amount", json!(-1), "invalid_line"),
        ("amount", json!("many"), "invalid_line"),
        ("amount", json!(1_000_000_001), "invalid_line"),
        ("plan", json!("gold"), "unknown_plan"),
        ("ends_at", json!("2026-12-01T00:00:00Z"), "invalid_line"),
        ("time", json!("yesterday"), "invalid_line"),
        ("time", json!("2026-11-20T12:05:01Z"), "in_future"),
        ("superadmin", json!("yes"), "invalid_line"),
        ("email", json!("a@b.example"), "invalid_line"),
    ] {
        assert_eq!(
            with(member, value.clone()),
            wrong(code, member),
            "{member} {value}"
        );
    }
    let ended = json!({
        "subject": "u1", "feature": "resume_edits", "amount": 1, "plan": "basic", "ends_at": "2026-11-01T00:00:00Z",
        "time": "2026-11-02T00:00:00Z",
    });
    assert_eq!(
        judge("applyx", ended).unwrap_err(),
        wrong("invalid_event", "ends_at")
    );
    let unlock =
        json!({"subject": "u1", "feature": "ai_generations", "amount": 1, "plan": "unlock"});
    assert_eq!(
        judge("resume-builder", unlock).unwrap_err(),
        wrong("resource_required", "plan")
    );
}
