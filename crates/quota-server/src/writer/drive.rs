//! The lane's task: it drives [`Batch`]es against Postgres and the subject cache.

use crate::cache::SubjectCache;
use crate::clock::DatabaseClock;
use crate::loading::{Folded, fold_loaded, request};
use crate::shelf::Shelf;
use crate::writer::Queue;
use crate::writer::catching_up::catch_up;
use crate::writer::desk::Desk;
use crate::writer::job::Job;
use quota_core::command::{Answer, Command, Refusal};
use quota_core::lane::{Batch, Proposal, Settled, Wants};
use quota_core::row::Row;
use quota_postgres::{AppendError, EventLookup, Fence, Lane, Ledger};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Commands that go into one append.
const BATCH_MAX: usize = 1_000;
/// How often one batch may lose its races before its callers are sent away to try again.
const ROUNDS_MAX: usize = 8;

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
    /// Rung after every commit: there is something to relay.
    pub committed: Arc<Notify>,
    /// The ledger's epoch.
    pub epoch: u32,
}

/// What a round of a batch failed with.
pub(super) enum Failure {
    /// Surely nothing was recorded.
    Unavailable(String),
    /// An event was recorded meanwhile under a key that was not looked up: look again.
    Raced,
    /// Rows of this batch may or may not be in the ledger.
    Ambiguous(Box<Batch>, Proposal),
}

