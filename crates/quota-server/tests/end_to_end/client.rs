//! A client of a node.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// Asks a node, with a key.
#[derive(Clone)]
pub struct Client {
    pub url: String,
    key: String,
    http: reqwest::Client,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The header `Idempotent-Replayed` says so.
    pub replayed: bool,
    pub text: String,
}

impl Answer {
    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The body of an answer with this status.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The body's bytes, but for `as_of` and `age_ms`: what a retry gets again.
    pub fn timeless(&self) -> String {
        let cut = |text: &str, name: &str, ends: &[char]| -> String {
            let Some(start) = text.find(name) else {
                return text.to_owned();
            };
            let value = start + name.len();
            let end = text[value..]
                .find(ends)
                .map_or(text.len(), |end| value + end);
            format!("{}{}", &text[..value], &text[end..])
        };
        cut(
            &cut(&self.text, "\"as_of\":\"", &['"']),
            "\"age_ms\":",
            &[',', '}'],
        )
    }
}

impl Client {
    pub fn new(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            url: url.to_owned(),
            key: key.to_owned(),
            http,
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await.unwrap()
    }

    /// Consumes a unit of a feature, as often as an answer gets lost it is an error.
    pub async fn consume(
        &self,
        product: &str,
        subject: &str,
        feature: &str,
        key: Option<&str>,
    ) -> reqwest::Result<Answer> {
        let path = format!("/v1/products/{product}/subjects/{subject}/consume");
        let mut request = self
            .request(Method::POST, &path)
            .json(&json!({"feature": feature}));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        send(request).await
    }

    /// Tells an event.
    pub async fn tell(
        &self,
        product: &str,
        subject: &str,
        id: &str,
        kind: &str,
        data: Value,
    ) -> reqwest::Result<Answer> {
        let event = event(subject, id, kind, data).to_string();
        let request = self.request(Method::POST, &format!("/v1/products/{product}/events"));
        send(
            request
                .header("Content-Type", "application/cloudevents+json")
                .body(event),
        )
        .await
    }

    /// Makes a subject a payer of a plan.
    pub async fn purchase(&self, product: &str, subject: &str, plan: &str) {
        let payment = format!("pay-{}", uuid::Uuid::new_v4().simple());
        let data = json!({"plan": plan, "payment_id": payment, "amount": 9900, "currency": "INR"});
        let told = self
            .tell(product, subject, &payment, "subscription.purchased", data)
            .await
            .unwrap();
        assert_eq!(
            told.expect(200)["results"][0]["status"],
            "recorded",
            "{told:?}"
        );
    }

    /// All events of a subject, oldest first.
    pub async fn ledger(&self, product: &str, subject: &str) -> Vec<Value> {
        let path = format!("/v1/products/{product}/subjects/{subject}/ledger?limit=1000");
        let page = self.get(&path).await.expect(200);
        assert_eq!(page["next"], Value::Null, "more events than a page");
        page["events"].as_array().unwrap().clone()
    }

    /// Asks whether a feature may be used, and how much of it is.
    pub async fn check(&self, product: &str, subject: &str, feature: &str) -> Value {
        let path = format!("/v1/products/{product}/subjects/{subject}/check?feature={feature}");
        self.get(&path).await.expect(200)
    }
}

/// A CloudEvent of these tests' source.
pub fn event(subject: &str, id: &str, kind: &str, data: Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/e2e", "type": format!("quota.{kind}.v1"),
        "subject": subject, "data": data,
    })
}

/// Sends a request; an error where no whole answer came.
pub async fn send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let status: StatusCode = response.status();
    let replayed = response
        .headers()
        .get("idempotent-replayed")
        .is_some_and(|value| value == "true");
    Ok(Answer {
        status: status.as_u16(),
        replayed,
        text: response.text().await?,
    })
}

/// A name that nobody else has.
pub fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}
