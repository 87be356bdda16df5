//! ApplyX's own usage page, and what its clients see beside it.

use crate::harness::{Answer, Fixture, path, send, subject, token, with_service};
use reqwest::Method;
use serde_json::json;

const USAGE: &str = "/api/v1/subscription/usage";

async fn usage(service: &Fixture, user: &str) -> Answer {
    let request = service.request(Method::GET, USAGE);
    send(request.bearer_auth(token("applyx", user))).await
}

async fn tell(service: &Fixture, user: &str, kind: &str, data: serde_json::Value) {
    let id = format!("{kind}-{user}");
    let event = json!({"specversion": "1.0", "type": format!("quota.{kind}.v1"), "id": id, "source": "/t", "subject": user, "data": data});
    let headers = [("Content-Type", "application/cloudevents+json")];
    let told = service
        .post_with("/v1/products/applyx/events", &headers, event.to_string())
        .await;
    assert_eq!(told.status, 200, "{}", told.text);
}

#[test]
fn the_page_is_the_seeds_to_the_letter() {
    with_service(|service| async move {
        let user = subject();
        let fresh = usage(service, &user).await;
        assert_eq!(
            (fresh.status, fresh.header("content-type")),
            (200, "application/json")
        );
        assert_eq!(
            fresh.text,
            r#"{"plan":"free","resume_edits":{"used":0,"limit":1},"resume_analyses":{"used":0,"limit":1},"interviews":{"used":0,"limit":1},"is_limit_reached":{"resume_edits":false,"resume_analyses":false,"interviews":false}}"#
        );
        let used = service
            .post(&path(&user, "consume"), &json!({"feature": "resume_edits"}))
            .await
            .json();
        let page = send(
            service
                .request(
                    Method::GET,
                    &format!("{USAGE}?at_least={}", used["position"].as_str().unwrap()),
                )
                .bearer_auth(token("applyx", &user)),
        )
        .await;
        assert_eq!(
            page.text,
            r#"{"plan":"free","resume_edits":{"used":1,"limit":1},"resume_analyses":{"used":0,"limit":1},"interviews":{"used":0,"limit":1},"is_limit_reached":{"resume_edits":true,"resume_analyses":false,"interviews":false}}"#
        );
        assert_eq!(
            page.header("x-quota-position"),
            used["position"].as_str().unwrap()
        );
        assert!(page.header("x-quota-age-ms").parse::<u64>().is_ok());
        // A hold reaches a limit, and is no usage.
        service
            .post(
                &path(&user, "consume"),
                &json!({"feature": "interviews", "hold_seconds": 60}),
            )
            .await;
        let held = usage(service, &user).await.json();
        assert_eq!(
            (
                &held["interviews"]["used"],
                &held["is_limit_reached"]["interviews"]
            ),
            (&json!(0), &json!(true))
        );

        tell(
            service,
            &user,
            "subscription.purchased",
            json!({"plan": "pro", "payment_id": user, "amount": 49900, "currency": "INR"}),
        )
        .await;
        assert_eq!(
            usage(service, &user).await.text,
            r#"{"plan":"pro","resume_edits":{"used":0,"limit":-1},"resume_analyses":{"used":0,"limit":-1},"interviews":{"used":0,"limit":10},"is_limit_reached":{"resume_edits":false,"resume_analyses":false,"interviews":false}}"#
        );
    });
}

#[test]
fn who_skips_limits_has_reached_none() {
    with_service(|service| async move {
        let user = subject();
        service
            .post(&path(&user, "consume"), &json!({"feature": "resume_edits"}))
            .await;
        tell(
            service,
            &user,
            "subject.flagged",
            json!({"flag": "superadmin", "value": true}),
        )
        .await;
        let page = usage(service, &user).await.json();
        assert_eq!(
            (
                &page["resume_edits"]["used"],
                &page["is_limit_reached"]["resume_edits"]
            ),
            (&json!(1), &json!(false))
        );
    });
}

