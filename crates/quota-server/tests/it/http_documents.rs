//! Catalogs, probes, metrics, and the pages that say what there is.

use crate::harness::{Answer, Fixture, path, send, subject, with_service};
use reqwest::Method;
use serde_json::{Value, json};

fn catalog(product: &str, limit: u32) -> String {
    format!(
        "product = \"{product}\"\ntime_zone = \"Asia/Kolkata\"\n[features.units]\n[plans.free]\nrank = 0\n\
         [plans.free.limits]\nunits = {{ limit = {limit} }}\n"
    )
}

async fn put(service: &Fixture, product: &str, if_match: Option<&str>, text: String) -> Answer {
    let mut request = service
        .request(Method::PUT, &format!("/v1/products/{product}/catalog"))
        .bearer_auth(&service.key);
    if let Some(tag) = if_match {
        request = request.header("If-Match", tag);
    }
    send(
        request
            .header("content-type", "application/toml")
            .body(text),
    )
    .await
}

#[test]
fn a_catalog_is_published_by_version() {
    with_service(|service| async move {
        let product = &format!("p{}", &subject()[2..10]);
        let first = put(service, product, None, catalog(product, 1)).await;
        assert_eq!(
            (first.status, first.header("etag")),
            (200, "\"1\""),
            "{}",
            first.text
        );
        assert_eq!(
            first.json(),
            json!({"product": product, "version": 1, "changed": true})
        );
        let again = put(service, product, None, catalog(product, 1)).await;
        assert_eq!(
            again.json(),
            json!({"product": product, "version": 1, "changed": false})
        );
        let second = put(service, product, Some("\"1\""), catalog(product, 2)).await;
        assert_eq!((second.status, second.header("etag")), (200, "\"2\""));
        let lost = put(service, product, Some("\"1\""), catalog(product, 3)).await;
        assert_eq!(
            lost.problem(),
            (412, "version_mismatch".into(), String::new())
        );
        let text = service
            .get(&format!("/v1/products/{product}/catalog"))
            .await;
        assert_eq!(
            (
                text.status,
                text.header("etag"),
                text.header("content-type")
            ),
            (200, "\"2\"", "application/toml")
        );
        assert_eq!(text.text, catalog(product, 2));
        let known = service
            .request(Method::GET, &format!("/v1/products/{product}/catalog"))
            .bearer_auth(&service.key);
        assert_eq!(
            send(known.header("If-None-Match", "\"2\"")).await.status,
            304
        );
        let used = service
            .post(
                &format!("/v1/products/{product}/subjects/u/consume"),
                &json!({"feature": "units"}),
            )
            .await;
        assert_eq!((used.status, &used.json()["limit"]), (200, &json!(2)));
    });
}

#[test]
fn every_fault_of_a_catalog_is_named_and_nothing_is_published() {
    with_service(|service| async move {
        let product = &format!("p{}", &subject()[2..10]);
        let bad = format!(
            "{}[plans.gold]\nrank = 0\nperiod = \"fortnight\"\n",
            catalog(product, 1).replace("Asia/Kolkata", "Mars")
        );
        let answer = put(service, product, None, bad).await;
        assert_eq!(
            (answer.status, answer.problem().1.as_str()),
            (422, "invalid_catalog")
        );
        assert!(!answer.json()["errors"].as_array().unwrap().is_empty());
        let shape = put(service, product, None, "features = 3".into()).await;
        assert!(
            shape.json()["errors"].as_array().unwrap().len() >= 2,
            "{}",
            shape.text
        );
        let other = put(service, product, None, catalog("another", 1)).await;
        assert_eq!(
            other.problem(),
            (422, "invalid_catalog".into(), "product".into())
        );
        assert_eq!(
            service
                .get(&format!("/v1/products/{product}/catalog"))
                .await
                .status,
            404
        );
    });
}

/// Products whose settings would have the same names in the environment cannot both be: each would have the other's secrets.
#[test]
fn products_share_no_settings() {
    with_service(|service| async move {
        let name = &subject()[2..10];
        let (first, twin) = (format!("p-{name}"), format!("p_{name}"));
        let published = put(service, &first, None, catalog(&first, 1)).await;
        assert_eq!(published.status, 200, "{}", published.text);
        let refused = put(service, &twin, None, catalog(&twin, 1)).await;
        assert_eq!(
            refused.problem(),
            (422, "invalid_catalog".into(), "product".into())
        );
        assert!(refused.text.contains(&first), "{}", refused.text);
        let next = put(service, &first, None, catalog(&first, 2)).await;
        assert_eq!(next.status, 200, "{}", next.text);
    });
}

