//! Consume, check, holds, adjustments, entitlements and the ledger, as a client meets them.

use crate::harness::{Answer, Fixture, PRODUCT, path, subject, with_service};
use serde_json::{Value, json};

/// A body without what changes from one telling to the next.
fn lasting(answer: &Answer) -> Value {
    let mut body = answer.json();
    let members = body.as_object_mut().unwrap();
    assert!(members.shift_remove("as_of").is_some() && members.shift_remove("age_ms").is_some());
    body
}

async fn consume(service: &Fixture, subject: &str, key: Option<&str>, body: Value) -> Answer {
    let headers: Vec<(&str, &str)> = key
        .into_iter()
        .map(|key| ("Idempotency-Key", key))
        .collect();
    service
        .post_with(&path(subject, "consume"), &headers, body.to_string())
        .await
}

#[test]
fn a_limit_is_used_up_and_the_refusal_is_the_products_own() {
    with_service(|service| async move {
        let user = subject();
        let first = consume(service, &user, None, json!({"feature": "resume_edits"})).await;
        assert_eq!(
            (first.status, first.header("content-type")),
            (200, "application/json")
        );
        let body = first.json();
        assert_eq!(
            (&body["allowed"], &body["used"], &body["remaining"]),
            (&json!(true), &json!(1), &json!(0))
        );
        assert_eq!(
            (&body["subject"], &body["code"], &body["denial"]),
            (&json!(user), &json!(null), &json!(null))
        );

        let second = consume(service, &user, None, json!({"feature": "resume_edits"})).await;
        let body = second.json();
        assert_eq!(
            (second.status, &body["code"]),
            (402, &json!("UPGRADE_REQUIRED"))
        );
        assert_eq!(body["message"], "Resume limit reached");
        assert_eq!(body["evidence"].as_array().unwrap().len(), 1);
        assert_eq!(body["denial"]["status"], 402);
        assert_eq!(body["denial"]["body"]["error"]["code"], "LIMIT_REACHED");
        let offers: Vec<&str> = body["upgrade"]["plans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|plan| plan["id"].as_str().unwrap())
            .collect();
        assert_eq!(offers, ["basic", "pro", "pro_plus"]);

        let check = service
            .get(&path(&user, "check?feature=resume_edits"))
            .await;
        let told = check.json();
        assert_eq!(
            (check.status, &told["allowed"], &told["used"]),
            (200, &json!(false), &json!(1))
        );
        assert_eq!(told["evidence"], body["evidence"]);
    });
}

#[test]
fn the_members_of_a_decision_stand_in_the_documented_order() {
    with_service(|service| async move {
        let answer = consume(service, &subject(), None, json!({"feature": "interviews"})).await;
        let body = answer.json();
        let members: Vec<&String> = body.as_object().unwrap().keys().collect();
        let documented = "allowed feature subject plan used held limit remaining unlimited resets_at reason code message \
                          evidence upgrade denial prompt hold catalog_version position as_of age_ms";
        assert_eq!(members, documented.split_whitespace().collect::<Vec<_>>());
    });
}

#[test]
fn a_retry_gets_the_first_outcome_allowed_or_denied() {
    with_service(|service| async move {
        let user = subject();
        let body = json!({"feature": "resume_edits"});
        for (key, status) in [("k1", 200), ("k2", 402)] {
            let first = consume(service, &user, Some(key), body.clone()).await;
            assert_eq!(
                (first.status, first.header("idempotent-replayed")),
                (status, "")
            );
            // Quoted or bare, and with the defaults written out, it is the same request.
            let again = consume(
                service,
                &user,
                Some(&format!("\"{key}\"")),
                json!({"amount": 1, "feature": "resume_edits"}),
            )
            .await;
            assert_eq!(
                (again.status, again.header("idempotent-replayed")),
                (status, "true")
            );
            assert_eq!(lasting(&first).to_string(), lasting(&again).to_string());
        }
        let other = consume(
            service,
            &user,
            Some("k1"),
            json!({"feature": "resume_analyses"}),
        )
        .await;
        assert_eq!(
            other.problem(),
            (422, "idempotency_conflict".into(), "Idempotency-Key".into())
        );
    });
}

#[test]
fn what_cannot_be_asked_is_named() {
    with_service(|service| async move {
        let user = subject();
        for (body, field) in [
            (json!({"feature": "resume_edits", "amount": 0}), "amount"),
            (
                json!({"feature": "resume_edits", "amount": 1_000_000_001_i64}),
                "amount",
            ),
            (json!({"feature": "resume_edits", "amount": "1"}), "amount"),
            (json!({"feature": "resume_edits", "amount": 1.5}), "amount"),
            (json!({"amount": 1}), "feature"),
            (json!({"feature": 1}), "feature"),
            (json!({"feature": ""}), "feature"),
            (
                json!({"feature": "resume_edits", "resource": " r"}),
                "resource",
            ),
            (
                json!({"feature": "resume_edits", "hold_seconds": 901}),
                "hold_seconds",
            ),
            (json!({"feature": "resume_edits", "amuont": 1}), "amuont"),
        ] {
            let answer = consume(service, &user, None, body.clone()).await;
            assert_eq!(
                answer.problem(),
                (422, "invalid_request".into(), field.into()),
                "{body}"
            );
        }
        for malformed in [
            "",
            "{",
            "feature=resume_edits",
            "{\"feature\": \"resume_edits\"} x",
        ] {
            let answer = service
                .post_with(&path(&user, "consume"), &[], malformed)
                .await;
            assert_eq!(
                answer.problem(),
                (400, "malformed".into(), String::new()),
                "{malformed}"
            );
        }
        let long = "x".repeat(129);
        let key = consume(
            service,
            &user,
            Some(&long),
            json!({"feature": "resume_edits"}),
        )
        .await;
        assert_eq!(
            key.problem(),
            (422, "invalid_request".into(), "Idempotency-Key".into())
        );
        let unknown = consume(service, &user, None, json!({"feature": "nope"})).await;
        assert_eq!(
            unknown.problem(),
            (422, "unknown_feature".into(), "feature".into())
        );
        let events = service.get(&path(&user, "ledger")).await.json();
        assert_eq!(
            events,
            json!({"events": [], "next": null}),
            "nothing of it was recorded"
        );
    });
}

#[test]
fn subjects_are_percent_encoded_and_keep_their_own_counts() {
    with_service(|service| async move {
        let user = format!("ü/{}%?", subject());
        let encoded = user
            .replace('%', "%25")
            .replace('/', "%2F")
            .replace('?', "%3F")
            .replace('ü', "%C3%BC");
        let answer = consume(service, &encoded, None, json!({"feature": "interviews"})).await;
        assert_eq!(
            (answer.status, &answer.json()["subject"]),
            (200, &json!(user))
        );
        for (bad, expected) in [
            ("%20a", (422, "invalid_request", "subject")),
            ("a%0Ab", (422, "invalid_request", "subject")),
            (
                "x".repeat(129).as_str(),
                (422, "invalid_request", "subject"),
            ),
            ("%FF", (400, "malformed", "")),
        ] {
            let (status, code, field) =
                consume(service, bad, None, json!({"feature": "interviews"}))
                    .await
                    .problem();
            assert_eq!((status, code.as_str(), field.as_str()), expected, "{bad}");
        }
    });
}

#[test]
fn a_batch_decides_each_request_by_itself() {
    with_service(|service| async move {
        let user = subject();
        let requests = json!({"requests": [
            {"id": "a", "subject": user, "feature": "resume_edits"},
            {"id": "b", "subject": user, "feature": "resume_edits"},
            {"id": "a", "subject": user, "feature": "resume_edits"},
            {"subject": user, "feature": "resume_edits"},
            {"id": "c", "subject": user, "feature": "nope"},
            {"id": "d", "subject": user, "feature": "resume_edits", "hold_seconds": 5},
        ]});
        let answer = service
            .post(&format!("/v1/products/{PRODUCT}/consume"), &requests)
            .await;
        assert_eq!(answer.status, 200);
        let body = answer.json();
        let seen: Vec<(Value, Value, Value)> = body["decisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                (
                    item["id"].clone(),
                    item["status"].clone(),
                    item["error"]["field"].clone(),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (json!("a"), json!(200), json!(null)),
                (json!("b"), json!(402), json!(null)),
                (json!("a"), json!(200), json!(null)),
                (json!(null), json!(422), json!("id")),
                (json!("c"), json!(422), json!("feature")),
                (json!("d"), json!(422), json!("hold_seconds")),
            ]
        );
        assert_eq!(
            body["decisions"][0]["position"],
            body["decisions"][2]["position"]
        );
        let empty = service
            .post(
                &format!("/v1/products/{PRODUCT}/consume"),
                &json!({"requests": []}),
            )
            .await;
        assert_eq!(
            (empty.status, empty.json()),
            (200, json!({"decisions": []}))
        );
        let many: Vec<Value> = (0..1001).map(|_| json!({})).collect();
        let many = service
            .post(
                &format!("/v1/products/{PRODUCT}/consume"),
                &json!({"requests": many}),
            )
            .await;
        assert_eq!(
            many.problem(),
            (422, "batch_too_large".into(), "requests".into())
        );
        let single = consume(
            service,
            &user,
            Some("a"),
            json!({"feature": "resume_edits"}),
        )
        .await;
        assert_eq!(
            single.header("idempotent-replayed"),
            "true",
            "ids of batches and keys are one space"
        );
    });
}

