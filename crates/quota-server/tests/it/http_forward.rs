//! Forward-auth, as a gateway meets it.

use crate::harness::{Answer, Fixture, path, send, subject, token, with_service};
use reqwest::Method;
use serde_json::{Value, json};

const FORWARD: &str = "/v1/products/applyx/forward-auth";
const UPLOAD: &str = "/api/v1/resumes/upload";

/// A gateway's question.
struct Asked<'a> {
    key: &'a str,
    query: &'a str,
    request: (&'a str, &'a str),
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Asked<'a> {
    fn new(key: &'a str, method: &'a str, uri: &'a str) -> Self {
        Self {
            key,
            query: "",
            request: (method, uri),
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn query(mut self, query: &'a str) -> Self {
        self.query = query;
        self
    }

    async fn send(self, service: &Fixture) -> Answer {
        let mut request = service
            .request(Method::GET, &format!("{FORWARD}{}", self.query))
            .header("X-Quota-Key", self.key);
        request = request
            .header("X-Forwarded-Method", self.request.0)
            .header("X-Forwarded-Uri", self.request.1);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        send(request).await
    }
}

async fn used(service: &Fixture, user: &str, feature: &str) -> Value {
    service
        .get(&path(user, &format!("check?feature={feature}")))
        .await
        .json()["used"]
        .clone()
}

#[test]
fn a_gated_route_uses_a_unit_and_then_is_denied() {
    with_service(|service| async move {
        let (user, key) = (subject(), service.key("applyx", "consume").await);
        let bearer = format!("Bearer {}", token("applyx", &user));
        let ask = |query| {
            Asked::new(&key, "POST", UPLOAD)
                .with("Authorization", &bearer)
                .query(query)
                .send(service)
        };
        let passed = ask("").await;
        assert_eq!((passed.status, passed.text.as_str()), (200, ""));
        assert_eq!(
            (
                passed.header("x-quota-subject"),
                passed.header("x-quota-hold")
            ),
            (user.as_str(), "")
        );
        // Durable before it was answered.
        let events = service.get(&path(&user, "ledger")).await.json();
        assert_eq!(
            events["events"][0]["position"],
            passed.header("x-quota-position")
        );

        let body = format!(
            r#"{{"error":{{"code":"LIMIT_REACHED","message":"Resume limit reached","feature":"resume_edits","used":1,"limit":1,"plan":"free","upgrade_plans":{}}}}}"#,
            r#"[{"id":"basic","price":9900,"currency":"INR","period":"month","limit":10},{"id":"pro","price":49900,"currency":"INR","period":"month","limit":-1},{"id":"pro_plus","price":548900,"currency":"INR","period":"month","limit":-1}]"#
        );
        for (query, status) in [
            ("", 403),
            ("?deny_status=real", 402),
            ("?mode=check", 403),
            ("?mode=check&deny_status=real", 402),
        ] {
            let denied = ask(query).await;
            assert_eq!(
                (denied.status, denied.header("x-quota-status")),
                (status, "402"),
                "{query}"
            );
            assert_eq!(
                (denied.header("content-type"), &denied.text),
                ("application/json", &body)
            );
        }
        for (query, field) in [
            ("?mode=consume", "mode"),
            ("?deny_status=402", "deny_status"),
            ("?mood=check", "mood"),
        ] {
            assert_eq!(
                ask(query).await.problem(),
                (422, "invalid_request".into(), field.into())
            );
        }
    });
}

#[test]
fn checking_uses_nothing() {
    with_service(|service| async move {
        let user = subject();
        let bearer = format!("Bearer {}", token("applyx", &user));
        let (both, check) = (
            service.key("applyx", "consume,check").await,
            service.key("applyx", "check").await,
        );
        for (key, query, after) in [
            (&check, "", 0),
            (&check, "?mode=check", 0),
            (&both, "?mode=check", 0),
            (&both, "", 1),
        ] {
            let passed = Asked::new(key, "POST", UPLOAD)
                .with("Authorization", &bearer)
                .query(query)
                .send(service)
                .await;
            assert_eq!(
                (passed.status, passed.header("x-quota-subject")),
                (200, user.as_str())
            );
            assert!(!passed.header("x-quota-position").is_empty());
            assert_eq!(used(service, &user, "resume_edits").await, after, "{query}");
        }
    });
}

#[test]
fn every_route_of_the_product_is_gated_and_nothing_else() {
    with_service(|service| async move {
        let gateway = service.key("applyx", "consume,gateway").await;
        for (uri, feature) in [
            (UPLOAD, "resume_edits"),
            ("/api/v1/resumes/analyze", "resume_analyses"),
            ("/api/v1/ats/score", "resume_analyses"),
            ("/api/v1/ats/analyze", "resume_analyses"),
            ("/api/v1/interview/start", "interviews"),
            ("/api/v1/livekit/start-interview", "interviews"),
        ] {
            let user = subject();
            let ask = |method: &'static str, uri| {
                Asked::new(&gateway, method, uri)
                    .with("X-Quota-Subject", &user)
                    .send(service)
            };
            assert_eq!(ask("GET", uri).await.status, 200);
            assert_eq!(used(service, &user, feature).await, 0, "GET {uri} is open");
            assert_eq!(ask("POST", uri).await.status, 200);
            assert_eq!(used(service, &user, feature).await, 1);
            let dressed = format!("{}/?x=1", uri.replace("/v1/", "//v1/./%78/../"));
            let denied = ask("POST", &dressed).await;
            assert_eq!(
                (denied.status, denied.header("x-quota-status")),
                (403, "402"),
                "{dressed}"
            );
        }
        for open in [
            "/",
            "/api/v1/jobs/search",
            "/api/v1/resumes",
            "/healthz?x=%2F",
        ] {
            let passed = Asked::new(&gateway, "POST", open).send(service).await;
            assert_eq!(
                (passed.status, passed.header("x-quota-subject")),
                (200, ""),
                "{open}"
            );
        }
    });
}

