//! The oracle: what the design's invariants say of this world, written apart from the product's code.
//!
//! It sees every row when it becomes durable and every answer that a client gets. It decides nothing by the product's own
//! rules: limits are counted anew (see [`limits`]); only "a view is the fold of its prefix" asks the fold itself.

mod attempts;
mod calendar;
mod checks;
mod limits;
mod views;

pub use attempts::Attempt;
pub use checks::check_outcome;
pub use views::{check_caches, check_views};

use crate::coverage::{Coverage, Hit};
use crate::store::{LEDGER, Store};
use attempts::Each;
use limits::Limits;
use quota_core::digest::{Hash, genesis, partition_of, subject_key};
use quota_core::row::Row;
use quota_core::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What names an event for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub product: String,
    pub subject: String,
    pub source: String,
    pub id: String,
}

/// What a client was told of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is at this place, and this is what came of it.
    Recorded(u32, i64, String),
    /// Decided, and surely not recorded: there was nothing to record.
    Nothing,
    /// Surely nothing was recorded by this attempt.
    Refused,
    /// Nobody knows.
    Unknown,
}

#[derive(Default)]
struct Attempts {
    /// The first definite answer of each content.
    first: BTreeMap<String, (u32, i64, String)>,
    unknown: bool,
}

struct Partition {
    next: i64,
    hash: Hash,
    recorded_at: Timestamp,
    versions: BTreeMap<Arc<str>, u32>,
    /// The first offset that the topic never held.
    topic: i64,
}

/// A product, a subject, and, where every partition has a sequence of it, the partition.
type Stream = (Arc<str>, Arc<str>, u32);

pub struct Oracle {
    partitions: Vec<Partition>,
    /// Each subject's last sequence number, and where it stands.
    subjects: BTreeMap<Stream, (i64, i64)>,
    rows: BTreeMap<Identity, (u32, i64)>,
    attempts: BTreeMap<Identity, Attempts>,
    limits: Limits,
    /// Each attempt by itself.
    pub each: Each,
}

impl Oracle {
    pub fn new(partitions: u32) -> Self {
        let fresh = |partition| Partition {
            next: 0,
            hash: genesis(&LEDGER, partition),
            recorded_at: Timestamp::MIN,
            versions: BTreeMap::new(),
            topic: 0,
        };
        Self {
            partitions: (0..partitions).map(fresh).collect(),
            subjects: BTreeMap::new(),
            rows: BTreeMap::new(),
            attempts: BTreeMap::new(),
            limits: Limits::default(),
            each: Each::default(),
        }
    }

    /// A row became durable: invariants 2, 4, 6, 8 and 10.
    pub fn committed(&mut self, row: &Row, coverage: &mut Coverage) {
        let count = self.partitions.len() as u32;
        let partition = &mut self.partitions[row.partition as usize];
        assert_eq!(row.offset, partition.next, "offsets are dense");
        assert_eq!(
            row.hash,
            row.expected_hash(&partition.hash),
            "rows are chained"
        );
        assert!(
            row.recorded_at >= partition.recorded_at,
            "recorded_at never goes back: {row:?}"
        );
        partition.next += 1;
        (partition.hash, partition.recorded_at) = (row.hash, row.recorded_at);
        let version = partition
            .versions
            .entry(Arc::clone(&row.product))
            .or_insert(0);
        if &*row.event_type == "catalog.published" {
            *version += 1;
        } else {
            let key = subject_key(&row.product, &row.subject);
            assert_eq!(
                row.subject_key, key,
                "a subject's key is its product's and its own"
            );
            assert_eq!(
                row.partition,
                partition_of(&key, count),
                "a subject has one partition"
            );
        }
        assert_eq!(
            row.catalog_version, *version,
            "each partition has an exact switch point: {row:?}"
        );
        let name = (Arc::clone(&row.product), Arc::clone(&row.subject));
        let of = if row.subject.is_empty() {
            row.partition
        } else {
            0
        };
        let last = self
            .subjects
            .insert((name.0, name.1, of), (row.subject_seq, row.offset));
        assert_eq!(
            row.subject_seq,
            last.map_or(1, |(seq, _)| seq + 1),
            "a subject's events are dense: {row:?}"
        );
        assert_eq!(
            row.subject_prev,
            last.map(|(_, offset)| offset),
            "and chained: {row:?}"
        );
        if !row.subject.is_empty() {
            let place = (row.partition, row.offset);
            let before = self.rows.insert(identity(row), place);
            assert_eq!(before, None, "an event is recorded once: {row:?}");
            self.limits.recorded(row, coverage);
        }
    }

    /// A client was told what came of an attempt with this content: invariants 1, 6 and 11.
    pub fn told(&mut self, who: &Identity, content: &str, told: &Told, coverage: &mut Coverage) {
        let attempts = self.attempts.entry(who.clone()).or_default();
        match told {
            Told::Unknown => attempts.unknown = true,
            Told::Refused | Told::Nothing => {}
            Told::Recorded(partition, offset, words) => {
                let place = (*partition, *offset);
                assert_eq!(
                    self.rows.get(who),
                    Some(&place),
                    "what is acknowledged is in the ledger: {who:?}"
                );
                let answer = (*partition, *offset, words.clone());
                match attempts.first.get(content) {
                    None => {
                        assert!(
                            attempts.first.is_empty(),
                            "the same id with other content is a conflict: {who:?}"
                        );
                        attempts.first.insert(content.to_owned(), answer);
                    }
                    Some(first) => {
                        coverage.hit(Hit::Replayed);
                        assert_eq!(*first, answer, "a retry gets the first outcome: {who:?}");
                    }
                }
            }
        }
    }

    /// Whether an event is in the ledger.
    pub fn has(&self, who: &Identity) -> bool {
        self.rows.contains_key(who)
    }

    /// Whether an event of this content is known to stand under the id.
    pub fn stands(&self, who: &Identity) -> bool {
        self.attempts
            .get(who)
            .is_some_and(|attempts| !attempts.first.is_empty())
    }

    /// A record went to the end of the topic: invariant 7.
    pub fn published(&mut self, row: &Row, damaged: bool) {
        let partition = &mut self.partitions[row.partition as usize];
        assert!(
            damaged || row.offset <= partition.topic,
            "the topic is in offset order: {row:?}"
        );
        partition.topic = partition.topic.max(row.offset + 1);
    }

    pub fn topic_lost(&mut self, _: u32) {}

    /// The last offset that a partition of the topic ever held.
    pub fn reached(&self, partition: u32) -> i64 {
        self.partitions[partition as usize].topic - 1
    }

    /// Everything has come to its end: what was said of every attempt is so.
    pub fn finish(&self, store: &Store) {
        for (who, attempts) in &self.attempts {
            let row = self.rows.get(who);
            for (partition, offset, _) in attempts.first.values() {
                let kept = store.rows(*partition).get(*offset as usize);
                assert_eq!(
                    kept.map(|row| identity(row)).as_ref(),
                    Some(who),
                    "acknowledged is kept: {who:?}"
                );
            }
            let surely_not = attempts.first.is_empty() && !attempts.unknown;
            assert!(
                !surely_not || row.is_none(),
                "told that nothing was recorded, and it is: {who:?} at {row:?}"
            );
        }
    }
}

/// What names a row's event.
pub fn identity(row: &Row) -> Identity {
    Identity {
        product: row.product.to_string(),
        subject: row.subject.to_string(),
        source: row.source.to_string(),
        id: row.id.to_string(),
    }
}
