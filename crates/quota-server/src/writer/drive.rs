//! The lane's task: it drives [`Batch`]es against Postgres and the subject cache.

use crate::cache::SubjectCache;
use crate::clock::DatabaseClock;
use crate::node::Commit;
use crate::shelf::Shelf;
use crate::writer::catching_up::catch_up;
use crate::writer::deciding::decided;
use crate::writer::desk::Desk;
use crate::writer::job::Job;
use quota_core::command::Answer;
use quota_core::epoch::Epochs;
use quota_core::lane::{Batch, Course, Failure, Proposal, Round, Settled};
use quota_core::row::Row;
use quota_postgres::{AppendError, Fence, Lane, Ledger};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Commands that go into one append.
const BATCH_MAX: usize = 1_000;

/// What the lane works with.
#[derive(Clone)]
pub struct Context {
    /// The ledger.
    pub ledger: Ledger,
    /// The subject cache.
    pub cache: Arc<SubjectCache>,
    /// The catalogs.
    pub shelf: Arc<Shelf>,
    /// The database's clock.
    pub clock: Arc<DatabaseClock>,
    /// Where the relay hears of every commit.
    pub committed: broadcast::Sender<Commit>,
    /// The ledger's epochs.
    pub epochs: Epochs,
}

/// Drains one lane's queue until it is told to stop; whatever got in before is answered.
pub(super) async fn run(
    context: Context,
    mut queue: mpsc::UnboundedReceiver<Job>,
    queued: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let mut driver = Driver {
        context,
        lane: None,
    };
    let mut jobs = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => queue.close(),
            received = queue.recv_many(&mut jobs, BATCH_MAX) => if received == 0 { break },
        }
        let mut waiting: Vec<Job> = std::mem::take(&mut jobs);
        while !waiting.is_empty() {
            let mut commands = 0;
            let fits = |job: &&Job| {
                commands += job.commands.len();
                commands <= BATCH_MAX
            };
            let count = waiting.iter().take_while(fits).count().max(1);
            let rest = waiting.split_off(count.min(waiting.len()));
            let taken: usize = waiting.iter().map(|job| job.commands.len()).sum();
            queued.fetch_sub(taken, Ordering::Relaxed);
            driver.carry_out(waiting).await;
            waiting = rest;
        }
    }
    if let Some(lane) = driver.lane {
        lane.close().await;
    }
}

struct Driver {
    context: Context,
    lane: Option<Lane>,
}

impl Driver {
    async fn carry_out(&mut self, jobs: Vec<Job>) {
        let (mut desk, todo) = Desk::open(jobs);
        let started = Instant::now();
        let commands = todo.len();
        // The first in order is the last.
        let mut courses = vec![Course::new(todo)];
        while let Some(course) = courses.pop() {
            match self.carry_out_together(&mut desk, course).await {
                Ok(()) => {}
                Err((why, course)) => match course.halved(&why) {
                    Ok((first, later)) => courses.extend([later, first]),
                    Err(refused) => {
                        tracing::error!(why, "the ledger cannot hold this command's events");
                        put(&mut desk, refused);
                    }
                },
            }
        }
        desk.close();
        metrics::histogram!("quota_lane_batch_commands").record(commands as f64);
        metrics::histogram!("quota_lane_batch_seconds").record(started.elapsed().as_secs_f64());
    }

    /// Carries commands out together; gives those back that the ledger cannot hold together, and why.
    async fn carry_out_together(
        &mut self,
        desk: &mut Desk,
        mut course: Course,
    ) -> Result<(), (String, Course)> {
        let mut failed = false;
        while let Some(round) = course.round(&self.context.epochs, |index| desk.is_given_up(index))
        {
            let asked_at = self.context.clock.elapsed();
            match self.round(round).await {
                Ok(settled) => self.take_in(desk, &mut course, settled, asked_at),
                Err(Failure::Raced) => {}
                Err(Failure::Invalid(why)) => return Err((why, course)),
                Err(Failure::Ambiguous(batch, proposal)) => {
                    let rows = self.look_for(&proposal).await;
                    let went_in = course.looked_for(&proposal, &rows);
                    let settled = (*batch).settle(&went_in);
                    self.take_in(desk, &mut course, settled, asked_at);
                }
                Err(Failure::Unavailable(why)) => {
                    let commands = course.left();
                    tracing::warn!(why, commands, "the ledger cannot be written");
                    failed = true;
                    break;
                }
            }
        }
        put(desk, course.refused(failed));
        Ok(())
    }

