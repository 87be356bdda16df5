//! Reading topics as any consumer would, and comparing the ledger's topic with the ledger.

use crate::program::LIMIT;
use crate::servers::{Database, Kafka};
use quota_core::row::Row;
use quota_core::state::FOLD_VERSION;
use quota_kafka::{GroupMember, GroupOptions, Record, Settings, StartAt};
use quota_postgres::Ledger;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub const LEDGER: &str = "quota.ledger.v1";
pub const DEAD_LETTERS: &str = "quota.dead-letter.v1";

/// Reads a topic from its beginning.
pub struct Reader {
    member: GroupMember,
    pub records: Vec<Record>,
}

impl Reader {
    pub fn open(kafka: &Kafka, topic: &str) -> Self {
        let options = GroupOptions {
            group: crate::client::unique("reader"),
            topics: vec![topic.to_owned()],
            start: StartAt::Committed { or_beginning: true },
        };
        let member = GroupMember::open(&Settings::new(&kafka.brokers, "e2e"), &options).unwrap();
        Self {
            member,
            records: Vec::new(),
        }
    }

    /// Reads on until the records are what is waited for.
    pub async fn until(&mut self, what: &str, mut enough: impl FnMut(&[Record]) -> bool) {
        let started = Instant::now();
        while !enough(&self.records) {
            assert!(
                started.elapsed() < LIMIT,
                "{} records, and not yet {what}",
                self.records.len()
            );
            let more = self
                .member
                .next_batch(1_000, Duration::from_millis(200))
                .await
                .unwrap();
            self.records.extend(more);
        }
    }
}

/// A header of a record.
pub fn header<'r>(record: &'r Record, name: &str) -> &'r str {
    let found: Vec<_> = record
        .headers()
        .filter(|(found, _)| *found == name)
        .collect();
    assert_eq!(found.len(), 1, "{name} of {record:?}");
    std::str::from_utf8(found[0].1.unwrap()).unwrap()
}

/// Every row of the ledger, by partition.
pub async fn rows(database: &Database) -> (Vec<Vec<Row>>, [u8; 16]) {
    let ledger = Ledger::connect(&database.url, FOLD_VERSION, 1)
        .await
        .unwrap();
    let mut partitions = Vec::new();
    for partition in 0..ledger.info().partitions {
        let mut all = Vec::new();
        let mut pages = ledger.pages(partition, 0, i64::MAX, 1_000);
        loop {
            let page = pages.next().await.unwrap();
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        partitions.push(all);
    }
    (partitions, ledger.info().id)
}

/// Waits until the topic holds all of the ledger, then compares them row by row.
pub async fn assert_topic_is_ledger(database: &Database, kafka: &Kafka) {
    let (partitions, ledger_id) = rows(database).await;
    let mut reader = Reader::open(kafka, LEDGER);
    let count = partitions.iter().map(Vec::len).sum::<usize>();
    let place = |record: &Record| (record.partition, header(record, "ce_offset").to_owned());
    reader
        .until("every row", |records| {
            records.iter().map(place).collect::<BTreeSet<_>>().len() >= count
        })
        .await;
    for (number, rows) in (0_i32..).zip(&partitions) {
        let records = reader
            .records
            .iter()
            .filter(|record| record.partition == number);
        assert_partition(number, rows, records, &ledger_id);
    }
}

/// In the topic's order and without those seen before, a partition's records are its rows; each hash follows from the
/// records alone.
fn assert_partition<'r>(
    number: i32,
    rows: &[Row],
    records: impl Iterator<Item = &'r Record>,
    ledger_id: &[u8; 16],
) {
    let mut chain = Chain::begin(ledger_id, number);
    for record in records {
        let offset: usize = header(record, "ce_offset").parse().unwrap();
        assert!(
            offset <= chain.next,
            "partition {number}: {offset} came before {}",
            chain.next
        );
        if offset < chain.next {
            continue;
        }
        assert_headers(record, &rows[offset], ledger_id);
        chain.read(record);
    }
    assert_eq!(chain.next, rows.len(), "partition {number} is not complete");
}

