//! The inbox: what services publish to Kafka arrives in the ledger, or among the dead letters with its reason.

use crate::client::event;
use crate::program::{Node, until};
use crate::servers::{Database, Kafka};
use crate::topics::{DEAD_LETTERS, Reader, header};
use quota_kafka::{Headers, Outgoing, Publisher, PublisherOptions, Record, Settings};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PRODUCT: &str = "applyx";
const INBOX: &str = "quota.usage.applyx.v1";
const STRUCTURED: &[(&str, &str)] = &[("content-type", "application/cloudevents+json")];

/// A service's message.
struct Message {
    key: String,
    headers: Vec<(String, String)>,
    value: Option<Vec<u8>>,
}

impl Message {
    fn structured(subject: &str, value: impl Into<Vec<u8>>) -> Self {
        let headers = STRUCTURED
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            key: subject.to_owned(),
            headers,
            value: Some(value.into()),
        }
    }

    /// An event in binary mode: its attributes are headers.
    fn binary(event: &Value) -> Self {
        let members = event
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "data");
        let mut headers: Vec<_> = members
            .map(|(name, value)| (format!("ce_{name}"), value.as_str().unwrap().to_owned()))
            .collect();
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
        let key = event["subject"].as_str().unwrap().to_owned();
        Self {
            key,
            headers,
            value: Some(event["data"].to_string().into_bytes()),
        }
    }
}

async fn send(kafka: &Kafka, messages: &[Message]) {
    let publisher = Publisher::open(
        &Settings::new(&kafka.brokers, "e2e"),
        &PublisherOptions::default(),
    )
    .unwrap();
    let outgoing = messages.iter().map(|message| {
        let mut headers = Headers::with_capacity(16);
        for (name, value) in &message.headers {
            headers = headers.add(name, value.as_bytes());
        }
        let (key, payload) = (Some(message.key.as_bytes()), message.value.as_deref());
        Outgoing {
            topic: INBOX,
            partition: None,
            key,
            payload,
            headers: Some(headers),
        }
    });
    publisher.send(outgoing.collect()).await.unwrap();
}

fn usage(subject: &str, id: &str) -> Value {
    event(
        subject,
        id,
        "usage.recorded",
        json!({"feature": "resume_downloads", "amount": 1}),
    )
}

/// Invariant 12: what is good arrives, in binary and in structured mode; what is bad goes to the dead letters, untouched,
/// with the reason why, and holds up nothing behind it. Seen to fail without the sending of letters.
#[tokio::test(flavor = "multi_thread")]
async fn good_messages_arrive_and_bad_ones_are_told_apart() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let mut node = Node::serve(&database, &kafka).await;
    let mut messages: Vec<Message> = (0..40)
        .map(|number| {
            let event = usage(&format!("u{}", number % 8), &format!("good-{number}"));
            if number % 2 == 0 {
                Message::binary(&event)
            } else {
                Message::structured("any", event.to_string())
            }
        })
        .collect();
    let bad = garbage();
    for (index, (_, message)) in bad.into_iter().enumerate() {
        messages.insert(index * 3 + 1, message);
    }
    // Delivered once more, as Kafka's producers may: recorded once.
    messages.push(Message::binary(&usage("u0", "good-0")));
    send(&kafka, &messages).await;
    // The first and the changed one share an id; they are sent in this order, and only the second is in conflict.
    let mut changed = usage("u1", "good-1");
    changed["data"]["amount"] = json!(2);
    until("the good ones are recorded", async || {
        arrived(&database).len() >= 40
    })
    .await;
    send(
        &kafka,
        &[
            Message::structured("u1", changed.to_string()),
            Message::binary(&usage("u9", "last")),
        ],
    )
    .await;

    let mut reasons: Vec<&str> = garbage().iter().map(|(reason, _)| *reason).collect();
    reasons.push("idempotency_conflict");
    let mut letters = Reader::open(&kafka, DEAD_LETTERS);
    letters
        .until("every dead letter", |records| {
            records.len() >= reasons.len()
        })
        .await;
    until("what came behind is recorded", async || {
        arrived(&database).contains("last")
    })
    .await;
    let mut expected: BTreeSet<String> = (0..40).map(|number| format!("good-{number}")).collect();
    expected.insert("last".to_owned());
    assert_eq!(arrived(&database), expected);
    assert_letters(&letters.records, &reasons, &messages);
    node.stop().await;
    assert_eq!(
        database.sql("SELECT count(*) FROM ledger WHERE type = 'usage.recorded'"),
        "41"
    );
    database.verify();
}

