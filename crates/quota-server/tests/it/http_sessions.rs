//! Candidate Chat's sessions, as its clients meet them.

use crate::harness::{Answer, Fixture, send, subject, token, with_service};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SESSIONS: &str = "/api/v1/candidate-chat/sessions";
const CREATION: &str = "resume_creation";

async fn open(service: &Fixture, user: &str, kind: &str, force_new: bool) -> Answer {
    let body = json!({"session_type": kind, "force_new": force_new});
    as_user(service, Method::POST, SESSIONS, user, &body).await
}

async fn as_user(
    service: &Fixture,
    method: Method,
    path: &str,
    user: &str,
    body: &Value,
) -> Answer {
    let request = service.request(method, path).json(body);
    send(request.bearer_auth(token("candidate-chat", user))).await
}

async fn complete(service: &Fixture, user: &str, session: &str, resume: &str) -> Answer {
    let path = format!("{SESSIONS}/{session}/complete");
    as_user(
        service,
        Method::POST,
        &path,
        user,
        &json!({"resume_id": resume}),
    )
    .await
}

async fn get(service: &Fixture, user: &str, session: &str) -> Answer {
    let path = format!("{SESSIONS}/{session}");
    as_user(service, Method::GET, &path, user, &json!({})).await
}

/// The id of a session that was answered with this status.
fn id(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text);
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn types(service: &Fixture, user: &str) -> Vec<String> {
    let path = format!("/v1/products/candidate-chat/subjects/{user}/ledger");
    let page = service.get(&path).await.json();
    let events = page["events"].as_array().unwrap().iter();
    events
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

async fn become_pro(service: &Fixture, user: &str) {
    let event = json!({"specversion": "1.0", "type": "quota.subscription.purchased.v1", "id": user, "source": "/t",
        "subject": user, "data": {"plan": "pro", "payment_id": user, "amount": 1, "currency": "INR"}});
    let headers = [("Content-Type", "application/cloudevents+json")];
    let path = "/v1/products/candidate-chat/events";
    let told = service.post_with(path, &headers, event.to_string()).await;
    assert_eq!(told.status, 200, "{}", told.text);
}

fn assert_refused(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (403, "application/json")
    );
    assert_eq!(
        answer.text,
        r#"{"error":{"code":"UPGRADE_REQUIRED","message":"Upgrade to premium to create multiple resumes with AIVI bot."}}"#
    );
    assert!(!answer.header("x-quota-position").is_empty());
}

#[test]
fn a_session_is_opened_completed_and_read() {
    with_service(|service| async move {
        let user = subject();
        let opened = open(service, &user, CREATION, false).await;
        let session = id(&opened, 201);
        assert!(uuid::Uuid::parse_str(&session).is_ok());
        let body = opened.json();
        let members: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            [
                "id",
                "session_type",
                "status",
                "resume_id",
                "created_at",
                "completed_at"
            ]
        );
        assert_eq!(
            (
                &body["session_type"],
                &body["status"],
                &body["resume_id"],
                &body["completed_at"]
            ),
            (
                &json!(CREATION),
                &json!("active"),
                &json!(null),
                &json!(null)
            )
        );
        assert_eq!(opened.header("x-quota-age-ms"), "0");
        let position = opened.header("x-quota-position").to_owned();
        let read = as_user(
            service,
            Method::GET,
            &format!("{SESSIONS}/{session}?at_least={position}"),
            &user,
            &json!({}),
        )
        .await;
        assert_eq!((read.status, read.json()), (200, body.clone()));
        assert_eq!(read.header("x-quota-position"), position);
        assert!(read.header("x-quota-age-ms").parse::<u64>().is_ok());

        let again = open(service, &user, CREATION, false).await;
        assert_eq!(
            (again.status, again.json()),
            (201, body),
            "the same session"
        );

        let done = complete(service, &user, &session, "r1").await;
        assert_eq!(id(&done, 200), session);
        assert_eq!(
            (&done.json()["status"], &done.json()["resume_id"]),
            (&json!("completed"), &json!("r1"))
        );
        assert!(done.json()["completed_at"].is_string());
        assert_eq!(get(service, &user, &session).await.json(), done.json());
        let twice = complete(service, &user, &session, "r1").await;
        assert_eq!((twice.status, twice.text), (200, done.text));
        let other = complete(service, &user, &session, "r2").await;
        assert_eq!(
            other.problem(),
            (409, "session_completed".into(), "resume_id".into())
        );
        assert_eq!(
            types(service, &user).await,
            ["session.created", "session.completed"]
        );
    });
}