#[test]
fn checks_wait_for_nothing_and_take_positions() {
    with_service(|service| async move {
        let user = subject();
        let position = consume(service, &user, None, json!({"feature": "interviews"}))
            .await
            .json()["position"]
            .clone();
        let position = position.as_str().unwrap().to_owned();
        let check = |rest: String| async move {
            service
                .get(&path(&user, &format!("check?feature=interviews{rest}")))
                .await
        };
        assert_eq!(
            check.clone()(format!("&at_least={position}")).await.json()["used"],
            1
        );
        let (partition, offset) = position.split_once(':').unwrap();
        let far = check.clone()(format!(
            "&at_least={partition}:{}",
            offset.parse::<i64>().unwrap() + 1_000_000
        ))
        .await;
        assert_eq!(
            far.problem(),
            (409, "position_not_reached".into(), "at_least".into())
        );
        let other = (partition.parse::<u32>().unwrap() + 1) % 8;
        let wrong = check.clone()(format!("&at_least={other}:0")).await;
        assert_eq!(
            wrong.problem(),
            (422, "wrong_partition".into(), "at_least".into())
        );
        let malformed = check.clone()("&at_least=x".into()).await;
        assert_eq!(
            malformed.problem(),
            (422, "invalid_position".into(), "at_least".into())
        );
        let unknown = check.clone()("&atleast=1:1".into()).await;
        assert_eq!(
            unknown.problem(),
            (422, "invalid_request".into(), "atleast".into())
        );
        assert_eq!(
            check("&amount=x".into()).await.problem(),
            (422, "invalid_request".into(), "amount".into())
        );
    });
}

