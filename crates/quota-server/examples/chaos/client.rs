//! What a client sees of a node.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The product of the harness, whose plans `model` knows.
pub const PRODUCT: &str = "chaos";
/// How long a client waits for an answer before it takes it for lost.
const PATIENCE: Duration = Duration::from_secs(12);

/// What came of one request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A whole answer.
    Answer(Answer),
    /// None: nobody knows what became of it.
    Lost,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// A first answer told again.
    pub replayed: bool,
    pub text: String,
}

impl Answer {
    /// The body, null where it is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The body without what differs between a first answer and its retries.
    pub fn timeless(&self) -> Value {
        let mut body = self.json();
        if let Some(members) = body.as_object_mut() {
            members.remove("as_of");
            members.remove("age_ms");
        }
        body
    }
}

/// Asks one node, wherever it listens at present.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: Arc<RwLock<String>>,
    key: Arc<str>,
}

impl Client {
    pub fn new(key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .pool_max_idle_per_host(64)
            .build()?;
        Ok(Self {
            http,
            url: Arc::default(),
            key: key.into(),
        })
    }

    /// The node listens here now.
    pub fn moved(&self, url: &str) {
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url.to_owned();
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.url.read().unwrap_or_else(PoisonError::into_inner);
        self.http
            .request(method, format!("{url}{path}"))
            .bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Outcome {
        send(self.request(Method::GET, path)).await
    }

    pub async fn consume(
        &self,
        subject: &str,
        feature: &str,
        amount: i64,
        hold_seconds: Option<i64>,
        key: Option<&str>,
    ) -> Outcome {
        let path = format!("/v1/products/{PRODUCT}/subjects/{subject}/consume");
        let mut body = json!({"feature": feature, "amount": amount});
        if let (Some(seconds), Some(members)) = (hold_seconds, body.as_object_mut()) {
            members.insert("hold_seconds".to_owned(), seconds.into());
        }
        let mut request = self.request(Method::POST, &path).json(&body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        send(request).await
    }

    /// Tells that something was used.
    pub async fn tell(&self, subject: &str, feature: &str, amount: i64, id: &str) -> Outcome {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/chaos", "type": "quota.usage.recorded.v1",
            "subject": subject, "data": {"feature": feature, "amount": amount},
        });
        let request = self.request(Method::POST, &format!("/v1/products/{PRODUCT}/events"));
        send(
            request
                .header("Content-Type", "application/cloudevents+json")
                .body(event.to_string()),
        )
        .await
    }

    /// `confirm` or `release`.
    pub async fn end_hold(&self, subject: &str, hold: &str, end: &str) -> Outcome {
        let path = format!("/v1/products/{PRODUCT}/subjects/{subject}/holds/{hold}/{end}");
        send(self.request(Method::POST, &path)).await
    }

    /// Asks without using, at least as of a position.
    pub async fn check(&self, subject: &str, feature: &str, at_least: &str) -> Outcome {
        let path = format!(
            "/v1/products/{PRODUCT}/subjects/{subject}/check?feature={feature}&at_least={at_least}"
        );
        self.get(&path).await
    }

    /// What its answers say when they were made.
    pub async fn date(&self) -> Option<String> {
        let response = self.request(Method::GET, "/").send().await.ok()?;
        let date = response.headers().get("date")?;
        Some(date.to_str().ok()?.to_owned())
    }

    /// Whether a consume goes through.
    pub async fn serves(&self, subject: &str) -> bool {
        let path = format!("/v1/products/{PRODUCT}/subjects/{subject}/consume");
        let body = json!({"feature": "open"});
        let request = self
            .request(Method::POST, &path)
            .json(&body)
            .timeout(Duration::from_secs(6));
        matches!(send(request).await, Outcome::Answer(answer) if answer.status == 200)
    }
}

async fn send(request: RequestBuilder) -> Outcome {
    let answer = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let replayed = response
            .headers()
            .get("idempotent-replayed")
            .is_some_and(|value| value == "true");
        let text = response.text().await?;
        Ok::<_, reqwest::Error>(Answer {
            status,
            replayed,
            text,
        })
    };
    answer.await.map_or(Outcome::Lost, Outcome::Answer)
}

/// Seconds since then.
pub fn since(then: Instant) -> f64 {
    then.elapsed().as_secs_f64()
}