#[test]
fn free_gets_one_completed_resume_and_uploads_always() {
    with_service(|service| async move {
        let user = subject();
        // Started sessions do not count, however many there are.
        let first = id(&open(service, &user, CREATION, true).await, 201);
        let second = id(&open(service, &user, CREATION, true).await, 201);
        assert_ne!(first, second);
        assert_eq!(
            get(service, &user, &first).await.json()["status"],
            "superseded"
        );
        let late = complete(service, &user, &first, "r1").await;
        assert_eq!(
            late.problem(),
            (409, "session_superseded".into(), String::new())
        );
        complete(service, &user, &second, "r1").await;

        for force_new in [false, true] {
            assert_refused(&open(service, &user, CREATION, force_new).await);
        }
        let uploads = [
            id(&open(service, &user, "resume_upload", false).await, 201),
            id(&open(service, &user, "resume_upload", true).await, 201),
        ];
        assert_ne!(uploads[0], uploads[1]);
        complete(service, &user, &uploads[1], "r2").await;
        id(&open(service, &user, "resume_upload", false).await, 201);

        become_pro(service, &user).await;
        for _ in 0..3 {
            let session = id(&open(service, &user, CREATION, false).await, 201);
            complete(service, &user, &session, &format!("r-{session}")).await;
        }
    });
}

#[test]
fn a_resume_that_a_service_tells_of_counts_and_an_upload_does_not() {
    with_service(|service| async move {
        for (source, allowed) in [("upload", true), ("aivi_bot", false)] {
            let user = subject();
            let event = json!({"specversion": "1.0", "type": "quota.resource.completed.v1", "id": "done", "source": "/t",
                "subject": user, "data": {"resource": "r1", "source": source}});
            let headers = [("Content-Type", "application/cloudevents+json")];
            let path = "/v1/products/candidate-chat/events";
            assert_eq!(
                service
                    .post_with(path, &headers, event.to_string())
                    .await
                    .status,
                200
            );
            let answer = open(service, &user, CREATION, false).await;
            assert_eq!(answer.status == 201, allowed, "{source}");
        }
    });
}

#[test]
fn a_refused_force_new_closes_nothing_and_an_active_session_needs_no_gate() {
    with_service(|service| async move {
        let user = subject();
        let done = id(&open(service, &user, CREATION, false).await, 201);
        complete(service, &user, &done, "r1").await;
        become_pro(service, &user).await;
        let active = id(&open(service, &user, CREATION, false).await, 201);
        let event = json!({"specversion": "1.0", "type": "quota.subscription.cancelled.v1", "id": "end", "source": "/t",
            "subject": user, "data": {"payment_id": user, "at_period_end": false}});
        let headers = [("Content-Type", "application/cloudevents+json")];
        service
            .post_with(
                "/v1/products/candidate-chat/events",
                &headers,
                event.to_string(),
            )
            .await;
        assert_refused(&open(service, &user, CREATION, true).await);
        assert_eq!(
            get(service, &user, &active).await.json()["status"],
            "active"
        );
        assert_eq!(
            id(&open(service, &user, CREATION, false).await, 201),
            active,
            "no gate"
        );
    });
}

#[test]
fn a_race_opens_one_session() {
    with_service(|service| async move {
        for _ in 0..3 {
            let user = subject();
            let racers = (0..64).map(|_| open(service, &user, CREATION, false));
            let answers = join_all(racers).await;
            let ids: BTreeSet<String> = answers.iter().map(|answer| id(answer, 201)).collect();
            assert_eq!(ids.len(), 1, "{ids:?}");
            assert_eq!(types(service, &user).await, ["session.created"]);
            let session = ids.first().unwrap();
            // All complete it, half of them with another resume: one resume wins.
            let racers = (0..64)
                .map(|n| complete(service, &user, session, if n % 2 == 0 { "a" } else { "b" }));
            let answers = join_all(racers).await;
            let good: BTreeSet<String> = answers
                .iter()
                .filter(|answer| answer.status == 200)
                .map(|answer| answer.text.clone())
                .collect();
            assert_eq!(good.len(), 1);
            assert!(
                answers
                    .iter()
                    .all(|answer| [200, 409].contains(&answer.status))
            );
            assert_eq!(
                types(service, &user).await,
                ["session.created", "session.completed"]
            );
        }
    });
}

