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
use folder::{Folder, Stopped};
use group::Group;
use quota_core::follow::{Follower, Output, Rules};
use quota_core::record::{from_record, peek};
use quota_core::row::Row;
use quota_kafka::Record;
use quota_postgres::Advance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Rows that are folded and saved at once, at most.
const BATCH: usize = 4_000;
/// Rows that one read of a partition asks for.
const RANGE: i64 = 500;
/// How long to wait after the ledger could not be read or written, in microseconds.
const PAUSE: i64 = 500_000;
/// How long a partition rests after somebody else was found to be at it, in microseconds.
const REST: i64 = 500_000;

/// How often in a row a partition may be found in a state that only another projector at it explains.
const STRANGE_MAX: u32 = 10;

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
        owned: BTreeSet::new(),
        beginning: BTreeMap::new(),
        stopped: BTreeMap::new(),
        strange: BTreeMap::new(),
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
    owned: BTreeSet<u32>,
    /// Those of them whose checkpoint has to be read, and when.
    beginning: BTreeMap<u32, i64>,
    /// Those of them that a row stopped which this build cannot fold, and its offset.
    stopped: BTreeMap<u32, i64>,
    /// How often a partition's views were not what its checkpoint says, since it last moved.
    strange: BTreeMap<u32, u32>,
    /// Rows to fold next.
    rows: Vec<Row>,
    away: bool,
}

impl Shell {
    /// Takes up the partitions that are this projector's now, and leaves the others.
    fn own(&mut self, partitions: &BTreeSet<u32>) {
        if self.owned == *partitions {
            return;
        }
        for partition in self.owned.difference(partitions) {
            self.follower.forget(*partition);
            self.folder.forget(*partition);
            self.beginning.remove(partition);
            self.stopped.remove(partition);
        }
        let now = self.node.clock.elapsed();
        let new = partitions.difference(&self.owned);
        self.beginning
            .extend(new.map(|partition| (*partition, now)));
        self.owned.clone_from(partitions);
        tracing::debug!(partitions = self.owned.len(), "projecting");
    }

    /// Begins at the checkpoints of those partitions whose time has come.
    async fn begin(&mut self) {
        let now = self.node.clock.elapsed();
        if self.beginning.values().all(|at| *at > now) {
            return;
        }
        let checkpoints = match self.node.ledger.checkpoints().await {
            Ok(checkpoints) => checkpoints,
            Err(error) => return self.pause(&error.into()),
        };
        self.back();
        let due: Vec<u32> = self
            .beginning
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(partition, _)| *partition)
            .collect();
        for partition in due {
            self.beginning.remove(&partition);
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            let next = checkpoints.get(index).copied().unwrap_or(0);
            self.folder.forget(partition);
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
                Output::Epoch { partition, epoch } => tracing::error!(
                    partition,
                    epoch,
                    "the ledger is in a later epoch: this node has to be started again"
                ),
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
        let mut folded = self.folder.fold(rows).await?;
        let mut lost = BTreeSet::new();
        let mut stopped = std::mem::take(&mut folded.stopped);
        for strange in std::mem::take(&mut folded.strange) {
            let often = self.strange.entry(strange.partition).or_insert(0);
            *often += 1;
            if *often < STRANGE_MAX {
                lost.insert(strange.partition);
            } else {
                stopped.push(strange);
            }
        }
        if !folded.steps.is_empty() {
            let ledger = &self.node.ledger;
            let saved = ledger
                .save_views(&folded.steps, &folded.views, &folded.things)
                .await?;
            for partition in &saved.moved {
                self.strange.remove(partition);
            }
            let moved = |step: &&Advance| saved.moved.contains(&step.partition);
            let rows: i64 = folded
                .steps
                .iter()
                .filter(moved)
                .map(|step| step.to - step.from)
                .sum();
            metrics::counter!("quota_projector_rows_total").increment(rows.unsigned_abs());
            lost.extend(saved.lost);
        }
        self.back();
        self.folder.saved(folded, &lost);
        for Stopped {
            partition,
            offset,
            why,
        } in stopped
        {
            self.stop(partition, offset, &why);
        }
        for partition in lost {
            self.lose(partition);
        }
        Ok(())
    }

    /// Leaves a partition that somebody else is at, for a while.
    fn lose(&mut self, partition: u32) {
        metrics::counter!("quota_projector_lost_total").increment(1);
        tracing::debug!(partition, "another projector is at this partition");
        self.folder.forget(partition);
        self.follower.forget(partition);
        if self.owned.contains(&partition) && !self.stopped.contains_key(&partition) {
            let again = self.node.clock.elapsed() + REST;
            self.beginning.insert(partition, again);
        }
    }

    /// Raises the alarm for a partition that cannot be folded on.
    fn stop(&mut self, partition: u32, offset: i64, why: &anyhow::Error) {
        tracing::error!(
            partition,
            offset,
            why = format!("{why:#}"),
            "a row cannot be folded by this version: this partition's views stay as they are, the others go on"
        );
        self.folder.forget(partition);
        self.follower.forget(partition);
        self.stopped.insert(partition, offset);
        self.gauge_stopped();
    }

    fn gauge_stopped(&self) {
        metrics::gauge!("quota_projector_stopped").set(self.stopped.len() as f64);
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
        let again = self.node.clock.elapsed() + PAUSE;
        for partition in &self.owned {
            self.follower.forget(*partition);
            if !self.stopped.contains_key(partition) {
                self.beginning.insert(*partition, again);
            }
        }
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.away) {
            tracing::info!("the projector reaches the ledger again");
        }
    }

    /// When there is something to do, if nothing comes before.
    fn deadline(&self) -> Option<i64> {
        let beginning = self.beginning.values().copied().min();
        self.follower.deadline().into_iter().chain(beginning).min()
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
        metrics::gauge!("quota_projector_partitions").set(self.owned.len() as f64);
        self.gauge_stopped();
    }
}