#[test]
fn who_may_name_the_user() {
    with_service(|service| async move {
        let (user, plain) = (subject(), service.key("applyx", "consume,check").await);
        let gateway = service.key("applyx", "consume,gateway").await;
        // Under a key without the scope the header is not there at all.
        let ignored = Asked::new(&plain, "POST", UPLOAD)
            .with("X-Quota-Subject", &user)
            .send(service)
            .await;
        assert_eq!(
            ignored.problem(),
            (401, "unauthorized".into(), String::new())
        );
        let bearer = format!("Bearer {}", token("applyx", &user));
        let own = Asked::new(&plain, "POST", UPLOAD)
            .with("X-Quota-Subject", "victim")
            .with("Authorization", &bearer)
            .send(service)
            .await;
        assert_eq!(own.header("x-quota-subject"), user);
        let named = Asked::new(&gateway, "POST", "/api/v1/ats/score")
            .with("X-Quota-Subject", &user)
            .send(service)
            .await;
        assert_eq!(
            (named.status, named.header("x-quota-subject")),
            (200, user.as_str())
        );

        for bad in [
            "",
            "Bearer a.b.c",
            "Bearer x",
            "Basic YTpi",
            &format!("Bearer {}", token("resume-builder", &user)),
        ] {
            for key in [&plain, &gateway] {
                let gated = Asked::new(key, "POST", UPLOAD)
                    .with("Authorization", bad)
                    .send(service)
                    .await;
                assert_eq!(gated.problem().0, 401, "{bad}");
                let open = Asked::new(key, "GET", "/jobs")
                    .with("Authorization", bad)
                    .send(service)
                    .await;
                assert_eq!(open.status, 200, "an open route needs no user");
            }
        }
        let open = Asked::new(&plain, "GET", "/jobs")
            .with("Authorization", &bearer)
            .send(service)
            .await;
        assert_eq!(
            open.header("x-quota-subject"),
            user,
            "and is told who it is"
        );
        // A user cannot be a gateway, and a service's key in Authorization is nobody.
        let header = format!("Bearer {plain}");
        let service_key = Asked::new(&plain, "POST", UPLOAD)
            .with("Authorization", &header)
            .send(service)
            .await;
        assert_eq!(service_key.problem().0, 401);
    });
}