/// Drains the queue until it is told to stop; whatever got in before is answered.
pub async fn run(context: Context, mut queue: Queue, stop: CancellationToken) {
    let mut driver = Driver {
        context,
        lane: None,
    };
    let mut jobs = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.jobs.is_closed() => queue.jobs.close(),
            received = queue.jobs.recv_many(&mut jobs, BATCH_MAX) => if received == 0 { break },
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
            queue.waiting.fetch_sub(taken, Ordering::Relaxed);
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
        let (mut desk, mut todo) = Desk::open(jobs);
        let started = Instant::now();
        let commands = todo.len();
        let mut rounds = 0;
        while !todo.is_empty() {
            todo.retain(|(index, _)| !desk.is_given_up(*index));
            let indexes: Vec<usize> = todo.iter().map(|(index, _)| *index).collect();
            let again = todo.clone();
            // After a lost race the locks come first, so that a command loses at most once.
            let outcome = self.round(todo, rounds > 0).await;
            todo = match outcome {
                Ok(settled) => self.take_in(&mut desk, settled),
                Err(Failure::Raced) => again,
                Err(Failure::Ambiguous(batch, proposal)) => {
                    let went_in = self.find_out(&proposal).await;
                    let settled = (*batch).settle(&went_in);
                    self.take_in(&mut desk, settled)
                }
                Err(Failure::Unavailable(why)) => {
                    tracing::warn!(
                        why,
                        commands = indexes.len(),
                        "the ledger cannot be written"
                    );
                    for index in indexes {
                        desk.put(index, Answer::Refused(Refusal::unavailable(UNAVAILABLE)));
                    }
                    Vec::new()
                }
            };
            rounds += 1;
            if rounds >= ROUNDS_MAX {
                break;
            }
        }
        desk.close();
        metrics::histogram!("quota_lane_batch_commands").record(commands as f64);
        metrics::histogram!("quota_lane_batch_seconds").record(started.elapsed().as_secs_f64());
    }

    /// Puts what is settled in its place; returns what has to be decided again.
    fn take_in(&self, desk: &mut Desk, settled: Settled) -> Vec<(usize, Command)> {
        let mut states: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (partition, key, state) in settled.states {
            states.entry(partition).or_default().push((key, state));
        }
        let now = self.context.clock.elapsed();
        for (partition, head) in settled.heads {
            let states = states.remove(&partition).unwrap_or_default();
            self.context.cache.settle(partition, head, states, now);
            // After the cache: it tells the relay what there is.
            self.context.committed.notify_one();
        }
        for (index, answer) in settled.answers {
            desk.put(index, answer);
        }
        settled.again
    }

    /// One round: load, decide, append. What lost its race is settled as such.
    async fn round(
        &mut self,
        commands: Vec<(usize, Command)>,
        locked: bool,
    ) -> Result<Settled, Failure> {
        let mut batch = Batch::new(self.context.epoch, commands);
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
        match decided(&self.context, lane, &mut batch, &partitions).await {
            Ok(proposal) => append(&self.context, lane, batch, proposal, locked).await,
            Err(failure) => {
                lane.rollback().await.ok();
                Err(failure)
            }
        }
    }

    /// The partitions of an ambiguous append whose rows are in the ledger: on a new connection, under the same locks,
    /// which waits the old backend out.
    async fn find_out(&mut self, proposal: &Proposal) -> Vec<u32> {
        let mut last: BTreeMap<u32, (i64, [u8; 32])> = BTreeMap::new();
        for row in &proposal.rows {
            last.insert(row.partition, (row.offset, row.hash));
        }
        let partitions: Vec<u32> = last.keys().copied().collect();
        let places: Vec<(u32, i64)> = last
            .iter()
            .map(|(partition, (offset, _))| (*partition, *offset))
            .collect();
        loop {
            match self.rows_under_locks(&partitions, &places).await {
                Ok(rows) => {
                    let ours = |row: &&Row| {
                        last.get(&row.partition)
                            .is_some_and(|(_, hash)| *hash == row.hash)
                    };
                    return rows.iter().filter(ours).map(|row| row.partition).collect();
                }
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

const UNAVAILABLE: &str = "the ledger cannot be written just now; nothing was recorded, try again";

pub(super) fn unavailable(error: impl std::fmt::Display) -> Failure {
    Failure::Unavailable(error.to_string())
}

/// Loads what the batch wants, and decides it.
async fn decided(
    context: &Context,
    lane: &mut Lane,
    batch: &mut Batch,
    partitions: &[u32],
) -> Result<Proposal, Failure> {
    for partition in partitions {
        if let Some(end) = context.cache.end(*partition) {
            batch.put_end(*partition, end);
        }
    }
    let addresses: Vec<_> = batch
        .addresses()
        .map(|address| (address.partition, address.key))
        .collect();
    for (partition, key) in addresses {
        if !batch.has_state(&key)
            && let Some(state) = context.cache.get(partition, &key)
        {
            batch.put_state(key, (*state).clone());
        }
    }
    loop {
        let wants = batch.wants();
        if wants.subjects.is_empty() && wants.events.is_empty() {
            break;
        }
        load(context, lane, batch, wants).await?;
    }
    let catalogs = |product: &str, version: u32| context.shelf.get(product, version);
    Ok(batch.decide(context.clock.now(), &catalogs))
}

async fn load(
    context: &Context,
    lane: &mut Lane,
    batch: &mut Batch,
    wants: Wants,
) -> Result<(), Failure> {
    let mut wanted = wants.subjects;
    let mut events: Vec<EventLookup> = wants
        .events
        .iter()
        .map(|(partition, subject_key, event_key)| EventLookup {
            partition: *partition,
            subject_key: *subject_key,
            event_key: *event_key,
        })
        .collect();
    for (_, subject, event) in &wants.events {
        batch.put_found(*subject, *event, None);
    }
    loop {
        let mut request = request(&wanted, true);
        request.events = std::mem::take(&mut events);
        let mut loaded = lane.load(&request).await.map_err(unavailable)?;
        for row in std::mem::take(&mut loaded.events) {
            batch.put_found(row.subject_key, row.event_key, Some(Arc::new(row)));
        }
        // Most likely a catalog that others have published: the next round reads on first.
        let folded = fold_loaded(&wanted, &mut loaded, &context.shelf).map_err(|error| {
            tracing::warn!(error = format!("{error:#}"), "a subject cannot be folded");
            Failure::Raced
        });
        match folded? {
            Folded::States(states) => {
                for loaded in states {
                    let state = Arc::new(loaded.state.clone());
                    context
                        .cache
                        .keep(loaded.partition, loaded.key, state, loaded.through);
                    batch.put_state(loaded.key, loaded.state);
                }
                return Ok(());
            }
            Folded::More(more) => wanted = more,
        }
    }
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
        AppendError::DuplicateEvent | AppendError::DuplicateOffset => Failure::Raced,
        other => Failure::Unavailable(other.to_string()),
    }
}