#[test]
fn services_act_for_the_user_that_they_name() {
    with_service(|service| async move {
        let user = subject();
        let body = json!({"session_type": CREATION}).to_string();
        let with = |key: String, method: Method, path: String| {
            service
                .request(method, &path)
                .bearer_auth(key)
                .body(body.clone())
        };
        let consume = service.key("candidate-chat", "consume").await;
        let check = service.key("candidate-chat", "check").await;
        let opened = send(
            with(consume.clone(), Method::POST, SESSIONS.into()).header("X-Quota-Subject", &user),
        )
        .await;
        let one = format!("{SESSIONS}/{}", id(&opened, 201));
        let read =
            send(with(check.clone(), Method::GET, one.clone()).header("X-Quota-Subject", &user))
                .await;
        assert_eq!(read.json(), opened.json());
        for (key, method, path) in [
            (&check, Method::POST, SESSIONS.to_owned()),
            (&check, Method::POST, format!("{one}/complete")),
            (&consume, Method::GET, one.clone()),
        ] {
            let refused =
                send(with(key.clone(), method, path.clone()).header("X-Quota-Subject", &user))
                    .await;
            assert_eq!(
                refused.problem(),
                (403, "missing_scope".into(), String::new()),
                "{path}"
            );
        }
        let nobody = send(with(consume.clone(), Method::POST, SESSIONS.into())).await;
        assert_eq!(
            nobody.problem(),
            (422, "invalid_request".into(), "X-Quota-Subject".into())
        );
        let odd =
            send(with(consume, Method::POST, SESSIONS.into()).header("X-Quota-Subject", "")).await;
        assert_eq!(
            odd.problem(),
            (422, "invalid_request".into(), "X-Quota-Subject".into())
        );
        let stranger = service.key("applyx", "consume").await;
        let refused =
            send(with(stranger, Method::POST, SESSIONS.into()).header("X-Quota-Subject", &user))
                .await;
        assert_eq!(
            refused.problem(),
            (403, "wrong_product".into(), String::new())
        );
        for missing in [
            send(service.request(Method::POST, SESSIONS)).await,
            send(service.request(Method::GET, &one)).await,
        ] {
            assert_eq!(missing.problem().0, 401);
        }
        // A user acts for itself alone.
        let request = service
            .request(Method::GET, &one)
            .bearer_auth(token("candidate-chat", "somebody"));
        let refused = send(request.header("X-Quota-Subject", &user)).await;
        assert_eq!(
            refused.problem(),
            (403, "wrong_subject".into(), String::new())
        );
    });
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_wrong_is_named() {
    with_service(|service| async move {
        let (user, other) = (subject(), subject());
        let session = id(&open(service, &user, CREATION, false).await, 201);
        for unknown in [
            uuid::Uuid::new_v4().to_string(),
            "x".to_owned(),
            "x".repeat(200),
        ] {
            assert_eq!(
                get(service, &user, &unknown).await.problem(),
                (404, "unknown_session".into(), String::new())
            );
            assert_eq!(
                complete(service, &user, &unknown, "r").await.problem().0,
                404
            );
        }
        assert_eq!(
            get(service, &other, &session).await.problem().0,
            404,
            "another subject's"
        );
        assert_eq!(
            complete(service, &other, &session, "r").await.problem().0,
            404,
            "another subject's"
        );

        let complete = format!("{SESSIONS}/{session}/complete");
        for (path, body, field) in [
            (SESSIONS, json!({}), "session_type"),
            (SESSIONS, json!({"session_type": 1}), "session_type"),
            (
                SESSIONS,
                json!({"session_type": "resume_burning"}),
                "session_type",
            ),
            (
                SESSIONS,
                json!({"session_type": CREATION, "force_new": "yes"}),
                "force_new",
            ),
            (
                SESSIONS,
                json!({"session_type": CREATION, "force_new": null}),
                "force_new",
            ),
            (
                SESSIONS,
                json!({"session_type": CREATION, "other": 1}),
                "other",
            ),
            (complete.as_str(), json!({}), "resume_id"),
            (complete.as_str(), json!({"resume_id": 7}), "resume_id"),
            (complete.as_str(), json!({"resume_id": ""}), "resume_id"),
            (complete.as_str(), json!({"resume_id": " r"}), "resume_id"),
            (
                complete.as_str(),
                json!({"resume_id": "r", "source": "upload"}),
                "source",
            ),
        ] {
            let (status, _, named) = as_user(service, Method::POST, path, &user, &body)
                .await
                .problem();
            assert_eq!((status, named.as_str()), (422, field), "{body}");
        }
        let broken = service
            .request(Method::POST, SESSIONS)
            .bearer_auth(token("candidate-chat", &user))
            .body("{");
        assert_eq!(
            send(broken).await.problem(),
            (400, "malformed".into(), String::new())
        );

        for (query, told) in [
            (
                "at_least=x",
                (422, "invalid_position".into(), "at_least".into()),
            ),
            (
                "at_leest=1:1",
                (422, "invalid_request".into(), "at_leest".into()),
            ),
        ] {
            let path = format!("{SESSIONS}/{session}?{query}");
            assert_eq!(
                as_user(service, Method::GET, &path, &user, &json!({}))
                    .await
                    .problem(),
                told
            );
        }
        let opened = open(service, &user, CREATION, false).await;
        let (partition, _) = opened.header("x-quota-position").split_once(':').unwrap();
        for (method, path) in [
            (Method::GET, format!("{SESSIONS}/{session}")),
            (Method::POST, SESSIONS.to_owned()),
        ] {
            let path = format!("{path}?at_least={partition}:999999999");
            let early = as_user(
                service,
                method,
                &path,
                &user,
                &json!({"session_type": CREATION}),
            )
            .await;
            assert_eq!(
                early.problem(),
                (409, "position_not_reached".into(), "at_least".into())
            );
        }
        // A product without sessions has no such page, and the collection has no GET.
        let none = service
            .request(Method::POST, "/api/v1/applyx/sessions")
            .bearer_auth(token("applyx", &user));
        assert_eq!(
            send(none.json(&json!({"session_type": CREATION})))
                .await
                .problem()
                .0,
            404
        );
        assert_eq!(
            as_user(service, Method::GET, SESSIONS, &user, &json!({}))
                .await
                .problem()
                .0,
            405
        );
    });
}
