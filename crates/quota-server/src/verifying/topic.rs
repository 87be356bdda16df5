//! Verifying the topic: every event of the ledger is in it, at least once, in order, and as the ledger has it.

use crate::comparing::epochs;
use crate::topics::Topics;
use quota_core::audit::Broken;
use quota_core::epoch::Epochs;
use quota_core::position::Position;
use quota_core::record::{Received, from_record, to_record};
use quota_kafka::{Chunk, From, Reading, Record};
use quota_postgres::Ledger;

/// What comparing with the topic came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TopicVerified {
    /// Records that are the ledger's events, repetitions included.
    pub records: u64,
    /// The ledger's newest events that are not in the topic yet: the relay carries them there.
    pub behind: u64,
    /// Records of a tail that a later epoch went on without.
    pub given_up: u64,
}

/// Compares the topic with the ledger, record by record; or the first position where they differ. `progress` is told after
/// each partition.
///
/// # Errors
/// One of the two cannot be read.
pub async fn verify_topic(
    ledger: &Ledger,
    topics: &Topics,
    mut progress: impl FnMut(u32, u32),
) -> anyhow::Result<Result<TopicVerified, Broken>> {
    let partitions = ledger.info().partitions;
    let mut verified = TopicVerified::default();
    // Before the topic: what is recorded from now on need not be in it.
    let heads = ledger.heads().await?;
    let epochs = epochs(ledger).await?;
    let starts = (0..i32::try_from(partitions)?).map(|partition| (partition, From::Offset(0)));
    let mut reading = Reading::begin(topics.settings(), &topics.ledger(), starts.collect());
    for (partition, head) in (0_u32..).zip(heads) {
        let mut work = Partition {
            ledger,
            epochs: &epochs,
            number: partition,
            next: 0,
            farthest: -1,
        };
        loop {
            let Some(chunk) = reading.next().await? else {
                anyhow::bail!("the topic's reader has ended early");
            };
            let ends = chunk.ends;
            if let Err(broken) = work.read(chunk, &mut verified).await? {
                return Ok(Err(broken));
            }
            if ends {
                break;
            }
        }
        if let Err(broken) = work.finish() {
            return Ok(Err(broken));
        }
        let missing = u64::try_from(head.offset + 1 - work.next).unwrap_or(0);
        verified.behind += missing;
        progress(partition + 1, partitions);
    }
    Ok(Ok(verified))
}

struct Partition<'a> {
    ledger: &'a Ledger,
    epochs: &'a Epochs,
    number: u32,
    /// The first offset that has not come in order yet.
    next: i64,
    /// The last offset that has come at all.
    farthest: i64,
}

impl Partition<'_> {
    fn broken(&self, offset: i64, what: impl Into<String>) -> Broken {
        Broken {
            position: self.epochs.position(self.number, offset),
            what: what.into(),
        }
    }

    /// Compares records with the ledger's rows.
    async fn read(
        &mut self,
        chunk: Chunk,
        verified: &mut TopicVerified,
    ) -> anyhow::Result<Result<(), Broken>> {
        let mut open: Vec<(&Record, Received)> = Vec::new();
        for record in &chunk.records {
            match self.received(record) {
                Ok(Some(received)) => open.push((record, received)),
                Ok(None) => verified.given_up += 1,
                Err(broken) => return Ok(Err(broken)),
            }
        }
        let places = open
            .iter()
            .map(|(_, received)| (self.number, received.offset()));
        let rows = self.ledger.rows_at(places).await?;
        for (record, received) in open {
            let offset = received.offset();
            let Some(row) = rows.get(&(self.number, offset)) else {
                let what = "the topic has an event here, and the ledger has none";
                return Ok(Err(self.broken(offset, what)));
            };
            let key = to_record(row, &received.ledger_id, received.epoch)
                .key()
                .to_vec();
            if record.key() != Some(&key) || received.into_row(row.subject_prev) != *row {
                let what = "the topic has another event here than the ledger";
                return Ok(Err(self.broken(offset, what)));
            }
            verified.records += 1;
            self.farthest = self.farthest.max(offset);
            if offset == self.next {
                self.next += 1;
            }
        }
        Ok(Ok(()))
    }

    /// A record of this ledger's history; none where it is of a tail that was given up.
    fn received(&self, record: &Record) -> Result<Option<Received>, Broken> {
        let at = record.offset;
        let received = from_record(record.headers(), record.payload()).map_err(|error| {
            let what = format!("record {at} of the topic's partition is no event: {error}");
            self.broken(self.next, what)
        })?;
        let row = received.as_row();
        let position: Position = row.position(received.epoch);
        let what = if received.ledger_id != self.ledger.info().id {
            "the topic carries another ledger here"
        } else if row.partition != self.number {
            "the topic carries another partition's event here"
        } else if received.epoch > self.epochs.current() {
            "the topic is of an epoch that the ledger does not know"
        } else {
            return Ok(self.epochs.holds(position).then_some(received));
        };
        let what = format!("{what} (record {at} of the topic's partition)");
        Err(Broken { position, what })
    }

    /// Whether all came in order.
    fn finish(&self) -> Result<(), Broken> {
        if self.next > self.farthest {
            return Ok(());
        }
        let what = format!(
            "the topic does not have this event, and goes on to offset {}",
            self.farthest
        );
        Err(self.broken(self.next, what))
    }
}
