//! The digests that name subjects and events, and the hash chain of a partition.
//!
//! Every digest is SHA-256 over a domain word and length-prefixed fields, so that no two inputs of different shape meet.

use crate::checkpoint::Checkpoint;
use crate::row::Row;
use crate::time::Timestamp;
use sha2::{Digest as _, Sha256};

/// Names a subject of a product within the ledger: 16 bytes.
pub type SubjectKey = [u8; 16];
/// Names an event for ever: a digest of product, subject, source and id.
pub type EventKey = [u8; 16];
/// A link of a partition's hash chain.
pub type Hash = [u8; 32];

struct Hasher(Sha256);

impl Hasher {
    fn new(domain: &str) -> Self {
        Self(Sha256::new()).bytes(domain.as_bytes())
    }

    fn bytes(mut self, field: &[u8]) -> Self {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
        self
    }

    fn int(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn time(self, value: Timestamp) -> Self {
        self.int(value.micros())
    }

    fn full(self) -> Hash {
        self.0.finalize().into()
    }

    fn half(self) -> [u8; 16] {
        let full = self.full();
        let mut half = [0; 16];
        half.copy_from_slice(full.split_at(16).0);
        half
    }
}

/// The key of a subject within the ledger.
#[must_use]
pub fn subject_key(product: &str, subject: &str) -> SubjectKey {
    // No domain word here: the design fixes this digest, and partitions hang on it.
    let hasher = Hasher(Sha256::new());
    hasher
        .bytes(product.as_bytes())
        .bytes(subject.as_bytes())
        .half()
}

/// The partition of a subject among `partitions`: its key's first eight bytes, modulo.
#[must_use]
pub fn partition_of(key: &SubjectKey, partitions: u32) -> u32 {
    let mut first = [0; 8];
    first.copy_from_slice(key.split_at(8).0);
    let partition = u64::from_be_bytes(first) % u64::from(partitions.max(1));
    u32::try_from(partition).unwrap_or(0)
}

/// The key that makes one (product, subject, source, id) one event, for ever.
#[must_use]
pub fn event_key(product: &str, subject: &str, source: &str, id: &str) -> EventKey {
    Hasher::new("quota-ledger event key v1")
        .bytes(product.as_bytes())
        .bytes(subject.as_bytes())
        .bytes(source.as_bytes())
        .bytes(id.as_bytes())
        .half()
}

/// What the first row of a partition is chained to: it binds the chain to this ledger and partition.
#[must_use]
pub fn genesis(ledger_id: &[u8; 16], partition: u32) -> Hash {
    Hasher::new("quota-ledger genesis v1")
        .bytes(ledger_id)
        .int(i64::from(partition))
        .full()
}

/// The digest of a row's content: every column but the hash.
#[must_use]
pub fn row_digest(row: &Row) -> Hash {
    Hasher::new("quota-ledger row v1")
        .int(i64::from(row.partition))
        .int(row.offset)
        .bytes(&row.subject_key)
        .int(row.subject_seq)
        .int(row.subject_prev.unwrap_or(-1))
        .bytes(&row.event_key)
        .bytes(row.product.as_bytes())
        .bytes(row.subject.as_bytes())
        .bytes(row.source.as_bytes())
        .bytes(row.id.as_bytes())
        .bytes(row.event_type.as_bytes())
        .int(i64::from(row.type_version))
        .time(row.occurred_at)
        .time(row.recorded_at)
        .int(i64::from(row.catalog_version))
        .bytes(&row.payload)
        .full()
}

/// The next link: the previous row's hash and this row's digest.
#[must_use]
pub fn chain(previous: &Hash, digest: &Hash) -> Hash {
    Hasher::new("quota-ledger chain v1")
        .bytes(previous)
        .bytes(digest)
        .full()
}

/// The digest of a checkpoint: ledger, epoch, instant, and every partition's last offset and hash.
#[must_use]
pub fn checkpoint_digest(checkpoint: &Checkpoint) -> Hash {
    let hasher = Hasher::new("quota-ledger checkpoint v1")
        .bytes(&checkpoint.ledger_id)
        .int(i64::from(checkpoint.epoch))
        .time(checkpoint.at);
    let ends = checkpoint.ends.iter();
    ends.fold(hasher, |hasher, end| {
        hasher.int(end.offset).bytes(&end.hash)
    })
    .full()
}
