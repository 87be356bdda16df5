//! The follower: advances the subject cache by what comes over the topic, and by the ledger wherever that has holes.
//!
//! The rule is [`quota_core::follow`]. What this node's own lane committed is in the cache already, and its records are
//! dropped by their offsets, before anything else of them is read.

use crate::heads::{Heads, Reading};
use crate::node::Node;
use crate::ranges::{Answers, Ask, Ranges};
use crate::relay::sleep_until;
use crate::topics::Topics;
use quota_core::follow::{Follower, Output, Rules};
use quota_core::record::{from_record, peek};
use quota_core::row::Row;
use quota_kafka::Record;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a row that exists may take to come over the topic before the ledger is asked, in microseconds.
const SILENCE: i64 = 250_000;
/// Records that are taken at once.
const BATCH: usize = 4_096;
/// How long one wait for records lasts.
const WAIT: Duration = Duration::from_secs(1);
/// The rest before another attempt to open a reader that ended.
const REST: Duration = Duration::from_secs(1);

/// Follows all partitions until it is told to stop; an outage of Kafka or of the ledger makes it wait, not end.
pub async fn run(node: Node, topics: Topics, mut heads: Heads, stop: CancellationToken) {
    let rules = Rules {
        silence: SILENCE,
        ..Rules::default()
    };
    let mut shell = Shell {
        follower: Follower::new(rules),
        ranges: Ranges::new(node.ledger.clone(), 1),
        reading: Arc::default(),
        stopped: BTreeSet::new(),
        node,
    };
    let (sender, mut topic) = mpsc::channel(1);
    tokio::spawn(read(topics, shell.node.partitions(), sender));
    loop {
        shell.carry_out();
        let deadline = shell.follower.deadline();
        tokio::select! {
            () = stop.cancelled() => return,
            Some(records) = topic.recv() => shell.records(&records),
            answers = shell.ranges.next() => shell.rows(answers),
            seen = heads.changed() => {
                if seen.is_err() {
                    return;
                }
                shell.reading = heads.borrow_and_update().clone();
                shell.heads();
            }
            () = sleep_until(&shell.node, deadline) => shell.follower.tick(shell.node.clock.elapsed()),
        }
    }
}

struct Shell {
    node: Node,
    follower: Follower<Row>,
    ranges: Ranges,
    /// The newest reading of the heads.
    reading: Arc<Reading>,
    /// Partitions with a row that this build cannot fold.
    stopped: BTreeSet<u32>,
}

impl Shell {
    /// Goes on where the cache is: this node's own commits are there already.
    fn catch_up(&mut self, partition: u32) {
        let next = self.node.cache.head_offset(partition) + 1;
        if !self.stopped.contains(&partition)
            && self
                .follower
                .next(partition)
                .is_none_or(|known| known < next)
        {
            self.follower.follow(partition, self.node.epoch(), next);
        }
    }

    fn records(&mut self, records: &[Record]) {
        let now = self.node.clock.elapsed();
        let mut caught_up = None;
        for record in records {
            let (Ok(partition), Some(seen)) =
                (u32::try_from(record.partition), peek(record.headers()))
            else {
                tracing::debug!(?record, "a record that is no row of a ledger");
                continue;
            };
            if caught_up.replace(partition) != Some(partition) {
                self.catch_up(partition);
            }
            if !self.follower.wants(partition, seen.epoch, seen.offset) {
                continue;
            }
            match from_record(record.headers(), record.payload()) {
                Ok(received) if received.ledger_id == self.node.ledger.info().id => {
                    self.follower.record(
                        partition,
                        seen.epoch,
                        seen.offset,
                        received.into_unchained(),
                        now,
                    );
                }
                Ok(_) => tracing::debug!(?record, "a record of another ledger"),
                Err(error) => {
                    tracing::warn!(?record, %error, "a record of the ledger's topic cannot be read")
                }
            }
        }
    }

    fn rows(&mut self, answers: Answers) {
        let now = self.node.clock.elapsed();
        for (ask, rows) in answers {
            match rows {
                Some(rows) => {
                    metrics::counter!("quota_follower_healed_rows_total")
                        .increment(rows.len() as u64);
                    self.follower.range(ask.partition, ask.ticket, rows, now);
                }
                None => self.follower.range_failed(ask.partition, ask.ticket, now),
            }
        }
    }

    fn heads(&mut self) {
        let now = self.node.clock.elapsed();
        let reading = Arc::clone(&self.reading);
        let mut lag = 0;
        for (partition, head) in reading.iter() {
            self.catch_up(partition);
            self.node.cache.saw_head(partition, head, reading.asked_at);
            self.follower.head(partition, head, reading.asked_at, now);
            lag += self.follower.lag(partition).unwrap_or(0);
        }
        metrics::gauge!("quota_follower_lag_rows").set(lag as f64);
        metrics::gauge!("quota_follower_stopped_partitions").set(self.stopped.len() as f64);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.follower.output() {
            match output {
                Output::Row { partition, row, .. } => self.apply(partition, row),
                Output::Read {
                    ticket,
                    partition,
                    from,
                    to,
                } => {
                    self.ranges.ask(Ask {
                        ticket,
                        partition,
                        from,
                        to,
                    });
                }
                Output::Epoch { partition, epoch } => self.node.doubt_epoch(partition, epoch),
            }
        }
        self.ranges.start();
    }

    fn apply(&mut self, partition: u32, row: Row) {
        let offset = row.offset;
        match self.node.cache.apply(partition, &[row], &self.node.shelf) {
            Ok(_) => {
                let index = usize::try_from(partition).ok();
                if let Some(head) = index.and_then(|index| self.reading.offsets.get(index)) {
                    self.node
                        .cache
                        .saw_head(partition, *head, self.reading.asked_at);
                }
            }
            Err(error) => {
                tracing::error!(
                    partition,
                    offset,
                    error = format!("{error:#}"),
                    "a row cannot be read by this version: answers of this partition stay as old as they are"
                );
                self.stopped.insert(partition);
                self.follower.forget(partition);
            }
        }
    }
}

/// Reads the topic from its end on, and opens another reader whenever one ends, until nobody listens.
async fn read(topics: Topics, partitions: u32, records: mpsc::Sender<Vec<Record>>) {
    let partitions: Vec<i32> = (0..partitions)
        .filter_map(|partition| i32::try_from(partition).ok())
        .collect();
    while !records.is_closed() {
        match quota_kafka::Follower::open(topics.settings(), &topics.ledger(), &partitions).await {
            Ok(mut reader) => loop {
                match reader.next_batch(BATCH, WAIT).await {
                    Ok(batch) => {
                        if !batch.is_empty() && records.send(batch).await.is_err()
                            || records.is_closed()
                        {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the reader of the ledger's topic has ended; opening another");
                        break;
                    }
                }
            },
            Err(error) => tracing::error!(%error, "the ledger's topic cannot be followed"),
        }
        tokio::time::sleep(REST).await;
    }
}
