//! Checkpoints: where all partitions of a ledger ended at an instant, in one form that can be signed.
//!
//! A checkpoint leaves the database, so that whoever changes history there cannot change it too: rows before it can then
//! neither be changed nor removed nor cut off unseen. The signature is made and checked elsewhere; it is over
//! [`Checkpoint::message`].

use crate::digest::{Hash, checkpoint_digest};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The end of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its last offset; -1 where it has no row.
    pub offset: i64,
    /// The hash of that row; of an empty partition, its genesis.
    pub hash: Hash,
}

/// All partitions' ends at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ledger.
    pub ledger_id: [u8; 16],
    /// Its epoch.
    pub epoch: u32,
    /// When it was made, by the clock of the database.
    pub at: Timestamp,
    /// The ends, by partition.
    pub ends: Vec<End>,
}

impl Checkpoint {
    /// What is signed.
    #[must_use]
    pub fn message(&self) -> Hash {
        checkpoint_digest(self)
    }
}

/// A checkpoint with the signature of whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The public key (Ed25519).
    pub key: [u8; 32],
    /// The signature over the checkpoint's message.
    pub signature: [u8; 64],
}

/// Bytes that are no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this is no checkpoint: {0}")]
pub struct NoCheckpoint(String);

#[derive(Deserialize, Serialize)]
struct Written {
    ledger: String,
    epoch: u32,
    at: String,
    heads: Vec<WrittenEnd>,
    key: String,
    signature: String,
}

#[derive(Deserialize, Serialize)]
struct WrittenEnd {
    offset: i64,
    hash: String,
}

impl Signed {
    /// It as one line of JSON, without the line's end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let Checkpoint {
            ledger_id,
            epoch,
            at,
            ends,
        } = &self.checkpoint;
        let written = Written {
            ledger: hex::encode(ledger_id),
            epoch: *epoch,
            at: at.to_string(),
            heads: ends
                .iter()
                .map(|end| WrittenEnd {
                    offset: end.offset,
                    hash: hex::encode(end.hash),
                })
                .collect(),
            key: hex::encode(self.key),
            signature: hex::encode(self.signature),
        };
        // Our own struct always encodes.
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads what [`Signed::to_line`] wrote. The signature is not checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, NoCheckpoint> {
        let written: Written =
            serde_json::from_slice(line).map_err(|error| NoCheckpoint(error.to_string()))?;
        let end = |end: &WrittenEnd| {
            Ok(End {
                offset: end.offset,
                hash: bytes("a head's hash", &end.hash)?,
            })
        };
        let ends: Result<Vec<End>, NoCheckpoint> = written.heads.iter().map(end).collect();
        let at = Timestamp::parse(&written.at);
        Ok(Self {
            checkpoint: Checkpoint {
                ledger_id: bytes("ledger", &written.ledger)?,
                epoch: written.epoch,
                at: at.ok_or_else(|| NoCheckpoint("at is no time".to_owned()))?,
                ends: ends?,
            },
            key: bytes("key", &written.key)?,
            signature: bytes("signature", &written.signature)?,
        })
    }
}

/// The bytes of a member in hexadecimal.
fn bytes<const N: usize>(member: &str, text: &str) -> Result<[u8; N], NoCheckpoint> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(NoCheckpoint(format!("{member}: {error}"))),
    }
}
