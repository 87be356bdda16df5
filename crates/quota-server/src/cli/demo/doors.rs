//! The doors that the demo goes through, as any client would: HTTP, and the topics of the inbox and of the dead letters.

use super::super::dev::Instance;
use crate::config::Kafka;
use crate::topics::Topics;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use quota_kafka::{Follower, Headers, Outgoing, Publisher, PublisherOptions, Record};
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an event's content type is.
pub const EVENT: &str = "application/cloudevents+json";
/// What any other body's is.
pub const JSON: &str = "application/json";

/// A client of one instance.
pub struct Doors {
    address: String,
    key: String,
    topics: Topics,
    publisher: Publisher,
    letters: Follower,
    carried: Follower,
}

/// What is asked over HTTP.
pub struct Ask<'a> {
    /// The path and the query.
    pub path: &'a str,
    /// The content type and the body; without one, it is a GET.
    pub body: Option<(&'static str, String)>,
    /// The caller's id.
    pub id: Option<&'a str>,
}

/// What came back.
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// Whether it is a first answer told again.
    pub replayed: bool,
    /// The body.
    pub body: Value,
}

impl Doors {
    /// Opens them. What the ledger's topic and the dead letters carry from now on is seen.
    pub async fn open(instance: &Instance, partitions: u32) -> anyhow::Result<Self> {
        let topics = match &instance.kafka {
            Kafka::Embedded(broker) => Topics::of_embedded(broker.clone(), "demo"),
            Kafka::Cluster(brokers) => {
                Topics::of_cluster(quota_kafka::Settings::new(brokers.clone(), "demo"))
            }
        };
        let settings = topics.settings();
        let partitions: Vec<i32> = (0..i32::try_from(partitions)?).collect();
        let options = PublisherOptions::default();
        Ok(Self {
            address: instance.url.trim_start_matches("http://").to_owned(),
            key: instance.admin_key.clone(),
            publisher: Publisher::open(settings, &options)?,
            letters: Follower::open(settings, &topics.dead_letter(), &[0]).await?,
            carried: Follower::open(settings, &topics.ledger(), &partitions).await?,
            topics,
        })
    }

    /// Asks over HTTP.
    pub async fn ask(&self, ask: Ask<'_>) -> anyhow::Result<Answer> {
        let path = ask.path.to_owned();
        let answer = timeout(PATIENCE, self.answer(ask)).await;
        answer
            .with_context(|| format!("no answer within {PATIENCE:?}: {path}"))?
            .context(path)
    }

    async fn answer(&self, ask: Ask<'_>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let bearer = format!("Bearer {}", self.key);
        let mut request = Request::builder()
            .uri(ask.path)
            .header(HOST, &self.address)
            .header(AUTHORIZATION, bearer);
        if let Some(id) = ask.id {
            request = request.header("Idempotency-Key", id);
        }
        let mut text = String::new();
        if let Some((content_type, body)) = ask.body {
            request = request
                .method(Method::POST)
                .header(CONTENT_TYPE, content_type);
            text = body;
        }
        let request = request.body(Full::new(Bytes::from(text)))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotent-replayed");
        let body = response.into_body().collect().await?.to_bytes();
        connection.abort();
        let body = serde_json::from_slice(&body)
            .with_context(|| format!("{status} with {:?}", String::from_utf8_lossy(&body)))?;
        Ok(Answer {
            status,
            replayed,
            body,
        })
    }

    /// Publishes messages to a product's inbox, in this order: they have one key, so one partition.
    pub async fn publish(
        &self,
        product: &str,
        key: &str,
        messages: &[String],
    ) -> anyhow::Result<()> {
        let topic = self.topics.inbox(product);
        let records = messages.iter().map(|message| Outgoing {
            topic: &topic,
            partition: None,
            key: Some(key.as_bytes()),
            payload: Some(message.as_bytes()),
            headers: Some(Headers::with_capacity(1).add("content-type", EVENT.as_bytes())),
        });
        let sent = timeout(PATIENCE, self.publisher.send(records.collect())).await;
        Ok(sent.with_context(|| format!("{topic} did not take the messages"))??)
    }

    /// The reasons of the next dead letters, as many as are named.
    pub async fn letters(&mut self, wanted: usize) -> anyhow::Result<Vec<String>> {
        let mut reasons = Vec::new();
        while reasons.len() < wanted {
            let records = self.letters.next_batch(wanted, PATIENCE).await?;
            if records.is_empty() {
                bail!("{} of {wanted} dead letters came", reasons.len());
            }
            reasons.extend(records.iter().map(|record| {
                let reason = record.header("quota_reason").unwrap_or_default();
                String::from_utf8_lossy(reason).into_owned()
            }));
        }
        reasons.sort();
        Ok(reasons)
    }

    /// Whether a dead letter is there that nobody has read.
    pub async fn has_letters(&mut self) -> anyhow::Result<bool> {
        let more = self.letters.next_batch(1, Duration::from_millis(200));
        Ok(!more.await?.is_empty())
    }

    /// What the ledger's topic carried that was not read yet; nothing after a silence.
    pub async fn carried(&mut self) -> anyhow::Result<Vec<Record>> {
        Ok(self
            .carried
            .next_batch(10_000, Duration::from_secs(1))
            .await?)
    }
}
