//! Users with tokens: each reads and acts for itself, and nowhere else.

use crate::harness::{Answer, Fixture, secret, send, subject, token, with_service};
use crate::jwt::{hs256, now};
use reqwest::Method;
use serde_json::{Value, json};

async fn ask(service: &Fixture, method: Method, path: &str, token: &str) -> Answer {
    let body = json!({"feature": "resume_edits"}).to_string();
    send(service.request(method, path).bearer_auth(token).body(body)).await
}

#[test]
fn a_user_reads_its_own_and_nobody_elses() {
    with_service(|service| async move {
        let (user, other) = (subject(), subject());
        let own = token("applyx", &user);
        for rest in ["check?feature=resume_edits", "entitlements", "ledger"] {
            let path = |subject: &str| format!("/v1/products/applyx/subjects/{subject}/{rest}");
            assert_eq!(
                ask(service, Method::GET, &path(&user), &own).await.status,
                200,
                "{rest}"
            );
            let refused = ask(service, Method::GET, &path(&other), &own).await;
            assert_eq!(
                refused.problem(),
                (403, "wrong_subject".into(), String::new()),
                "{rest}"
            );
            // A token of another product, one that has expired, and one that somebody else has signed.
            let expired = hs256(&secret("applyx"), &json!({"sub": user, "exp": now() - 60}));
            let forged = hs256("guessed", &json!({"sub": user, "exp": now() + 60}));
            for bad in [
                token("resume-builder", &user),
                expired,
                forged,
                "a.b.c".to_owned(),
            ] {
                let refused = ask(service, Method::GET, &path(&user), &bad).await;
                assert_eq!(
                    refused.problem(),
                    (401, "unauthorized".into(), String::new()),
                    "{rest}"
                );
                assert!(refused.header("www-authenticate").starts_with("Bearer"));
            }
        }
    });
}

#[test]
fn what_is_for_services_is_not_for_users() {
    with_service(|service| async move {
        let user = subject();
        let own = token("applyx", &user);
        let of = |rest: &str| format!("/v1/products/applyx/subjects/{user}/{rest}");
        let product = |rest: &str| format!("/v1/products/applyx/{rest}");
        for (method, path) in [
            (Method::POST, of("consume")),
            (Method::POST, of("holds/h/confirm")),
            (Method::POST, of("holds/h/release")),
            (Method::POST, of("adjustments")),
            (Method::POST, product("consume")),
            (Method::POST, product("check")),
            (Method::POST, product("events")),
            (Method::GET, product("catalog")),
            (Method::PUT, product("catalog")),
        ] {
            let refused = ask(service, method.clone(), &path, &own).await;
            assert_eq!(
                refused.problem(),
                (403, "users_may_not".into(), String::new()),
                "{path}"
            );
            let stranger = token("candidate-chat", &user);
            assert_eq!(
                ask(service, method, &path, &stranger).await.status,
                401,
                "{path}"
            );
        }
        let ledger = service.get(&of("ledger")).await.json();
        assert_eq!(ledger["events"], json!([]), "something was recorded");
    });
}

#[test]
fn a_token_opens_no_product_that_is_not_there() {
    with_service(|service| async move {
        let path = "/v1/products/no-such-product/subjects/u/check?feature=f";
        let refused = ask(service, Method::GET, path, &token("applyx", "u")).await;
        assert_eq!(refused.status, 401);
    });
}

#[test]
fn a_users_name_is_decoded_once_in_the_path() {
    with_service(|service| async move {
        let user = format!("{}/ä b", subject());
        let path = format!(
            "/v1/products/applyx/subjects/{}/entitlements",
            user.replace('/', "%2F")
                .replace('ä', "%C3%A4")
                .replace(' ', "%20")
        );
        let told = ask(service, Method::GET, &path, &token("applyx", &user)).await;
        assert_eq!(
            (told.status, &told.json()["subject"]),
            (200, &Value::from(user))
        );
    });
}
