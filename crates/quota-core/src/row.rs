//! A row of the ledger, as every part of the system sees it.

use crate::digest::{EventKey, Hash, SubjectKey, chain, row_digest};
use crate::position::Position;
use crate::time::Timestamp;
use std::sync::Arc;

/// One event in the ledger. Never changed once written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The partition, from the subject's key.
    pub partition: u32,
    /// Dense from 0 within the partition.
    pub offset: i64,
    /// The subject's key.
    pub subject_key: SubjectKey,
    /// Dense from 1 within the subject.
    pub subject_seq: i64,
    /// The offset of the subject's previous event; none for its first.
    pub subject_prev: Option<i64>,
    /// The digest of product, subject, source and id.
    pub event_key: EventKey,
    /// The product; empty only for the ledger's own events.
    pub product: Arc<str>,
    /// The subject; empty for catalogs and epochs.
    pub subject: Arc<str>,
    /// Who told: a CloudEvents source, or `quota:…` for the service itself.
    pub source: Arc<str>,
    /// The id, unique per product, subject and source.
    pub id: Arc<str>,
    /// The bare type, for example `usage.recorded`.
    pub event_type: Arc<str>,
    /// The type's schema version.
    pub type_version: u16,
    /// When it happened, by its producer.
    pub occurred_at: Timestamp,
    /// When it was decided and recorded, by the database's clock; never goes back within a partition.
    pub recorded_at: Timestamp,
    /// The catalog version that it was judged under; 0 where there was none.
    pub catalog_version: u32,
    /// The exact bytes of `data`.
    pub payload: Arc<[u8]>,
    /// SHA-256 over the previous row's hash and this row's digest.
    pub hash: Hash,
}

impl Row {
    /// Where it stands, in the given epoch.
    #[must_use]
    pub const fn position(&self, epoch: u32) -> Position {
        Position {
            epoch,
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// The end of its partition, where it is the last row.
    #[must_use]
    pub const fn head(&self) -> Head {
        Head {
            offset: self.offset,
            hash: self.hash,
            recorded_at: self.recorded_at,
        }
    }

    /// The hash that this row must have after a row with the hash `previous`.
    #[must_use]
    pub fn expected_hash(&self, previous: &Hash) -> Hash {
        chain(previous, &row_digest(self))
    }
}

/// The end of a partition: what the next row is built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last offset; -1 in an empty partition.
    pub offset: i64,
    /// The last row's hash; the genesis hash in an empty partition.
    pub hash: Hash,
    /// The last row's `recorded_at`; [`Timestamp::MIN`] in an empty partition.
    pub recorded_at: Timestamp,
}
