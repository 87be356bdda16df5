//! The auditor's rule for one partition: density, order, keys and the hash chain, row by row from the first.

use crate::command::Address;
use crate::digest::{Hash, SubjectKey, genesis, subject_key};
use crate::epoch::Epochs;
use crate::position::Position;
use crate::row::{Head, Row};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use thiserror::Error;

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{position}: {what}")]
pub struct Broken {
    /// Where.
    pub position: Position,
    /// What is wrong there.
    pub what: String,
}

/// What a checkpoint says of one partition: this offset had this hash at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The epoch that the ledger was in then.
    pub epoch: u32,
    /// The partition's last offset then.
    pub offset: i64,
    /// Its hash.
    pub hash: Hash,
    /// When the checkpoint was made.
    pub at: Timestamp,
}

/// A partition read from its first row on.
pub struct Audit {
    partition: u32,
    partitions: u32,
    head: Head,
    subjects: BTreeMap<SubjectKey, (i64, i64)>,
    /// By offset and epoch; of several that agree, one.
    marks: BTreeMap<(i64, u32), Mark>,
    /// Marks of what a later epoch went on without: they say nothing any more.
    void: usize,
    epochs: Epochs,
}

impl Audit {
    /// An audit that has read nothing yet, of a ledger with these epochs.
    #[must_use]
    pub fn new(ledger_id: &[u8; 16], partition: u32, partitions: u32, epochs: Epochs) -> Self {
        let hash: Hash = genesis(ledger_id, partition);
        let head = Head {
            offset: -1,
            hash,
            recorded_at: Timestamp::MIN,
        };
        Self {
            partition,
            partitions,
            head,
            subjects: BTreeMap::new(),
            marks: BTreeMap::new(),
            void: 0,
            epochs,
        }
    }

    /// Expects what a checkpoint says of this partition.
    ///
    /// # Errors
    /// Another checkpoint said otherwise of the same offset: one of them is of another history.
    pub fn expect(&mut self, mark: Mark) -> Result<(), Broken> {
        // Before the first row there is nothing to compare but the genesis, which every audit begins with.
        if mark.offset < 0 {
            return Ok(());
        }
        let position = Position {
            epoch: mark.epoch,
            partition: self.partition,
            offset: mark.offset,
        };
        if mark.epoch <= self.epochs.current() && !self.epochs.holds(position) {
            self.void += 1;
            return Ok(());
        }
        let known = self.marks.entry((mark.offset, mark.epoch)).or_insert(mark);
        if known.hash == mark.hash {
            return Ok(());
        }
        let what = format!(
            "the checkpoints of {} and {} differ here",
            known.at, mark.at
        );
        Err(self.broken(mark.offset, what))
    }

    /// Whether all rows were read that checkpoints know of.
    ///
    /// # Errors
    /// The first row that is missing at the partition's end.
    pub fn finish(&self) -> Result<(), Broken> {
        let missing = self.marks.range((self.head.offset + 1, 0)..).next_back();
        match missing {
            None => Ok(()),
            Some(((offset, _), mark)) => {
                let what = format!(
                    "the partition ends here, and went to offset {offset} at the checkpoint of {}",
                    mark.at
                );
                Err(self.broken(self.head.offset + 1, what))
            }
        }
    }

    /// How many marks are of what a later epoch went on without.
    #[must_use]
    pub const fn void(&self) -> usize {
        self.void
    }

    fn broken(&self, offset: i64, what: String) -> Broken {
        Broken {
            position: self.epochs.position(self.partition, offset),
            what,
        }
    }

    /// The last row that was read and is right.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// Reads the next row.
    ///
    /// # Errors
    /// What is wrong with it; the audit then stands before it still.
    pub fn read(&mut self, row: &Row) -> Result<(), Broken> {
        let expected = self.head.offset + 1;
        let (seq, before) = self
            .subjects
            .get(&row.subject_key)
            .map_or((0, None), |(seq, at)| (*seq, Some(*at)));
        match self.fault(row, expected, seq, before) {
            Some(what) => Err(self.broken(expected.min(row.offset), what)),
            None => {
                self.subjects
                    .insert(row.subject_key, (row.subject_seq, row.offset));
                self.head = row.head();
                Ok(())
            }
        }
    }

    fn fault(&self, row: &Row, expected: i64, seq: i64, before: Option<i64>) -> Option<String> {
        if row.partition != self.partition {
            return Some(format!(
                "the row says that it is of partition {}",
                row.partition
            ));
        }
        if row.offset != expected {
            return Some(format!(
                "offset {expected} is missing; the next row is {}",
                row.offset
            ));
        }
        if row.hash != row.expected_hash(&self.head.hash) {
            return Some("the hash does not follow from the row and the one before it".to_owned());
        }
        let mut marks = self
            .marks
            .range((row.offset, 0)..=(row.offset, u32::MAX))
            .map(|(_, mark)| mark);
        if let Some(mark) = marks.find(|mark| mark.hash != row.hash) {
            return Some(format!(
                "the checkpoint of {} has another hash: this row or one before it was changed since",
                mark.at
            ));
        }
        if row.recorded_at < self.head.recorded_at {
            return Some("recorded_at goes back".to_owned());
        }
        if row.subject_seq != seq + 1 || row.subject_prev != before {
            return Some(format!(
                "the subject's sequence breaks: {} follows {seq}",
                row.subject_seq
            ));
        }
        let address = Address::new(&row.product, &row.subject, self.partitions);
        let key = subject_key(&row.product, &row.subject);
        if row.subject_key != key || row.event_key != address.event_key(&row.source, &row.id) {
            return Some(
                "the keys are not the digests of product, subject, source and id".to_owned(),
            );
        }
        if !row.subject.is_empty() && address.partition != row.partition {
            return Some(format!(
                "the subject belongs to partition {}",
                address.partition
            ));
        }
        None
    }
}