#[test]
fn a_batch_of_checks_answers_each_by_itself() {
    with_service(|service| async move {
        let (user, other) = (subject(), subject());
        consume(service, &user, None, json!({"feature": "resume_edits"})).await;
        let requests = json!({"requests": [
            {"id": "a", "subject": user, "feature": "resume_edits"},
            {"subject": other, "feature": "resume_edits"},
            {"id": "c", "subject": user, "feature": "nope"},
            {"id": "d", "subject": user, "feature": "resume_edits", "at_least": "x"},
            {"id": "e", "feature": "resume_edits"},
        ]});
        let body = service
            .post(&format!("/v1/products/{PRODUCT}/check"), &requests)
            .await
            .json();
        let seen: Vec<String> = body["decisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                format!(
                    "{} {} {} {}",
                    item["id"], item["status"], item["allowed"], item["error"]["code"]
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                r#""a" 200 false null"#,
                "null 200 true null",
                r#""c" 422 null "unknown_feature""#,
                r#""d" 422 null "invalid_position""#,
                r#""e" 422 null "invalid_request""#,
            ]
        );
    });
}

#[test]
fn a_hold_is_confirmed_or_released_once() {
    with_service(|service| async move {
        let user = subject();
        let held = consume(
            service,
            &user,
            Some("h1"),
            json!({"feature": "interviews", "hold_seconds": 60}),
        )
        .await
        .json();
        let hold = held["hold"].as_str().unwrap().to_owned();
        assert_eq!(
            (&held["used"], &held["held"], &held["remaining"]),
            (&json!(0), &json!(1), &json!(0))
        );
        let again = consume(
            service,
            &user,
            Some("h1"),
            json!({"feature": "interviews", "hold_seconds": 60}),
        )
        .await
        .json();
        assert_eq!(again["hold"], hold.as_str());
        let confirm = service
            .post(&path(&user, &format!("holds/{hold}/confirm")), &json!({}))
            .await;
        let body = confirm.json();
        assert_eq!(
            (confirm.status, &body["hold"], &body["status"]),
            (200, &json!(hold), &json!("confirmed"))
        );
        assert!(body["position"].is_string());
        let twice = service
            .post(&path(&user, &format!("holds/{hold}/confirm")), &json!({}))
            .await;
        assert_eq!((twice.status, twice.json()), (200, body));
        let late = service
            .post(&path(&user, &format!("holds/{hold}/release")), &json!({}))
            .await;
        assert_eq!(late.problem().1, "hold_confirmed");
        assert_eq!(late.status, 409);
        let foreign = service
            .post(
                &path(&subject(), &format!("holds/{hold}/confirm")),
                &json!({}),
            )
            .await;
        assert_eq!(foreign.status, 404);
    });
}

