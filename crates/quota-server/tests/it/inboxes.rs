//! Inboxes as services see them: records to send, and what became of those.

use crate::kafkas::read_topic;
use crate::nodes::{PRODUCT, all_rows, eventually};
use quota_core::row::Row;
use quota_kafka::{Headers, Outgoing, Publisher, PublisherOptions, Record};
use quota_postgres::Ledger;
use quota_server::topics::Topics;
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A record to send to an inbox.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Sent {
    /// A use of units, in binary mode.
    pub fn usage(id: &str, subject: &str, amount: i64) -> Self {
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", id),
            ("ce_source", "/shop"),
            ("ce_type", "quota.usage.recorded.v1"),
            ("ce_subject", subject),
            ("content-type", "application/json"),
        ];
        let header =
            |(name, value): (&str, &str)| (name.to_owned(), Some(value.as_bytes().to_vec()));
        Self {
            key: Some(subject.as_bytes().to_vec()),
            value: Some(format!(r#"{{"feature":"units","amount":{amount}}}"#).into_bytes()),
            headers: headers.into_iter().map(header).collect(),
        }
    }

    /// The same in structured mode.
    pub fn structured(id: &str, subject: &str, data: &str) -> Self {
        let value = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"quota.usage.recorded.v1","subject":"{subject}","data":{data}}}"#
        );
        Self {
            key: Some(subject.as_bytes().to_vec()),
            value: Some(value.into_bytes()),
            headers: vec![(
                "content-type".to_owned(),
                Some(b"application/cloudevents+json; charset=utf-8".to_vec()),
            )],
        }
    }

    /// With a header put in place of the one of that name, or added.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers
            .push((name.to_owned(), Some(value.as_bytes().to_vec())));
        self
    }

    pub fn data(mut self, value: &str) -> Self {
        self.value = Some(value.as_bytes().to_vec());
        self
    }
}

pub async fn send(topics: &Topics, records: &[Sent]) {
    send_to(topics, PRODUCT, records).await;
}

pub async fn send_to(topics: &Topics, product: &str, records: &[Sent]) {
    let publisher = Publisher::open(topics.settings(), &PublisherOptions::default()).unwrap();
    send_by(&publisher, topics, product, records).await;
}

/// The same by a publisher that is there already, at once.
pub async fn send_by(publisher: &Publisher, topics: &Topics, product: &str, records: &[Sent]) {
    let topic = topics.inbox(product);
    let outgoing = records.iter().map(|sent| Outgoing {
        topic: &topic,
        partition: None,
        key: sent.key.as_deref(),
        payload: sent.value.as_deref(),
        headers: Some(
            sent.headers
                .iter()
                .fold(Headers::with_capacity(8), |headers, (name, value)| {
                    headers.add_nullable(name, value.as_deref())
                }),
        ),
    });
    publisher.send(outgoing.collect()).await.unwrap();
}

/// The rows that came from the inbox.
pub async fn told(ledger: &Ledger) -> Vec<Row> {
    all_rows(ledger)
        .await
        .into_iter()
        .filter(|row| &*row.source == "/shop")
        .collect()
}

pub async fn told_count(ledger: &Ledger, count: usize) {
    eventually("the records are in the ledger", PATIENCE, || async {
        told(ledger).await.len() >= count
    })
    .await;
}

pub async fn letters(topics: &Topics, count: usize) -> Vec<Record> {
    read_topic(topics, &topics.dead_letter(), |records| {
        records.len() >= count
    })
    .await
}

pub fn text(record: &Record, name: &str) -> String {
    String::from_utf8(record.header(name).unwrap_or_default().to_vec()).unwrap()
}