/// Messages that cannot get in, with the codes that say why.
fn garbage() -> Vec<(&'static str, Message)> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut event = usage("u1", "bad");
        change(&mut event);
        Message::structured("u1", event.to_string())
    };
    let far = "2999-01-01T00:00:00Z";
    let mut not_text = Message::binary(&usage("u1", "bad"));
    not_text.value = Some(vec![0xff, 0xfe, 0x00]);
    vec![
        ("malformed", Message::structured("u1", "this is no JSON")),
        ("malformed", Message::structured("u1", "[1, 2]")),
        (
            "malformed",
            Message {
                key: "u1".to_owned(),
                headers: Vec::new(),
                value: Some(b"{}".to_vec()),
            },
        ),
        ("malformed", not_text),
        (
            "invalid_event",
            Message {
                key: "u1".to_owned(),
                headers: Vec::new(),
                value: None,
            },
        ),
        (
            "invalid_event",
            with(&|event| drop(event.as_object_mut().unwrap().remove("id"))),
        ),
        (
            "invalid_event",
            with(&|event| event["type"] = json!("quota.usage.denied.v1")),
        ),
        (
            "invalid_event",
            with(&|event| event["data"]["email"] = json!("somebody@example.com")),
        ),
        (
            "unknown_feature",
            with(&|event| event["data"]["feature"] = json!("flying")),
        ),
        (
            "wrong_product",
            with(&|event| event["product"] = json!("candidate-chat")),
        ),
        ("in_future", with(&|event| event["time"] = json!(far))),
        (
            "event_too_large",
            with(&|event| event["data"]["feature"] = json!("x".repeat(70_000))),
        ),
    ]
}

/// The ids of usage in the ledger.
fn arrived(database: &Database) -> BTreeSet<String> {
    let ids = database.sql("SELECT id FROM ledger WHERE type = 'usage.recorded'");
    ids.lines().map(str::to_owned).collect()
}

/// Each letter has its reason and where it came from, and is what was sent.
fn assert_letters(letters: &[Record], reasons: &[&str], sent: &[Message]) {
    let count = |reasons: &mut dyn Iterator<Item = &str>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        reasons.for_each(|reason| *counts.entry(reason.to_owned()).or_default() += 1);
        counts
    };
    let found = count(&mut letters.iter().map(|letter| header(letter, "quota_reason")));
    assert_eq!(found, count(&mut reasons.iter().copied()));
    let mut places = BTreeSet::new();
    for letter in letters {
        assert_eq!(header(letter, "quota_topic"), INBOX);
        assert!(!header(letter, "quota_detail").is_empty());
        let place = (
            header(letter, "quota_partition"),
            header(letter, "quota_offset"),
        );
        assert!(places.insert(place), "told twice: {place:?}");
        if header(letter, "quota_reason") != "idempotency_conflict" {
            assert!(
                sent.iter()
                    .any(|message| message.value.as_deref() == letter.payload()),
                "{letter:?} was changed"
            );
        }
    }
}

/// Invariant 1, for what Kafka was told is done: a service that is killed while it drains the inbox records every message
/// once. Seen to fail with offsets that were committed before the lane had answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_and_doubles_no_message() {
    const MESSAGES: usize = 3_000;
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let mut node = Node::serve(&database, &kafka).await;
    let messages: Vec<Message> = (0..MESSAGES)
        .map(|number| Message::binary(&usage(&format!("u{}", number % 50), &format!("m-{number}"))))
        .collect();
    send(&kafka, &messages).await;
    let recorded = || {
        database
            .sql("SELECT count(*) FROM ledger WHERE type = 'usage.recorded'")
            .parse::<usize>()
            .unwrap()
    };
    for part in [1, MESSAGES / 2] {
        until("a part is recorded", async || recorded() >= part).await;
        node.kill();
        node = Node::serve(&database, &kafka).await;
    }
    until("all is recorded", async || {
        arrived(&database).len() >= MESSAGES
    })
    .await;
    node.stop().await;
    assert_eq!(recorded(), MESSAGES);
    database.verify();
}