#[test]
fn the_gateways_key_is_asked_for_on_every_route() {
    with_service(|service| async move {
        let user_token = token("applyx", "u");
        for uri in [UPLOAD, "/jobs"] {
            for key in ["", "ql_nobody", &user_token] {
                assert_eq!(
                    Asked::new(key, "GET", uri).send(service).await.problem().0,
                    401,
                    "{uri}"
                );
            }
            let stranger = service.key("resume-builder", "consume,check,gateway").await;
            let refused = Asked::new(&stranger, "GET", uri).send(service).await;
            assert_eq!(
                refused.problem(),
                (403, "wrong_product".into(), String::new())
            );
            let scopeless = service.key("applyx", "publish,read,admin,gateway").await;
            let refused = Asked::new(&scopeless, "GET", uri).send(service).await;
            assert_eq!(
                refused.problem(),
                (403, "missing_scope".into(), String::new())
            );
        }
        let missing = send(
            service
                .request(Method::GET, FORWARD)
                .bearer_auth(&service.key),
        )
        .await;
        assert_eq!(missing.problem().0, 401, "Authorization is the user's");
        let unknown = service
            .request(Method::GET, "/v1/products/none/forward-auth")
            .header("X-Quota-Key", &service.key);
        assert_eq!(
            send(unknown).await.problem(),
            (404, "unknown_product".into(), String::new())
        );
    });
}

#[test]
fn a_request_id_replays_under_a_trusted_gateway_alone() {
    with_service(|service| async move {
        let (plain, gateway) = (
            service.key("applyx", "consume").await,
            service.key("applyx", "consume,gateway").await,
        );
        let (mine, theirs) = (subject(), subject());
        let (mine_bearer, theirs_bearer) = (
            format!("Bearer {}", token("applyx", &mine)),
            format!("Bearer {}", token("applyx", &theirs)),
        );
        let ask = |key, bearer, uri| {
            Asked::new(key, "POST", uri)
                .with("Authorization", bearer)
                .with("X-Request-Id", "r-1")
                .send(service)
        };
        let first = ask(&gateway, &mine_bearer, UPLOAD).await;
        let again = ask(&gateway, &mine_bearer, UPLOAD).await;
        assert_eq!((first.status, again.status), (200, 200));
        assert_eq!(
            first.header("x-quota-position"),
            again.header("x-quota-position")
        );
        let other = ask(&gateway, &mine_bearer, "/api/v1/ats/score").await;
        assert_eq!(
            other.problem(),
            (422, "idempotency_conflict".into(), "X-Request-Id".into())
        );
        // Elsewhere the user chooses it: one allowed answer would be told for ever.
        assert_eq!(ask(&plain, &theirs_bearer, UPLOAD).await.status, 200);
        assert_eq!(ask(&plain, &theirs_bearer, UPLOAD).await.status, 403);
    });
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    with_service(|service| async move {
        let gateway = service.key("applyx", "consume,gateway").await;
        let user = subject();
        for odd in [
            "/a%2Fb",
            "/api/v1/resumes%2fupload",
            "/x;y",
            "/../x",
            "/x%00",
            "/%",
            "/%252e",
            "/API/v1/resumes/upload",
            "x",
            "http://h/x",
        ] {
            let refused = Asked::new(&gateway, "POST", odd)
                .with("X-Quota-Subject", &user)
                .send(service)
                .await;
            assert_eq!(
                refused.problem(),
                (400, "malformed".into(), String::new()),
                "{odd}"
            );
        }
        let lower = Asked::new(&gateway, "post", UPLOAD)
            .with("X-Quota-Subject", &user)
            .send(service)
            .await;
        assert_eq!(lower.problem().0, 400);
        let request = || {
            service
                .request(Method::GET, FORWARD)
                .header("X-Quota-Key", &gateway)
                .header("X-Quota-Subject", &user)
        };
        assert_eq!(send(request()).await.problem().0, 400, "no route");
        assert_eq!(
            send(request().header("X-Forwarded-Uri", UPLOAD))
                .await
                .problem()
                .0,
            400,
            "no method"
        );
        let twice = request()
            .header("X-Forwarded-Method", "POST")
            .header("X-Forwarded-Uri", "/jobs")
            .header("X-Forwarded-Uri", UPLOAD);
        assert_eq!(send(twice).await.problem().0, 400);
        // nginx sets one pair; the client may have sent the other.
        let original = request()
            .header("X-Original-Method", "POST")
            .header("X-Original-URI", UPLOAD);
        let spoofed = original
            .try_clone()
            .unwrap()
            .header("X-Forwarded-Method", "GET")
            .header("X-Forwarded-Uri", "/jobs");
        assert_eq!(send(spoofed).await.problem().0, 400);
        assert_eq!(used(service, &user, "resume_edits").await, 0);
        assert_eq!(send(original).await.status, 200);
        assert_eq!(used(service, &user, "resume_edits").await, 1);
    });
}

