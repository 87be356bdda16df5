//! The projector: folds the ledger into views, as a member of a consumer group, partition by partition.
//!
//! Rows come by the one way to follow a partition ([`quota_core::follow`]). Views and checkpoint are saved in one
//! statement, and the checkpoint moves by compare-and-set: whoever is at a partition that another has taken over changes
//! nothing. So the group only spreads the work, and without Kafka every projector may follow every partition.

mod folder;
mod group;

use crate::heads::{Heads, Reading};
use crate::node::Node;
use crate::ranges::{Answers, Ask, Ranges};
use crate::relay::sleep_until;
use crate::topics::Topics;
use folder::{Folder, Saving};
use group::Group;
use quota_core::follow::{Follower, Output, Rules};
use quota_core::projection::{Duty, Stopped};
use quota_core::record::{from_record, peek};
use quota_core::row::Row;
use quota_kafka::Record;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Rows that are folded and saved at once, at most.
const BATCH: usize = 4_000;
/// Rows that one read of a partition asks for.
const RANGE: i64 = 500;
/// How long a partition rests after somebody else was found to be at it, or the ledger could not be read or written; in
/// microseconds.
const REST: i64 = 500_000;

/// Projects until it is told to stop; an outage of Kafka or of the ledger makes it wait, not end.
pub async fn run(node: Node, topics: Topics, mut heads: Heads, stop: CancellationToken) {
    let rules = Rules {
        range: RANGE,
        ..Rules::default()
    };
    let mut group = Group::new(topics, node.partitions());
    let mut shell = Shell {
        follower: Follower::new(rules),
        ranges: Ranges::new(node.ledger.clone(), 1),
        folder: Folder::new(node.ledger.clone(), Arc::clone(&node.shelf)),
        reading: Arc::default(),
        duty: Duty::new(REST),
        rows: Vec::new(),
        away: false,
        node,
    };
    loop {
        shell.own(group.partitions());
        let step = async {
            shell.begin().await;
            shell.carry_out();
            shell.save().await
        };
        let saved = tokio::select! {
            () = stop.cancelled() => break,
            saved = step => saved,
        };
        if saved {
            continue;
        }
        let deadline = shell.deadline();
        tokio::select! {
            () = stop.cancelled() => break,
            records = group.next() => shell.records(&records),
            answers = shell.ranges.next() => shell.answers(answers),
            seen = heads.changed() => {
                if seen.is_err() {
                    break;
                }
                shell.reading = heads.borrow_and_update().clone();
                shell.heads();
                group.commit().await;
            }
            () = sleep_until(&shell.node, deadline) => shell.follower.tick(shell.node.clock.elapsed()),
        }
    }
    group.close().await;
}

struct Shell {
    node: Node,
    follower: Follower<Row>,
    ranges: Ranges,
    folder: Folder,
    /// The newest reading of the heads.
    reading: Arc<Reading>,
    /// The partitions that this projector is at.
    duty: Duty,
    /// Rows to fold next.
    rows: Vec<Row>,
    away: bool,
}

impl Shell {
    /// Takes up the partitions that are this projector's now, and leaves the others.
    fn own(&mut self, partitions: &BTreeSet<u32>) {
        for partition in self.duty.own(partitions, self.node.clock.elapsed()) {
            self.forget(partition);
        }
    }

    fn forget(&mut self, partition: u32) {
        self.follower.forget(partition);
        self.folder.forget(partition);
    }

    /// Begins at the checkpoints of those partitions whose time has come.
    async fn begin(&mut self) {
        let due = self.duty.begin(self.node.clock.elapsed());
        if due.is_empty() {
            return;
        }
        let checkpoints = match self.node.ledger.checkpoints().await {
            Ok(checkpoints) => checkpoints,
            Err(error) => return self.pause(&error.into()),
        };
        self.back();
        tracing::debug!(partitions = due.len(), "projecting from the checkpoints");
        for partition in due {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            let next = checkpoints.get(index).copied().unwrap_or(0);
            self.folder.forget(partition);
            self.duty.begun(partition, next);
            self.follower.follow(partition, self.node.epoch(), next);
            if let Some(head) = self.reading.offsets.get(index) {
                let now = self.node.clock.elapsed();
                self.follower
                    .head(partition, *head, self.reading.asked_at, now);
            }
        }
    }

