//! Events, as services tell them: structured, binary, and in batches.

use crate::harness::{Fixture, PRODUCT, path, subject, with_service};
use quota_server::publishing::publish_catalog;
use serde_json::{Value, json};

fn event(id: &str, subject: &str, feature: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": "quota.usage.recorded.v1", "subject": subject,
        "time": "2026-11-20T12:00:00Z", "data": {"feature": feature},
    })
}

fn events() -> String {
    format!("/v1/products/{PRODUCT}/events")
}

async fn structured(service: &Fixture, event: &Value) -> crate::harness::Answer {
    service
        .post_with(
            &events(),
            &[("content-type", "application/cloudevents+json")],
            event.to_string(),
        )
        .await
}

#[test]
fn an_event_is_recorded_once_however_it_is_sent() {
    with_service(|service| async move {
        let user = subject();
        let first = structured(service, &event("e1", &user, "interviews")).await;
        assert_eq!(first.status, 200, "{}", first.text);
        let position = first.json()["results"][0]["position"].clone();
        assert_eq!(
            first.json(),
            json!({"results": [{"id": "e1", "status": "recorded", "position": position, "error": null}]})
        );
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "e1"),
            ("ce-source", "/tests"),
            ("ce-type", "quota.usage.recorded.v1"),
            ("ce-subject", user.as_str()),
            ("ce-time", "2026-11-20T12:00:00Z"),
            ("content-type", "application/json"),
        ];
        let binary = service
            .post_with(&events(), &headers, r#"{"feature": "interviews"}"#)
            .await;
        assert_eq!(
            binary.json()["results"][0],
            json!({"id": "e1", "status": "duplicate", "position": position, "error": null})
        );
        let batch = service
            .post_with(
                &events(),
                &[("content-type", "application/cloudevents-batch+json")],
                json!([event("e1", &user, "interviews")]).to_string(),
            )
            .await;
        assert_eq!(batch.json()["results"][0]["status"], "duplicate");
        let check = service
            .get(&path(&user, "check?feature=interviews"))
            .await
            .json();
        assert_eq!(check["used"], 1);
    });
}

#[test]
fn a_batch_is_answered_event_by_event() {
    with_service(|service| async move {
        let user = subject();
        let batch = json!([
            event("b1", &user, "interviews"), event("b1", &user, "interviews"), event("b1", &user, "resume_edits"),
            event("b2", &user, "nope"), {"specversion": "1.0", "id": "b3"}, 7,
        ]);
        let answer = service
            .post_with(
                &events(),
                &[("content-type", "application/cloudevents-batch+json")],
                batch.to_string(),
            )
            .await;
        assert_eq!(answer.status, 200);
        let seen: Vec<String> = answer.json()["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| {
                format!(
                    "{} {} {}",
                    result["id"],
                    result["status"].as_str().unwrap(),
                    result["error"]["code"]
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                r#""b1" recorded null"#,
                r#""b1" duplicate null"#,
                r#""b1" rejected "idempotency_conflict""#,
                r#""b2" rejected "unknown_feature""#,
                r#""b3" rejected "invalid_event""#,
                r#"null rejected "malformed""#,
            ]
        );
        let empty = service
            .post_with(
                &events(),
                &[("content-type", "application/cloudevents-batch+json")],
                "[]",
            )
            .await;
        assert_eq!((empty.status, empty.json()), (200, json!({"results": []})));
    });
}

#[test]
fn a_single_event_that_is_refused_answers_a_problem() {
    with_service(|service| async move {
        let user = subject();
        structured(service, &event("s1", &user, "interviews")).await;
        let conflict = structured(service, &event("s1", &user, "resume_edits")).await;
        assert_eq!(
            conflict.problem(),
            (409, "idempotency_conflict".into(), "id".into())
        );
        let unknown = structured(service, &event("s2", &user, "nope")).await;
        assert_eq!(
            unknown.problem(),
            (422, "unknown_feature".into(), "data.feature".into())
        );
        let mut foreign = event("s3", &user, "interviews");
        foreign["product"] = json!("resume-builder");
        assert_eq!(
            structured(service, &foreign).await.problem(),
            (422, "wrong_product".into(), "product".into())
        );
        for (headers, body) in [
            (vec![("content-type", "application/cloudevents+json")], "{"),
            (vec![("content-type", "application/cloudevents+json")], "{}"),
            (
                vec![("content-type", "application/json")],
                r#"{"feature": "interviews"}"#,
            ),
            (
                vec![("content-type", "application/cloudevents-batch+json")],
                "{}",
            ),
            (vec![], "hello"),
        ] {
            let answer = service.post_with(&events(), &headers, body).await;
            assert_eq!(
                answer.problem(),
                (400, "malformed".into(), String::new()),
                "{headers:?} {body}"
            );
        }
        let mut large = event("s4", &user, "interviews");
        large["data"]["resource"] = json!("x".repeat(65 * 1024));
        assert_eq!(
            structured(service, &large).await.problem().1,
            "event_too_large"
        );
    });
}

/// A catalog with these features, each counted.
fn catalog(product: &str, features: &[&str]) -> String {
    let features = features
        .iter()
        .map(|feature| format!("[features.{feature}]\nmessage = \"no more\"\n"));
    format!(
        "product = \"{product}\"\ntime_zone = \"UTC\"\n{}[plans.free]\nrank = 0\n[plans.free.limits]\n",
        features.collect::<String>()
    )
}

/// A feature that another node published a moment ago is known at once, of one event and of many.
///
/// Failed when events were judged by the catalogs at hand alone (`unknown_feature`).
#[test]
fn what_another_node_published_a_moment_ago_is_known() {
    with_service(|service| async move {
        let product = format!("p-{}", uuid::Uuid::new_v4().simple());
        let here = service.host.service();
        let text = catalog(&product, &["one"]);
        here.publish_catalog(&product, &text, None).await.unwrap();
        let url = format!("/v1/products/{product}/events");
        let elsewhere = async |features: &[&str]| {
            let text = catalog(&product, features);
            publish_catalog(&service.ledger, &product, &text, None)
                .await
                .unwrap();
        };
        elsewhere(&["one", "two"]).await;
        let user = subject();
        let single = [("content-type", "application/cloudevents+json")];
        let told = service
            .post_with(&url, &single, event("e2", &user, "two").to_string())
            .await;
        assert_eq!(told.status, 200, "{}", told.text);
        elsewhere(&["one", "two", "three"]).await;
        let batch = [("content-type", "application/cloudevents-batch+json")];
        let events = json!([event("e3", &user, "three"), event("e4", &user, "four")]);
        let told = service.post_with(&url, &batch, events.to_string()).await;
        let results = told.json()["results"].clone();
        assert_eq!(results[0]["status"], "recorded", "{results}");
        assert_eq!(results[1]["error"]["code"], "unknown_feature", "{results}");
    });
}