    /// Puts what is settled in its place; its round began at `asked_at`.
    fn take_in(&self, desk: &mut Desk, course: &mut Course, mut settled: Settled, asked_at: i64) {
        let known = |partition| self.context.cache.head_offset(partition);
        course.settled(&mut settled, known);
        let mut states: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (partition, key, state) in settled.states {
            states.entry(partition).or_default().push((key, state));
        }
        for (partition, head) in settled.heads {
            let states = states.remove(&partition).unwrap_or_default();
            self.context.cache.settle(partition, head, states, asked_at);
        }
        for commit in settled.rows {
            // After the cache: a relay that missed some asks it what there is. Without a relay, nobody listens.
            self.context.committed.send(commit).ok();
        }
        put(desk, settled.answers);
    }

    /// One round. A connection that went while the lane had nothing to do is noticed by the next round on it: that is
    /// no outage yet, the commands go on with another connection.
    async fn round(&mut self, round: Round) -> Result<Settled, Failure> {
        let is_open = |lane: &Option<Lane>| lane.as_ref().is_some_and(|lane| !lane.is_closed());
        let kept = is_open(&self.lane);
        match self.attempt(round).await {
            Err(Failure::Unavailable(why)) if kept && !is_open(&self.lane) => {
                tracing::debug!(why, "the lane's connection had gone");
                Err(Failure::Raced)
            }
            outcome => outcome,
        }
    }

    /// Load, decide, append. What lost its race is settled as such.
    async fn attempt(&mut self, round: Round) -> Result<Settled, Failure> {
        let Round { mut batch, locked } = round;
        let partitions = batch.partitions();
        if self.lane.as_ref().is_none_or(Lane::is_closed) {
            self.lane = Some(self.context.ledger.lane().await.map_err(unavailable)?);
        }
        let Some(lane) = self.lane.as_mut() else {
            return Err(Failure::Unavailable(String::new()));
        };
        if locked {
            lane.lock(&partitions).await.map_err(unavailable)?;
            if let Err(failure) = catch_up(&self.context, lane, &partitions).await {
                lane.rollback().await.ok();
                return Err(failure);
            }
        }
        match decided(&self.context, lane, &mut batch, &partitions, locked).await {
            Ok(proposal) => append(&self.context, lane, batch, proposal, locked).await,
            Err(failure) => {
                lane.rollback().await.ok();
                Err(failure)
            }
        }
    }

    /// The rows in the last places of an ambiguous append, whoever's they are: on a new connection, under the same locks,
    /// which waits the old backend out.
    async fn look_for(&mut self, proposal: &Proposal) -> Vec<Row> {
        let last = proposal.last_rows();
        let partitions: Vec<u32> = last.keys().copied().collect();
        let places: Vec<(u32, i64)> = last
            .iter()
            .map(|(partition, (offset, _))| (*partition, *offset))
            .collect();
        loop {
            match self.rows_under_locks(&partitions, &places).await {
                Ok(rows) => return rows,
                Err(why) => {
                    tracing::warn!(why, "the outcome of an append is not known yet");
                    self.lane = None;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn rows_under_locks(
        &mut self,
        partitions: &[u32],
        places: &[(u32, i64)],
    ) -> Result<Vec<Row>, String> {
        let mut lane = self
            .context
            .ledger
            .lane()
            .await
            .map_err(|error| error.to_string())?;
        lane.lock(partitions)
            .await
            .map_err(|error| error.to_string())?;
        let rows = lane
            .rows_at(places)
            .await
            .map_err(|error| error.to_string())?;
        lane.rollback().await.map_err(|error| error.to_string())?;
        self.lane = Some(lane);
        Ok(rows)
    }
}

fn put(desk: &mut Desk, answers: impl IntoIterator<Item = (usize, Answer)>) {
    for (index, answer) in answers {
        desk.put(index, answer);
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> Failure {
    Failure::Unavailable(error.to_string())
}

async fn append(
    context: &Context,
    lane: &mut Lane,
    batch: Batch,
    proposal: Proposal,
    locked: bool,
) -> Result<Settled, Failure> {
    let fences: Vec<Fence> = proposal
        .fences
        .iter()
        .map(|fence| Fence {
            partition: fence.partition,
            first_offset: fence.first_offset,
            previous_hash: fence.previous_hash,
        })
        .collect();
    let appended = match lane.append(&proposal.rows, &fences, false).await {
        Ok(appended) => appended,
        Err(error) => {
            lane.rollback().await.ok();
            return Err(failed(error, batch, proposal));
        }
    };
    if locked && let Err(error) = lane.commit().await {
        return Err(failed(error, batch, proposal));
    }
    context.clock.set(appended.clock);
    Ok(batch.settle(&appended.partitions))
}

fn failed(error: AppendError, batch: Batch, proposal: Proposal) -> Failure {
    match error {
        AppendError::Ambiguous(_) => Failure::Ambiguous(Box::new(batch), proposal),
        AppendError::Invalid(why) => Failure::Invalid(why),
        AppendError::DuplicateEvent | AppendError::DuplicateOffset => Failure::Raced,
        other => Failure::Unavailable(other.to_string()),
    }
}