#[test]
fn probes_and_metrics_answer_on_loopback_without_a_key() {
    with_service(|service| async move {
        let get = |path: &'static str| send(service.request(Method::GET, path));
        let live = get("/healthz").await;
        assert_eq!((live.status, live.json()), (200, json!({"status": "live"})));
        let ready = get("/readyz").await;
        assert_eq!(
            (ready.status, &ready.json()["ready"]),
            (200, &json!(true)),
            "{}",
            ready.text
        );
        service
            .get(&path(&subject(), "check?feature=interviews"))
            .await;
        let metrics = get("/metrics").await;
        assert!(metrics.header("content-type").starts_with("text/plain"));
        let line = r#"quota_http_requests_total{route="/v1/products/{product}/subjects/{subject}/check",status="2xx"}"#;
        assert!(metrics.text.contains(line), "{}", metrics.text);
        assert!(metrics.text.contains("quota_http_request_seconds_bucket"));
    });
}

#[test]
fn what_is_not_there_is_a_problem_too() {
    with_service(|service| async move {
        assert_eq!(
            service.get("/v1/nothing").await.problem(),
            (404, "not_found".into(), String::new())
        );
        let answer = send(
            service
                .request(Method::DELETE, "/v1/products/applyx/catalog")
                .bearer_auth(&service.key),
        )
        .await;
        assert_eq!(
            answer.problem(),
            (405, "method_not_allowed".into(), String::new())
        );
        let allowed: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        assert_eq!(allowed, ["GET", "HEAD", "PUT"]);
        let head = send(
            service
                .request(Method::HEAD, "/v1/products/applyx/catalog")
                .bearer_auth(&service.key),
        )
        .await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
    });
}

#[test]
fn the_document_names_every_route_and_the_pages_load_nothing_from_outside() {
    with_service(|service| async move {
        let document = send(service.request(Method::GET, "/openapi.json"))
            .await
            .json();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = document["paths"].as_object().unwrap();
        for (path, method) in [
            ("/v1/products/{product}/events", "post"),
            ("/v1/products/{product}/consume", "post"),
            ("/v1/products/{product}/check", "post"),
            ("/v1/products/{product}/catalog", "put"),
            ("/v1/products/{product}/subjects/{subject}/consume", "post"),
            (
                "/v1/products/{product}/subjects/{subject}/holds/{hold}/confirm",
                "post",
            ),
            ("/readyz", "get"),
        ] {
            assert!(
                paths[path][method]["responses"].is_object(),
                "{method} {path}"
            );
        }
        for way in ["/", "/docs"] {
            let redirect = send(service.request(Method::GET, way)).await;
            assert_eq!(redirect.status, 200, "{way} is redirected to /docs/");
            assert!(redirect.text.contains("swagger-ui"), "{way}");
        }
        for page in ["index.html", "swagger-initializer.js", "index.css"] {
            let answer = send(service.request(Method::GET, &format!("/docs/{page}"))).await;
            assert_eq!(answer.status, 200);
            assert!(
                answer
                    .header("content-security-policy")
                    .contains("default-src 'self'")
            );
            assert!(
                !answer.text.contains("src=\"http") && !answer.text.contains("href=\"http"),
                "{page}"
            );
        }
        let first = send(service.request(Method::GET, "/docs/")).await;
        assert!(
            first.text.contains("<title>quota-ledger</title>"),
            "{}",
            first.text
        );
        let initializer = send(service.request(Method::GET, "/docs/swagger-initializer.js"))
            .await
            .text;
        assert!(
            initializer.contains("/openapi.json")
                && initializer.contains("\"validatorUrl\": \"none\""),
            "{initializer}"
        );
        assert_eq!(
            send(service.request(Method::GET, "/docs/none"))
                .await
                .status,
            404
        );
        // A problem has its own media type, and every call says that it may have one.
        for (path, calls) in paths {
            for (method, call) in calls.as_object().unwrap() {
                let responses = call["responses"].as_object().unwrap();
                let problems = responses.values().filter(|response| {
                    response["content"]["application/problem+json"]["schema"]["$ref"]
                        == "#/components/schemas/Problem"
                });
                assert!(problems.count() >= 1, "{method} {path}");
                let plain = "{\"schema\":{\"$ref\":\"#/components/schemas/Problem\"}}";
                let wrong = format!("\"application/json\":{plain}");
                assert!(!call.to_string().contains(&wrong), "{method} {path}");
            }
        }
        // Every schema that is referred to is there.
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"]
                    .get(name)
                    .is_some_and(Value::is_object),
                "{name}"
            );
        }
    });
}
