//! The missing tail, from the topic: the same bytes, each row checked against the one before it.

use crate::checkpoints::newest;
use crate::comparing::{epochs, tails};
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::digest::{Hash, SubjectKey};
use quota_core::epoch::Epochs;
use quota_core::position::Position;
use quota_core::record::{Received, from_record};
use quota_core::row::{Head, Row};
use quota_core::state::FOLD_VERSION;
use quota_core::time::Timestamp;
use quota_kafka::{From, Reading, Record};
use quota_postgres::{AppendError, Fence, Lane, Ledger, adopt_epoch};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows that are appended at once.
const BATCH: usize = 500;

/// What was brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Rows.
    pub rows: u64,
    /// Partitions that they are of.
    pub partitions: u32,
}

/// Why no more can be brought back; what came before it is in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Where.
    pub position: Position,
    /// Why.
    pub why: String,
}

/// Appends what the topic has and the ledger lacks. `progress` is told the rows so far, now and then.
///
/// Every row goes in behind the fence: where somebody else appends, this stops. Running it again goes on.
///
/// # Errors
/// Something cannot be read or written.
pub async fn bring_back(
    database_url: &str,
    topics: &Topics,
    file: Option<&Path>,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<(Recovered, Option<Stopped>)> {
    let ledger = Ledger::connect(database_url, FOLD_VERSION, 2).await?;
    let mut recovered = Recovered::default();
    let epochs = epochs(&ledger).await?;
    let tails = tails(topics, ledger.info().partitions).await?;
    let told = tails.iter().flatten().map(|tail| tail.epoch);
    let newest_epoch = told.max().unwrap_or(0).max(epochs.current());
    let mut known: BTreeMap<(u32, i64), (Hash, Timestamp)> = BTreeMap::new();
    for checkpoint in newest(topics, file, &ledger.info().id).await? {
        // One of an earlier epoch may speak of what that has lost.
        let ends = checkpoint
            .ends
            .iter()
            .filter(|_| checkpoint.epoch == newest_epoch);
        for (partition, end) in (0_u32..).zip(ends) {
            known.insert((partition, end.offset), (end.hash, checkpoint.at));
        }
    }
    let heads = ledger.heads().await?;
    let mut latest = epochs.current();
    let mut work = Work {
        lane: ledger.lane().await?,
        ledger: &ledger,
        topics,
        epochs: &epochs,
        known,
    };
    for (tail, head) in tails.into_iter().zip(heads) {
        let Some(tail) = tail else { continue };
        let (partition, epoch) = (tail.as_row().partition, tail.epoch);
        let at = tail.as_row().position(epoch);
        if tail.ledger_id != ledger.info().id {
            let why = "the topic carries another ledger; use another Kafka, or other topics";
            return Ok((recovered, Some(stopped(at, why))));
        }
        let later = epoch > epochs.current();
        if !later && (tail.offset() <= head.offset || !epochs.holds(at)) {
            continue;
        }
        let before = recovered.rows;
        let outcome = work
            .partition(partition, head, later, &mut |rows| {
                recovered.rows += rows;
                progress(recovered.rows);
            })
            .await
            .with_context(|| format!("recovering partition {partition}"))?;
        recovered.partitions += u32::from(recovered.rows > before);
        if let Some(stopped) = outcome {
            return Ok((recovered, Some(stopped)));
        }
        latest = latest.max(epoch);
    }
    work.lane.close().await;
    if latest > epochs.current() {
        adopt_epoch(database_url, FOLD_VERSION, latest).await?;
    }
    Ok((recovered, None))
}

fn stopped(position: Position, why: impl Into<String>) -> Stopped {
    Stopped {
        position,
        why: why.into(),
    }
}

struct Work<'a> {
    lane: Lane,
    ledger: &'a Ledger,
    topics: &'a Topics,
    epochs: &'a Epochs,
    /// What the newest checkpoints say: a forged tail must not go in.
    known: BTreeMap<(u32, i64), (Hash, Timestamp)>,
}