#[test]
fn an_adjustment_raises_the_limit_once() {
    with_service(|service| async move {
        let user = subject();
        consume(service, &user, None, json!({"feature": "resume_edits"})).await;
        let body = json!({"feature": "resume_edits", "amount": 2, "reason": "an apology", "actor": "support-7"});
        let place = path(&user, "adjustments");
        let key = [("Idempotency-Key", "adj")];
        let first = service.post_with(&place, &key, body.to_string()).await;
        let again = service.post_with(&place, &key, body.to_string()).await;
        assert_eq!((first.status, again.status), (200, 200), "{}", first.text);
        assert_eq!(first.json(), again.json());
        let check = service
            .get(&path(&user, "check?feature=resume_edits"))
            .await
            .json();
        assert_eq!(
            (&check["allowed"], &check["limit"], &check["remaining"]),
            (&json!(true), &json!(3), &json!(2))
        );
        let nobody = service
            .post(
                &path(&user, "adjustments"),
                &json!({"feature": "resume_edits", "amount": 2, "reason": "x"}),
            )
            .await;
        assert_eq!(
            nobody.problem(),
            (422, "invalid_request".into(), "actor".into())
        );
    });
}

#[test]
fn entitlements_and_the_ledger_tell_the_whole_story() {
    with_service(|service| async move {
        let user = subject();
        let none = service.get(&path(&user, "entitlements")).await;
        assert_eq!((none.status, &none.json()["plan"]), (200, &json!("free")));
        for _ in 0..3 {
            consume(
                service,
                &user,
                None,
                json!({"feature": "resume_customizations"}),
            )
            .await;
        }
        let body = service.get(&path(&user, "entitlements")).await.json();
        let members: Vec<&String> = body.as_object().unwrap().keys().collect();
        let documented = "product subject plan in_grace superadmin grants features resources position as_of age_ms catalog_version";
        assert_eq!(members, documented.split_whitespace().collect::<Vec<_>>());
        assert_eq!(body["features"]["resume_customizations"]["used"], 3);

        let first = service.get(&path(&user, "ledger?limit=2")).await.json();
        let next = first["next"].as_str().unwrap().to_owned();
        let second = service
            .get(&path(&user, &format!("ledger?limit=2&after={next}")))
            .await
            .json();
        assert_eq!(
            (first["events"].as_array().unwrap().len(), &second["next"]),
            (2, &json!(null))
        );
        let event = &second["events"][0];
        let members: Vec<&String> = event.as_object().unwrap().keys().collect();
        let documented =
            "position subject_seq id source type occurred_at recorded_at catalog_version data hash";
        assert_eq!(members, documented.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            (&event["subject_seq"], &event["type"]),
            (&json!(3), &json!("usage.recorded"))
        );
        assert_eq!(event["position"], body["position"]);
        for (query, expected) in [
            ("limit=0", ("invalid_request", "limit")),
            ("limit=1001", ("invalid_request", "limit")),
            ("after=x", ("invalid_position", "after")),
        ] {
            let (status, code, field) = service
                .get(&path(&user, &format!("ledger?{query}")))
                .await
                .problem();
            assert_eq!(
                (status, code.as_str(), field.as_str()),
                (422, expected.0, expected.1),
                "{query}"
            );
        }
    });
}