    /// Does what following asks for; rows are gathered.
    fn carry_out(&mut self) {
        while self.rows.len() < BATCH
            && let Some(output) = self.follower.output()
        {
            match output {
                Output::Row { row, .. } => self.rows.push(row),
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

    /// Folds the gathered rows and saves what came of them; false where there are none.
    async fn save(&mut self) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        let rows = std::mem::take(&mut self.rows);
        if let Err(error) = self.fold_and_save(rows).await {
            self.pause(&error);
        }
        true
    }

    async fn fold_and_save(&mut self, rows: Vec<Row>) -> anyhow::Result<()> {
        let folded = self.folder.fold(rows).await?;
        let (mut moved, mut lost) = (Vec::new(), Vec::new());
        if !folded.steps.is_empty() {
            let Saving {
                steps,
                views,
                things,
            } = Saving::of(&folded);
            let saved = self.node.ledger.save_views(&steps, &views, &things).await?;
            (moved, lost) = (saved.moved, saved.lost);
            let rows: i64 = folded
                .steps
                .iter()
                .filter(|step| moved.contains(&step.partition))
                .map(|step| step.to - step.from)
                .sum();
            metrics::counter!("quota_projector_rows_total").increment(rows.unsigned_abs());
        }
        self.back();
        let now = self.node.clock.elapsed();
        let judged = self
            .duty
            .saved(&moved, &lost, folded.strange, folded.stopped, now);
        self.folder.saved(folded.subjects, &judged.lost);
        for stopped in &judged.stopped {
            self.stop(stopped);
        }
        for partition in judged.lost {
            metrics::counter!("quota_projector_lost_total").increment(1);
            tracing::debug!(partition, "another projector is at this partition");
            self.forget(partition);
        }
        Ok(())
    }

    /// Raises the alarm for a partition that cannot be folded on.
    fn stop(&mut self, stopped: &Stopped) {
        let Stopped {
            partition,
            offset,
            why,
        } = stopped;
        tracing::error!(
            partition,
            offset,
            why,
            "a row cannot be folded by this version: this partition's views stay as they are, the others go on"
        );
        self.forget(*partition);
        self.gauge_stopped();
    }

    fn gauge_stopped(&self) {
        metrics::gauge!("quota_projector_stopped").set(self.duty.stopped() as f64);
    }

    /// Begins everything anew after a while: the ledger is away, or what became of a step is not known.
    fn pause(&mut self, error: &anyhow::Error) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the projector cannot reach the ledger; trying on"
            );
        }
        self.folder.forget_all();
        self.rows.clear();
        for partition in self.duty.owned() {
            self.follower.forget(*partition);
        }
        self.duty.pause(self.node.clock.elapsed());
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.away) {
            tracing::info!("the projector reaches the ledger again");
        }
    }

    /// When there is something to do, if nothing comes before.
    fn deadline(&self) -> Option<i64> {
        let deadlines = self.follower.deadline().into_iter();
        deadlines.chain(self.duty.deadline()).min()
    }

    fn records(&mut self, records: &[Record]) {
        let now = self.node.clock.elapsed();
        for record in records {
            let (Ok(partition), Some(seen)) =
                (u32::try_from(record.partition), peek(record.headers()))
            else {
                tracing::debug!(?record, "a record that is no row of a ledger");
                continue;
            };
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

    fn answers(&mut self, answers: Answers) {
        let now = self.node.clock.elapsed();
        for (ask, rows) in answers {
            match rows {
                Some(rows) => self.follower.range(ask.partition, ask.ticket, rows, now),
                None => self.follower.range_failed(ask.partition, ask.ticket, now),
            }
        }
    }

    fn heads(&mut self) {
        let now = self.node.clock.elapsed();
        let reading = Arc::clone(&self.reading);
        let mut lag = 0;
        for (partition, head) in reading.iter() {
            self.follower.head(partition, head, reading.asked_at, now);
            lag += self.follower.lag(partition).unwrap_or(0);
        }
        metrics::gauge!("quota_projector_lag_rows").set(lag as f64);
        metrics::gauge!("quota_projector_partitions").set(self.duty.owned().len() as f64);
        self.gauge_stopped();
    }
}