/// Some gateways pass the request's own query on behind theirs: a client must not choose the mode. Seen to fail with a
/// query that is read as it comes.
#[test]
fn the_requests_own_query_is_not_the_gateways() {
    with_service(|service| async move {
        let gateway = service.key("applyx", "consume,gateway").await;
        for (query, uri) in [
            ("?mode=check", "/api/v1/resumes/upload?mode=check"),
            (
                "?deny_status=real&mode=check",
                "/api/v1/resumes/upload?mode=check",
            ),
            ("?x=1&y", "/api/v1/resumes/upload?x=1&y"),
        ] {
            let user = subject();
            let passed = Asked::new(&gateway, "POST", uri)
                .with("X-Quota-Subject", &user)
                .query(query)
                .send(service)
                .await;
            assert_eq!(passed.status, 200, "{query}");
            assert_eq!(used(service, &user, "resume_edits").await, 1, "{query}");
        }
    });
}

#[test]
fn any_method_asks_and_a_body_is_no_matter() {
    with_service(|service| async move {
        let gateway = service.key("applyx", "check,gateway").await;
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE",
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = service
                .request(method.clone(), FORWARD)
                .header("X-Quota-Key", &gateway)
                .body("x");
            let request = request
                .header("X-Forwarded-Method", "POST")
                .header("X-Forwarded-Uri", UPLOAD)
                .header("X-Quota-Subject", "u");
            assert_eq!(send(request).await.status, 200, "{method}");
        }
    });
}

#[test]
fn a_route_in_hold_mode_holds() {
    with_service(|service| async move {
        let (_, text) = quota_core::catalog::shipped()[1];
        let text = text
            .replace("product = \"applyx\"", "product = \"holding\"")
            .replace(
                "path = \"/api/v1/interview/start\"\n",
                "path = \"/api/v1/interview/start\"\nhold_seconds = 60\n",
            )
            .replace("/api/v1/subscription/usage", "/api/v1/holding/usage");
        let put = service
            .request(Method::PUT, "/v1/products/holding/catalog")
            .bearer_auth(&service.key);
        assert_eq!(
            send(put.header("Content-Type", "application/toml").body(text))
                .await
                .status,
            200
        );
        let user = subject();
        let ask = || {
            service
                .request(Method::GET, "/v1/products/holding/forward-auth")
                .header("X-Quota-Key", &service.key)
                .header("X-Quota-Subject", &user)
                .header("X-Forwarded-Method", "POST")
                .header("X-Forwarded-Uri", "/api/v1/interview/start")
        };
        let passed = send(ask()).await;
        let hold = passed.header("x-quota-hold");
        assert_eq!((passed.status, hold.is_empty()), (200, false));
        let denied = send(ask()).await;
        assert_eq!(
            (denied.status, denied.header("x-quota-hold")),
            (403, ""),
            "what is held is not free"
        );
        let confirm = format!("/v1/products/holding/subjects/{user}/holds/{hold}/confirm");
        assert_eq!(
            service.post(&confirm, &json!({})).await.json()["status"],
            "confirmed"
        );
    });
}

#[test]
fn a_route_cannot_spend_what_needs_a_resource() {
    with_service(|service| async move {
        let (_, text) = quota_core::catalog::shipped()[2];
        let text = format!(
            "{text}\n[[routes]]\nmethod = \"POST\"\npath = \"/ai\"\nfeature = \"ai_generations\"\n"
        );
        let put = service
            .request(Method::PUT, "/v1/products/resume-builder/catalog")
            .bearer_auth(&service.key);
        let refused = send(put.header("Content-Type", "application/toml").body(text)).await;
        assert_eq!(
            refused.problem(),
            (422, "invalid_catalog".into(), "routes.0.feature".into())
        );
    });
}
