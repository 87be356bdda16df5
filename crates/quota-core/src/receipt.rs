//! Receipts: the proof that an event is in a ledger, which anybody can check without it.
//!
//! A receipt is one row, the hash before it, the digests of the rows after it up to a checkpoint, and that checkpoint with its
//! signature. Digests say nothing of what they are of, so it shows nobody else's content. Whether the signature is good, and
//! whose it is, is found out elsewhere; here is what else must hold.

use crate::checkpoint::Signed;
use crate::command::Address;
use crate::digest::{Hash, chain};
use crate::row::Row;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

/// The proof that an event is in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The event, as it was recorded.
    pub row: Row,
    /// The hash of the row before it; of a partition's first, the partition's genesis.
    pub previous: Hash,
    /// The digests of the rows after it, up to where the checkpoint found the partition's end.
    pub digests: Vec<Hash>,
    /// The checkpoint.
    pub signed: Signed,
}

/// What a receipt does not prove.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NoProof(String);

impl NoProof {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    row: WrittenRow,
    previous_hash: String,
    digests: Vec<String>,
    checkpoint: Box<RawValue>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    partition: u32,
    offset: i64,
    subject_key: String,
    subject_seq: i64,
    subject_prev: Option<i64>,
    event_key: String,
    product: String,
    subject: String,
    source: String,
    id: String,
    r#type: String,
    type_version: u16,
    occurred_at: String,
    recorded_at: String,
    catalog_version: u32,
    payload: String,
    hash: String,
}

impl Receipt {
    /// It as JSON; none where the row's payload is no text, as no event's is.
    #[must_use]
    pub fn to_json(&self) -> Option<Vec<u8>> {
        let row = &self.row;
        let written = Written {
            row: WrittenRow {
                partition: row.partition,
                offset: row.offset,
                subject_key: hex::encode(row.subject_key),
                subject_seq: row.subject_seq,
                subject_prev: row.subject_prev,
                event_key: hex::encode(row.event_key),
                product: row.product.to_string(),
                subject: row.subject.to_string(),
                source: row.source.to_string(),
                id: row.id.to_string(),
                r#type: row.event_type.to_string(),
                type_version: row.type_version,
                occurred_at: row.occurred_at.to_string(),
                recorded_at: row.recorded_at.to_string(),
                catalog_version: row.catalog_version,
                payload: String::from_utf8(row.payload.to_vec()).ok()?,
                hash: hex::encode(row.hash),
            },
            previous_hash: hex::encode(self.previous),
            digests: self.digests.iter().map(hex::encode).collect(),
            checkpoint: RawValue::from_string(self.signed.to_line()).ok()?,
        };
        serde_json::to_vec(&written).ok()
    }

    /// Reads what [`Receipt::to_json`] wrote. Nothing of it is checked.
    ///
    /// # Errors
    /// It is no receipt.
    pub fn parse(text: &[u8]) -> Result<Self, NoProof> {
        let written: Written = serde_json::from_slice(text)
            .map_err(|error| NoProof::new(format!("this is no receipt: {error}")))?;
        let row = written.row;
        let signed = Signed::parse(written.checkpoint.get().as_bytes());
        let digests = written.digests.iter();
        Ok(Self {
            row: Row {
                partition: row.partition,
                offset: row.offset,
                subject_key: bytes("subject_key", &row.subject_key)?,
                subject_seq: row.subject_seq,
                subject_prev: row.subject_prev,
                event_key: bytes("event_key", &row.event_key)?,
                product: row.product.into(),
                subject: row.subject.into(),
                source: row.source.into(),
                id: row.id.into(),
                event_type: row.r#type.into(),
                type_version: row.type_version,
                occurred_at: instant("occurred_at", &row.occurred_at)?,
                recorded_at: instant("recorded_at", &row.recorded_at)?,
                catalog_version: row.catalog_version,
                payload: row.payload.into_bytes().into(),
                hash: bytes("hash", &row.hash)?,
            },
            previous: bytes("previous_hash", &written.previous_hash)?,
            digests: digests
                .map(|digest| bytes("digests", digest))
                .collect::<Result<_, _>>()?,
            signed: signed.map_err(|error| NoProof::new(format!("checkpoint: {error}")))?,
        })
    }

    /// Follows the row to the checkpoint. If the signature is good as well, the row was in the ledger when it was made.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self) -> Result<(), NoProof> {
        let (row, checkpoint) = (&self.row, &self.signed.checkpoint);
        let partitions = u32::try_from(checkpoint.ends.len()).unwrap_or(u32::MAX);
        let address = Address::new(&row.product, &row.subject, partitions);
        if (row.subject_key, row.event_key)
            != (address.key, address.event_key(&row.source, &row.id))
        {
            return Err(NoProof::new(
                "the keys are not the digests of product, subject, source and id",
            ));
        }
        let of_subject = row.subject.is_empty() || address.partition == row.partition;
        let end = usize::try_from(row.partition).ok();
        let end = end.and_then(|index| checkpoint.ends.get(index));
        let Some(end) = end.filter(|_| of_subject) else {
            return Err(NoProof::new("the subject belongs to another partition"));
        };
        if row.hash != row.expected_hash(&self.previous) {
            return Err(NoProof::new(
                "the hash does not follow from the event and the hash before it",
            ));
        }
        let distance = i64::try_from(self.digests.len()).unwrap_or(i64::MAX);
        if row.offset < 0 || row.offset.checked_add(distance) != Some(end.offset) {
            return Err(NoProof::new(
                "the digests do not lead from the event to the checkpoint's end of its partition",
            ));
        }
        let reached = self
            .digests
            .iter()
            .fold(row.hash, |hash, digest| chain(&hash, digest));
        if reached != end.hash {
            return Err(NoProof::new(
                "the chain of hashes does not lead from the event to the checkpoint",
            ));
        }
        Ok(())
    }
}

fn bytes<const N: usize>(member: &str, text: &str) -> Result<[u8; N], NoProof> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(NoProof::new(format!("{member}: {error}"))),
    }
}

fn instant(member: &str, text: &str) -> Result<Timestamp, NoProof> {
    Timestamp::parse(text).ok_or_else(|| NoProof::new(format!("{member} is no time")))
}