#[test]
fn the_page_is_for_its_user_and_for_services_that_may_check() {
    with_service(|service| async move {
        let user = subject();
        let with = |key: &str| {
            service
                .request(Method::GET, USAGE)
                .bearer_auth(key)
                .header("X-Quota-Subject", &user)
        };
        let check = service.key("applyx", "check").await;
        assert_eq!(send(with(&check)).await.status, 200);
        let consume = service
            .key("applyx", "consume,read,publish,admin,gateway")
            .await;
        assert_eq!(
            send(with(&consume)).await.problem(),
            (403, "missing_scope".into(), String::new())
        );
        let stranger = service.key("resume-builder", "check").await;
        assert_eq!(
            send(with(&stranger)).await.problem(),
            (403, "wrong_product".into(), String::new())
        );
        let nobody = service.request(Method::GET, USAGE).bearer_auth(&check);
        assert_eq!(
            send(nobody).await.problem(),
            (422, "invalid_request".into(), "X-Quota-Subject".into())
        );
        assert_eq!(
            send(service.request(Method::GET, USAGE)).await.problem().0,
            401
        );
        assert_eq!(
            send(with(&token("resume-builder", &user)))
                .await
                .problem()
                .0,
            401
        );
        assert_eq!(
            send(with(&token("applyx", "somebody"))).await.problem(),
            (403, "wrong_subject".into(), String::new())
        );
        let posted = send(service.request(Method::POST, USAGE).bearer_auth(&check)).await;
        assert_eq!(
            (posted.problem().0, posted.header("allow")),
            (405, "GET,HEAD")
        );
        let odd = send(
            service
                .request(Method::GET, &format!("{USAGE}?x=1"))
                .bearer_auth(token("applyx", &user)),
        )
        .await;
        assert_eq!(odd.problem(), (422, "invalid_request".into(), "x".into()));
        let early = send(
            service
                .request(Method::GET, &format!("{USAGE}?at_least=999:1"))
                .bearer_auth(token("applyx", &user)),
        )
        .await;
        assert_eq!(
            early.problem(),
            (422, "wrong_partition".into(), "at_least".into())
        );
    });
}

#[test]
fn no_two_products_have_one_page() {
    with_service(|service| async move {
        let catalog = |path: &str| {
            format!(
                "product = \"copycat\"\ntime_zone = \"UTC\"\n[features.f]\n[plans.free]\nrank = 0\n[plans.free.limits]\nf = {{ limit = 2 }}\n[usage_page]\npath = \"{path}\"\nfeatures = [\"f\"]\n"
            )
        };
        let put = async |path: &str| {
            let request = service
                .request(Method::PUT, "/v1/products/copycat/catalog")
                .bearer_auth(&service.key);
            send(
                request
                    .header("Content-Type", "application/toml")
                    .body(catalog(path)),
            )
            .await
        };
        assert_eq!(
            put(USAGE).await.problem(),
            (422, "invalid_catalog".into(), "usage_page.path".into())
        );
        for odd in ["/v1/products/x", "usage", "/usage/", "/a//b", "/a%2fb"] {
            assert_eq!(
                put(odd).await.problem(),
                (422, "invalid_catalog".into(), "usage_page.path".into()),
                "{odd}"
            );
        }
        assert_eq!(put("/api/v1/copycat/usage").await.status, 200);
        let request = service
            .request(Method::GET, "/api/v1/copycat/usage")
            .bearer_auth(&service.key);
        let page = send(request.header("X-Quota-Subject", "u")).await;
        assert_eq!(
            page.text,
            r#"{"plan":"free","f":{"used":0,"limit":2},"is_limit_reached":{"f":false}}"#
        );
    });
}

#[test]
fn a_download_on_free_prompts_an_offer() {
    with_service(|service| async move {
        let user = subject();
        let ask = async || {
            let check = service
                .get(&path(&user, "check?feature=resume_downloads"))
                .await
                .json();
            let consume = service
                .post(
                    &path(&user, "consume"),
                    &json!({"feature": "resume_downloads"}),
                )
                .await
                .json();
            assert_eq!(
                (&check["allowed"], &consume["allowed"]),
                (&json!(true), &json!(true))
            );
            (check["prompt"].clone(), consume["prompt"].clone())
        };
        assert_eq!(
            ask().await,
            (json!("post_download"), json!("post_download"))
        );
        tell(
            service,
            &user,
            "subscription.purchased",
            json!({"plan": "basic", "payment_id": user, "amount": 9900, "currency": "INR"}),
        )
        .await;
        assert_eq!(ask().await, (json!(null), json!(null)));
    });
}
