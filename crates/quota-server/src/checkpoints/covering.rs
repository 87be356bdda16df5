//! The checkpoint that a row is proved by: one at or after it, and not far.

use super::Trust;
use super::marks::lines;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::checkpoint::Signed;
use quota_core::epoch::Epochs;
use quota_core::position::Position;
use quota_core::row::Row;
use quota_kafka::{From, Reading};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Checkpoints of its own that a node remembers.
const REMEMBERED: usize = 64;
/// How far the clocks of a node and the database may be apart, in milliseconds: a checkpoint's record is looked for by time.
const SLACK: i64 = 600_000;

/// The checkpoints that this node has made, the newest of them.
#[derive(Debug, Default)]
pub struct Sealed(Mutex<VecDeque<Signed>>);

impl Sealed {
    /// Remembers one.
    pub(super) fn add(&self, signed: Signed) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(signed);
        if kept.len() > REMEMBERED {
            kept.pop_front();
        }
    }

    /// The first that covers a row, unless there may be one before it that does.
    fn first(&self, wanted: &Wanted<'_>) -> Option<Signed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|signed| wanted.covers(signed))?;
        (place > 0).then(|| kept.get(place).cloned()).flatten()
    }

    /// The first that covers a row, whatever came before it.
    fn any(&self, wanted: &Wanted<'_>) -> Option<Signed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|signed| wanted.covers(signed)).cloned()
    }
}

/// A row that is to be proved.
struct Wanted<'a> {
    row: &'a Row,
    ledger_id: &'a [u8; 16],
    epochs: &'a Epochs,
}

impl Wanted<'_> {
    /// Whether the chain leads from the row to this checkpoint: it is of this ledger's history, and at the row or after it.
    fn covers(&self, signed: &Signed) -> bool {
        let checkpoint = &signed.checkpoint;
        let end = usize::try_from(self.row.partition).ok();
        let end = end.and_then(|index| checkpoint.ends.get(index));
        end.is_some_and(|end| {
            let position = Position {
                epoch: checkpoint.epoch,
                partition: self.row.partition,
                offset: end.offset,
            };
            checkpoint.ledger_id == *self.ledger_id
                && end.offset >= self.row.offset
                && self.epochs.holds(position)
        })
    }

    fn read(&self, line: &[u8]) -> Option<Signed> {
        let signed = Signed::parse(line).ok()?;
        (self.covers(&signed) && Trust::default().objection(&signed).is_none()).then_some(signed)
    }
}

/// The first checkpoint that covers a row: of those that this node remembers, of the topic, or, where the broker forgets, of
/// the file.
///
/// # Errors
/// Topic or file cannot be read.
pub async fn covering(
    row: &Row,
    ledger_id: &[u8; 16],
    epochs: &Epochs,
    sealed: &Sealed,
    topics: &Topics,
    file: Option<&Path>,
) -> anyhow::Result<Option<Signed>> {
    let wanted = Wanted {
        row,
        ledger_id,
        epochs,
    };
    if let Some(signed) = sealed.first(&wanted) {
        return Ok(Some(signed));
    }
    let mut found = None;
    if topics.is_embedded() {
        if let Some(file) = file {
            lines(file, |line| match wanted.read(line) {
                Some(signed) => {
                    found = Some(signed);
                    ControlFlow::Break(())
                }
                None => ControlFlow::Continue(()),
            })?;
        }
    } else {
        found = of_topic(&wanted, topics)
            .await
            .context("reading the checkpoints' topic")?;
    }
    Ok(found.or_else(|| sealed.any(&wanted)))
}

async fn of_topic(wanted: &Wanted<'_>, topics: &Topics) -> anyhow::Result<Option<Signed>> {
    let since = wanted.row.recorded_at.micros() / 1_000 - SLACK;
    let starts = vec![(0, From::Time(since))];
    let mut reading = Reading::begin(topics.settings(), &topics.checkpoints(), starts);
    while let Some(chunk) = reading.next().await? {
        let mut payloads = chunk
            .records
            .iter()
            .filter_map(quota_kafka::Record::payload);
        if let Some(signed) = payloads.find_map(|line| wanted.read(line)) {
            return Ok(Some(signed));
        }
    }
    Ok(None)
}
