//! Decisions in JSON, against the documented example.

use super::*;
use quota_core::catalog::Catalog;
use quota_core::command::Address;
use quota_core::event::{Closure, Outcome, Reason};
use quota_core::position::Position;
use quota_core::time::Timestamp;

const CATALOG: &str = r#"
product = "applyx"
time_zone = "Asia/Kolkata"
[features.resume_edits]
message = "Resume limit reached"
[features.views]
metered = false
prompt = { plan = "free", name = "post_download" }
[plans.free]
rank = 0
[plans.free.limits]
resume_edits = { limit = 1 }
[plans.basic]
rank = 1
price = 9900
currency = "INR"
period = "month"
[plans.basic.limits]
resume_edits = { limit = 10, window = "period" }
[plans.pro]
rank = 2
price = 49900
currency = "INR"
period = "month"
[plans.pro.limits]
resume_edits = { unlimited = true }
[denials.limit_reached]
status = 402
body = '{"error": {"code": "LIMIT_REACHED", "message": "$message", "used": "$used", "limit": "$limit", "plan": "$plan", "plans": "$upgrade_plans", "cost": "$cost"}}'
[denials.deleted]
status = 403
message = "This resume was deleted."
body = '{"error": "Resume deleted", "message": "$message", "requiresUpgrade": false}'
"#;

fn outcome(reason: Reason) -> Outcome {
    Outcome {
        reason,
        plan: Some("free".into()),
        used: 1,
        held: 0,
        limit: Some(1),
        resets_at: None,
        closure: None,
        evidence: Vec::new(),
        offers: Vec::new(),
    }
}

fn decision(feature: &str, outcome: Outcome) -> Decision {
    Decision {
        address: Address::new("applyx", "u1", 64),
        feature: feature.into(),
        outcome,
        hold: None,
        catalog: Arc::new(Catalog::parse(CATALOG).unwrap()),
        catalog_version: 1,
        position: Position::new(3, 1042),
        replayed: false,
    }
}

fn status(decision: &Decision) -> StatusCode {
    let as_of = Timestamp::from_micros(0);
    body(decision, &[], Freshness { as_of, age_ms: 0 }).status()
}

fn rendered(decision: &Decision, evidence: &[Arc<str>]) -> String {
    let as_of = Timestamp::parse("2026-11-20T12:00:00Z").unwrap();
    serde_json::to_string(&body(decision, evidence, Freshness { as_of, age_ms: 0 })).unwrap()
}

#[test]
fn a_refusal_has_the_members_of_the_documented_example_in_its_order() {
    let offers = vec!["basic".to_owned(), "pro".to_owned()];
    let decision = decision(
        "resume_edits",
        Outcome {
            offers,
            ..outcome(Reason::LimitReached)
        },
    );
    assert_eq!(status(&decision), StatusCode::PAYMENT_REQUIRED);
    let plans = r#"{"id":"basic","price":9900,"currency":"INR","period":"month","limit":10},{"id":"pro","price":49900,"currency":"INR","period":"month","limit":"#;
    let expected = format!(
        r#"{{"allowed":false,"feature":"resume_edits","subject":"u1","plan":"free","used":1,"held":0,"limit":1,"remaining":0,"unlimited":false,"resets_at":null,"reason":"limit_reached","code":"UPGRADE_REQUIRED","message":"Resume limit reached","evidence":["e1"],"upgrade":{{"plans":[{plans}null,"unlimited":true}}]}},"denial":{{"status":402,"body":{{"error":{{"code":"LIMIT_REACHED","message":"Resume limit reached","used":1,"limit":1,"plan":"free","plans":[{plans}-1}}],"cost":"$cost"}}}}}},"prompt":null,"hold":null,"catalog_version":1,"position":"3:1042","as_of":"2026-11-20T12:00:00.000Z","age_ms":0}}"#
    );
    assert_eq!(rendered(&decision, &["e1".into()]), expected);
}

#[test]
fn an_allowed_answer_says_what_is_left_and_what_to_show() {
    let within = decision(
        "resume_edits",
        Outcome {
            held: 2,
            limit: Some(10),
            ..outcome(Reason::WithinLimit)
        },
    );
    assert_eq!(status(&within), StatusCode::OK);
    let text = rendered(&within, &[]);
    assert!(
        text.contains(r#""used":1,"held":2,"limit":10,"remaining":7,"unlimited":false"#),
        "{text}"
    );
    assert!(text.contains(
        r#""code":null,"message":null,"evidence":[],"upgrade":null,"denial":null,"prompt":null"#
    ));
    let unmetered = decision(
        "views",
        Outcome {
            used: 0,
            limit: None,
            ..outcome(Reason::Unlimited)
        },
    );
    let text = rendered(&unmetered, &[]);
    assert!(
        text.contains(r#""limit":null,"remaining":null,"unlimited":true"#),
        "{text}"
    );
    assert!(text.contains(r#""prompt":"post_download""#), "{text}");
    let mut on_pro = unmetered;
    on_pro.outcome.plan = Some("pro".into());
    assert!(rendered(&on_pro, &[]).contains(r#""prompt":null"#));
    let passed = decision(
        "resume_edits",
        Outcome {
            used: 5,
            ..outcome(Reason::Bypassed)
        },
    );
    assert!(rendered(&passed, &[]).contains(r#""limit":1,"remaining":0,"unlimited":false"#));
}

#[test]
fn a_closure_has_words_of_its_own_and_a_refusal_without_words_has_plain_ones() {
    let deleted = Outcome {
        closure: Some(Closure::Deleted),
        limit: None,
        ..outcome(Reason::ResourceLocked)
    };
    let text = rendered(&decision("resume_edits", deleted), &[]);
    assert!(
        text.contains(
            r#""message":"This resume was deleted.","evidence":[],"upgrade":{"plans":[]}"#
        ),
        "{text}"
    );
    assert!(text.contains(
        r#""denial":{"status":403,"body":{"error":"Resume deleted","message":"This resume was deleted.","requiresUpgrade":false}}"#
    ));
    let absent = decision(
        "resume_edits",
        Outcome {
            used: 0,
            limit: Some(0),
            ..outcome(Reason::NotInPlan)
        },
    );
    let text = rendered(&absent, &[]);
    assert!(
        text.contains(r#""limit":0,"remaining":0,"unlimited":false"#),
        "{text}"
    );
    assert!(text.contains(
        r#"{"status":403,"body":{"error":{"code":"UPGRADE_REQUIRED","message":"Your plan does not include this feature."}}}"#
    ));
}
