//! Keys: who may do what, and the walls between products.

use crate::harness::{ALL, Fixture, path, send, subject, with_service};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// Every endpoint that wants a key: method, path below the product, the scope it wants.
const CALLS: [(Method, &str, &str); 12] = [
    (Method::POST, "events", "publish"),
    (Method::POST, "subjects/u/consume", "consume"),
    (Method::POST, "consume", "consume"),
    (Method::POST, "subjects/u/holds/h/confirm", "consume"),
    (Method::POST, "subjects/u/holds/h/release", "consume"),
    (Method::GET, "subjects/u/check?feature=interviews", "check"),
    (Method::POST, "check", "check"),
    (Method::GET, "subjects/u/entitlements", "check"),
    (Method::GET, "subjects/u/ledger", "read"),
    (Method::GET, "catalog", "read"),
    (Method::PUT, "catalog", "admin"),
    (Method::POST, "subjects/u/adjustments", "admin"),
];

async fn call(
    service: &Fixture,
    method: Method,
    product: &str,
    rest: &str,
    key: Option<&str>,
) -> (u16, String) {
    let request = service
        .request(method, &format!("/v1/products/{product}/{rest}"))
        .body("not JSON");
    let answer = send(if let Some(key) = key {
        request.bearer_auth(key)
    } else {
        request
    })
    .await;
    let code = if answer.status < 400 || answer.header("content-type") != "application/problem+json"
    {
        String::new()
    } else {
        answer.problem().1
    };
    (answer.status, code)
}

#[test]
fn nothing_is_open_without_a_key_that_we_know() {
    with_service(|service| async move {
        for (method, rest, _) in CALLS {
            for key in [None, Some(""), Some("ql_nobody"), Some("ü")] {
                let (status, code) = call(service, method.clone(), "applyx", rest, key).await;
                assert_eq!(
                    (status, code.as_str()),
                    (401, "unauthorized"),
                    "{rest} {key:?}"
                );
            }
        }
        let answer = send(service.request(Method::GET, "/v1/products/applyx/catalog")).await;
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
        let basic = service
            .request(Method::GET, "/v1/products/applyx/catalog")
            .basic_auth("a", Some(&service.key));
        assert_eq!(send(basic).await.status, 401);
    });
}

#[test]
fn a_key_does_what_its_scopes_say_and_admin_implies_no_other() {
    with_service(|service| async move {
        for scope in ALL.split(',') {
            let key = service.key("applyx", scope).await;
            for (method, rest, wanted) in CALLS {
                let (status, code) =
                    call(service, method.clone(), "applyx", rest, Some(&key)).await;
                let refused = (status, code.as_str()) == (403, "missing_scope");
                assert_eq!(
                    refused,
                    scope != wanted,
                    "{scope} on {method} {rest}: {status} {code}"
                );
                assert_ne!(status, 401);
            }
        }
    });
}

#[test]
fn products_are_walls() {
    with_service(|service| async move {
        let key = service.key("applyx", ALL).await;
        for (method, rest, _) in CALLS {
            for product in ["resume-builder", "no-such-product"] {
                let (status, code) = call(service, method.clone(), product, rest, Some(&key)).await;
                assert_eq!((status, code.as_str()), (403, "wrong_product"), "{rest}");
            }
            if method != Method::PUT {
                let (status, code) = call(
                    service,
                    method.clone(),
                    "no-such-product",
                    rest,
                    Some(&service.key),
                )
                .await;
                assert_eq!((status, code.as_str()), (404, "unknown_product"), "{rest}");
            }
        }
        let early = service.key("no-such-product", ALL).await;
        let (status, code) = call(
            service,
            Method::GET,
            "no-such-product",
            "catalog",
            Some(&early),
        )
        .await;
        assert_eq!((status, code.as_str()), (404, "unknown_product"));
    });
}

#[test]
fn a_new_key_works_and_a_revoked_one_dies_within_five_seconds() {
    with_service(|service| async move {
        let ledger = &service.ledger;
        let (key, id) = (
            quota_server::auth::fresh_key(),
            quota_server::auth::fresh_key_id(),
        );
        let digest = quota_server::auth::digest(&key);
        ledger
            .create_key(&id, "applyx", &["check".to_owned()], &digest)
            .await
            .unwrap();
        let turned = |status: u16| {
            let key = key.clone();
            async move {
                let begun = Instant::now();
                let path = path("u", "check?feature=interviews");
                while send(service.request(Method::GET, &path).bearer_auth(&key))
                    .await
                    .status
                    != status
                {
                    assert!(
                        begun.elapsed() < Duration::from_secs(5),
                        "not {status} in time"
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        turned(200).await;
        assert!(ledger.revoke_key(&id).await.unwrap());
        turned(401).await;
    });
}

#[test]
fn another_products_subject_of_the_same_name_is_another_subject() {
    with_service(|service| async move {
        let user = subject();
        service
            .post(&path(&user, "consume"), &json!({"feature": "resume_edits"}))
            .await;
        let other = service
            .get(&format!(
                "/v1/products/resume-builder/subjects/{user}/ledger"
            ))
            .await
            .json();
        assert_eq!(other["events"], json!([]));
    });
}