impl Work<'_> {
    /// Brings one partition's rows after its head back.
    async fn partition(
        &mut self,
        partition: u32,
        mut head: Head,
        later: bool,
        done: &mut impl FnMut(u64),
    ) -> anyhow::Result<Option<Stopped>> {
        let begun = if later {
            self.later_epochs(partition, head.offset).await?
        } else {
            BTreeMap::new()
        };
        let first = head;
        let mut farthest = head.offset;
        let mut rows: Vec<Received> = Vec::new();
        let mut reading = self.reading(partition, head.offset)?;
        while let Some(chunk) = reading.next().await? {
            for record in &chunk.records {
                let received = self.read(record)?;
                if !self.belongs(&received, &begun) {
                    continue;
                }
                let row = received.as_row();
                if row.offset == first.offset && row.hash != first.hash {
                    let at = row.position(received.epoch);
                    return Ok(Some(stopped(at, DIFFERS)));
                }
                farthest = farthest.max(row.offset);
                let next = head.offset + 1 + i64::try_from(rows.len())?;
                if row.offset == next {
                    rows.push(received);
                }
                if rows.len() >= BATCH
                    && let Some(stop) = self.append(&mut head, &mut rows, done).await?
                {
                    return Ok(Some(stop));
                }
            }
        }
        if let Some(stop) = self.append(&mut head, &mut rows, done).await? {
            return Ok(Some(stop));
        }
        Ok((head.offset < farthest).then(|| {
            let missing = self.epochs.position(partition, head.offset + 1);
            let why = format!(
                "the topic goes on to offset {farthest} and does not have this row; another copy of it is needed, or `quota-ledger recover --accept-loss`"
            );
            stopped(missing, why)
        }))
    }

    /// A row's record never comes before as many records as there are rows before it.
    fn reading(&self, partition: u32, offset: i64) -> anyhow::Result<Reading> {
        let starts = vec![(i32::try_from(partition)?, From::Offset(offset))];
        let topic = self.topics.ledger();
        Ok(Reading::begin(self.topics.settings(), &topic, starts))
    }

    fn read(&self, record: &Record) -> anyhow::Result<Received> {
        let place = || {
            let (partition, offset) = (record.partition, record.offset);
            format!("record {offset} of the topic's partition {partition}")
        };
        let received = from_record(record.headers(), record.payload()).with_context(place)?;
        anyhow::ensure!(
            received.ledger_id == self.ledger.info().id
                && i64::from(received.as_row().partition) == i64::from(record.partition),
            "{} is of another ledger or partition",
            place()
        );
        Ok(received)
    }

    /// Where the epochs begin in the topic that the ledger does not know.
    async fn later_epochs(
        &self,
        partition: u32,
        offset: i64,
    ) -> anyhow::Result<BTreeMap<u32, i64>> {
        let mut begun: BTreeMap<u32, i64> = BTreeMap::new();
        let mut reading = self.reading(partition, offset)?;
        while let Some(chunk) = reading.next().await? {
            for record in &chunk.records {
                let received = self.read(record)?;
                if received.epoch > self.epochs.current() {
                    let first = begun.entry(received.epoch).or_insert(received.offset());
                    *first = received.offset().min(*first);
                }
            }
        }
        Ok(begun)
    }

    /// Whether a record is of the history that holds: neither this ledger nor the topic has left it for a later epoch.
    fn belongs(&self, received: &Received, begun: &BTreeMap<u32, i64>) -> bool {
        let row = received.as_row();
        let left = begun
            .range(received.epoch + 1..)
            .any(|(_, first)| *first <= row.offset);
        let holds = received.epoch > self.epochs.current()
            || self.epochs.holds(row.position(received.epoch));
        holds && !left
    }

    /// Appends the rows that are in hand; says why not, where they do not fit.
    async fn append(
        &mut self,
        head: &mut Head,
        received: &mut Vec<Received>,
        done: &mut impl FnMut(u64),
    ) -> anyhow::Result<Option<Stopped>> {
        let Some(first) = received.first() else {
            return Ok(None);
        };
        let (partition, position) = (
            first.as_row().partition,
            first.as_row().position(first.epoch),
        );
        let mut rows = self.chained(partition, std::mem::take(received)).await?;
        // What came before a row that does not fit is good.
        let stop = self.first_misfit(head, &rows);
        if let Some((good, _)) = &stop {
            rows.truncate(*good);
        }
        let Some(last) = rows.last() else {
            return Ok(stop.map(|(_, stop)| stop));
        };
        let fence = Fence {
            partition,
            first_offset: head.offset + 1,
            previous_hash: head.hash,
        };
        match self.lane.append(&rows, &[fence], true).await {
            Ok(appended) if appended.partitions == [partition] => {
                *head = last.head();
                done(rows.len() as u64);
                Ok(stop.map(|(_, stop)| stop))
            }
            Ok(_) => Ok(Some(stopped(position, RACED))),
            Err(AppendError::DuplicateEvent | AppendError::Invalid(_)) => {
                Ok(Some(stopped(position, DIFFERS)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The first row that does not follow from the one before it, or that a checkpoint contradicts: its place, and why.
    fn first_misfit(&self, head: &Head, rows: &[Row]) -> Option<(usize, Stopped)> {
        let mut hash = head.hash;
        for (place, row) in rows.iter().enumerate() {
            let at = self.epochs.position(row.partition, row.offset);
            if row.hash != row.expected_hash(&hash) {
                return Some((place, stopped(at, DIFFERS)));
            }
            if let Some((known, of)) = self.known.get(&(row.partition, row.offset))
                && *known != row.hash
            {
                let why = format!("the topic and the checkpoint of {of} differ here");
                return Some((place, stopped(at, why)));
            }
            hash = row.hash;
        }
        None
    }

    /// The rows with their subjects' events before them.
    async fn chained(&self, partition: u32, received: Vec<Received>) -> anyhow::Result<Vec<Row>> {
        let mut keys: Vec<SubjectKey> = received
            .iter()
            .map(|received| received.as_row().subject_key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let known = self.ledger.last_offsets(partition, &keys).await?;
        let mut last: BTreeMap<SubjectKey, i64> = known.into_iter().collect();
        let chain = |received: Received| {
            let (key, offset) = (received.as_row().subject_key, received.offset());
            received.into_row(last.insert(key, offset))
        };
        Ok(received.into_iter().map(chain).collect())
    }
}

const DIFFERS: &str = "topic and ledger differ here, or right before: the ledger was restored and went on, or one of the two was changed. Nothing of this partition can be brought back; `quota-ledger verify` says more, `quota-ledger recover --accept-loss` goes on without it";
const RACED: &str = "somebody else appends to this partition. Stop the other `recover`, or whatever writes to the ledger, and run this again";
