//! One service for all HTTP tests, on a database of its own; each test takes subjects that no other has.

use quota_core::state::FOLD_VERSION;
use quota_kafka::EmbeddedBroker;
use quota_postgres::Ledger;
use quota_server::api::Server;
use quota_server::auth::{digest, fresh_key, fresh_key_id};
use quota_server::config::{Kafka, ProductSecrets, Roles, ServiceSettings};
use quota_server::host::Host;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;

/// The runtime that the shared service lives on.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SHARED: LazyLock<Fixture> = LazyLock::new(|| {
    std::thread::spawn(|| RUNTIME.block_on(Fixture::start()))
        .join()
        .unwrap()
});

/// The product that most tests speak of.
pub const PRODUCT: &str = "applyx";
/// What the usual product's webhooks may be signed with.
pub const SECRETS: [&str; 2] = ["hook-secret-new", "hook-secret-old"];
/// A product that a test publishes for itself; its webhooks may be signed with the same.
pub const SHOP: &str = "a-shop";
/// Every scope.
pub const ALL: &str = "publish,consume,check,read,admin,gateway";

/// A running service.
pub struct Fixture {
    /// Where it answers.
    pub url: String,
    /// A key for everything.
    pub key: String,
    /// Its ledger.
    pub ledger: Ledger,
    /// The service.
    pub host: Host,
    client: reqwest::Client,
}

/// An answer: its status, its headers, its body.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// Status, code and field of a problem.
    pub fn problem(&self) -> (u16, String, String) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{}",
            self.text
        );
        let body = self.json();
        assert_eq!(body["status"], self.status);
        let text = |member: &str| body[member].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (
                text("type").as_str(),
                text("title").is_empty(),
                text("detail").is_empty()
            ),
            ("about:blank", false, false)
        );
        (self.status, text("code"), text("field"))
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Fixture {
    /// A service on a new database, with the catalogs that come with it.
    pub async fn start() -> Self {
        // RUST_LOG chooses what the service says.
        quota_server::telemetry::log();
        let database_url = new_database().await;
        quota_postgres::migrate(&database_url, Some(8), FOLD_VERSION)
            .await
            .unwrap();
        let broker = tokio::task::spawn_blocking(|| EmbeddedBroker::start(&[]))
            .await
            .unwrap()
            .unwrap();
        let settings = ServiceSettings {
            database_url: database_url.clone(),
            kafka: Kafka::Embedded(Arc::new(broker)),
            roles: Roles::all(),
            checkpoints: crate::nodes::plan(None),
            products: secrets(),
        };
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let host = Host::start(server, settings, false).await.unwrap();
        for (product, text) in quota_core::catalog::shipped() {
            host.service()
                .publish_catalog(product, text, None)
                .await
                .unwrap();
        }
        let ledger = Ledger::connect(&database_url, FOLD_VERSION, 2)
            .await
            .unwrap();
        let key = make_key(&ledger, "*", ALL).await;
        host.reload_keys().await.unwrap();
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Self {
            url: host.url(),
            key,
            ledger,
            host,
            client,
        }
    }

    /// A key for a product, in force at once.
    pub async fn key(&self, product: &str, scopes: &str) -> String {
        let key = make_key(&self.ledger, product, scopes).await;
        self.host.reload_keys().await.unwrap();
        key
    }

    /// A request without a key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// GET with the key for everything.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path).bearer_auth(&self.key)).await
    }

    /// POST of JSON with the key for everything.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        send(
            self.request(Method::POST, path)
                .bearer_auth(&self.key)
                .json(body),
        )
        .await
    }

    /// The same with more headers.
    pub async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self
            .request(Method::POST, path)
            .bearer_auth(&self.key)
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        send(request).await
    }
}

/// The secret that a product's users' tokens are signed with.
pub fn secret(product: &str) -> String {
    format!("the secret of {product}")
}

fn secrets() -> BTreeMap<String, ProductSecrets> {
    let shipped = quota_core::catalog::shipped();
    let products = shipped.iter().map(|(product, _)| *product).chain([SHOP]);
    let products = products.map(|product| {
        let jwt_hs256 = Some(secret(product));
        let signed = SECRETS
            .iter()
            .filter(|_| [PRODUCT, SHOP].contains(&product));
        let secrets = ProductSecrets {
            jwt_hs256,
            razorpay_secrets: signed.map(|secret| (*secret).to_owned()).collect(),
            ..ProductSecrets::default()
        };
        (product.to_owned(), secrets)
    });
    products.collect()
}

/// A good token of a user.
pub fn token(product: &str, subject: &str) -> String {
    let claims = serde_json::json!({"sub": subject, "exp": crate::jwt::now() + 600});
    crate::jwt::hs256(&secret(product), &claims)
}

/// Sends a request.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer {
        status,
        headers,
        text: response.text().await.unwrap(),
    }
}

/// Runs a test with the shared service.
pub fn with_service<F: Future<Output = ()>>(test: impl FnOnce(&'static Fixture) -> F) {
    let shared = &*SHARED;
    RUNTIME.block_on(test(shared));
}

/// A subject that nobody else has.
pub fn subject() -> String {
    format!("u-{}", uuid::Uuid::new_v4().simple())
}

/// The path of a subject of the usual product.
pub fn path(subject: &str, rest: &str) -> String {
    format!("/v1/products/{PRODUCT}/subjects/{subject}/{rest}")
}

async fn make_key(ledger: &Ledger, product: &str, scopes: &str) -> String {
    let key = fresh_key();
    let scopes: Vec<String> = scopes.split(',').map(str::to_owned).collect();
    ledger
        .create_key(&fresh_key_id(), product, &scopes, &digest(&key))
        .await
        .unwrap();
    key
}

/// A new database on the server of the tests.
pub async fn new_database() -> String {
    let server = std::env::var("TEST_DATABASE_URL").expect(
        "TEST_DATABASE_URL is not set: these tests need a real PostgreSQL; run scripts/test, which starts one",
    );
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut psql = tokio::process::Command::new("psql");
    psql.args([
        &server,
        "-X",
        "-q",
        "-c",
        &format!("CREATE DATABASE {name}"),
    ]);
    assert!(psql.status().await.unwrap().success());
    let (base, query) = server
        .split_once('?')
        .map_or((server.as_str(), String::new()), |(base, query)| {
            (base, format!("?{query}"))
        });
    let (host, _) = base.rsplit_once('/').unwrap();
    format!("{host}/{name}{query}")
}