fn assert_headers(record: &Record, row: &Row, ledger_id: &[u8; 16]) {
    let whose = format!("{}/{}", row.product, row.subject);
    assert_eq!(record.key(), Some(whose.as_bytes()));
    assert_eq!(record.payload(), Some(&*row.payload));
    let mut expected = vec![
        ("ce_specversion", "1.0".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("ce_id", row.id.to_string()),
        ("ce_source", row.source.to_string()),
        (
            "ce_type",
            format!("quota.{}.v{}", row.event_type, row.type_version),
        ),
        ("ce_subject", row.subject.to_string()),
        ("ce_product", row.product.to_string()),
        ("ce_time", row.occurred_at.to_string()),
        ("ce_recordedtime", row.recorded_at.to_string()),
        (
            "ce_ledgerid",
            uuid::Uuid::from_bytes(*ledger_id).to_string(),
        ),
        ("ce_epoch", "0".to_owned()),
        ("ce_partition", row.partition.to_string()),
        ("ce_offset", row.offset.to_string()),
        ("ce_subjectseq", row.subject_seq.to_string()),
        ("ce_catalogversion", row.catalog_version.to_string()),
        ("ce_hash", hex::encode(row.hash)),
    ];
    expected.retain(|(_, value)| !value.is_empty());
    expected.sort();
    let utf8 = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    let mut found: Vec<_> = record
        .headers()
        .map(|(name, value)| (name, utf8(value)))
        .collect();
    found.sort();
    assert_eq!(found, expected);
}

/// The hash chain of a partition, made again from records alone, as a reader in any language would.
struct Chain {
    next: usize,
    hash: Vec<u8>,
    subjects: BTreeMap<Vec<u8>, i64>,
}

impl Chain {
    fn begin(ledger_id: &[u8; 16], partition: i32) -> Self {
        let parts = [
            &b"quota-ledger genesis v1"[..],
            ledger_id,
            &i64::from(partition).to_be_bytes(),
        ];
        Self {
            next: 0,
            hash: sha256(&parts),
            subjects: BTreeMap::new(),
        }
    }

    fn read(&mut self, record: &Record) {
        let text = |name: &str| header(record, name).as_bytes();
        let or_empty = |name| {
            if record.headers().any(|(found, _)| found == name) {
                text(name)
            } else {
                b""
            }
        };
        let number = |name| header(record, name).parse::<i64>().unwrap();
        let micros = |name| {
            quota_core::time::Timestamp::parse(header(record, name))
                .unwrap()
                .micros()
        };
        let (product, subject) = (or_empty("ce_product"), or_empty("ce_subject"));
        let subject_key = sha256(&[product, subject])[..16].to_vec();
        let event = [
            b"quota-ledger event key v1",
            product,
            subject,
            text("ce_source"),
            text("ce_id"),
        ];
        let event_key = &sha256(&event)[..16];
        let (name, version) = header(record, "ce_type")
            .strip_prefix("quota.")
            .unwrap()
            .rsplit_once(".v")
            .unwrap();
        let previous = self
            .subjects
            .insert(subject_key.clone(), number("ce_offset"))
            .unwrap_or(-1);
        let digest = sha256(&[
            b"quota-ledger row v1",
            &number("ce_partition").to_be_bytes(),
            &number("ce_offset").to_be_bytes(),
            &subject_key,
            &number("ce_subjectseq").to_be_bytes(),
            &previous.to_be_bytes(),
            event_key,
            product,
            subject,
            text("ce_source"),
            text("ce_id"),
            name.as_bytes(),
            &version.parse::<i64>().unwrap().to_be_bytes(),
            &micros("ce_time").to_be_bytes(),
            &micros("ce_recordedtime").to_be_bytes(),
            &number("ce_catalogversion").to_be_bytes(),
            record.payload().unwrap(),
        ]);
        self.hash = sha256(&[b"quota-ledger chain v1", &self.hash, &digest]);
        assert_eq!(
            hex::encode(&self.hash),
            header(record, "ce_hash"),
            "the chain breaks at {record:?}"
        );
        self.next += 1;
    }
}

/// SHA-256 over length-prefixed parts.
fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_vec()
}
