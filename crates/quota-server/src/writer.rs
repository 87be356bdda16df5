//! The writer: commands wait in a bounded queue; each lane takes what is waiting for its partitions and appends it in groups.
//!
//! A caller's future may be dropped at any time without harm: everything that touches the ledger runs in the lanes' own
//! tasks. What a caller is told when time runs out is certain: 503 where its command can no longer be decided, 504 where
//! it may have been.

mod catching_up;
mod deciding;
mod desk;
mod drive;
mod job;

pub use drive::Context;

use crate::admission::Gate;
use crate::writer::job::Job;
use futures::future::join_all;
use quota_core::command::{Answer, Command, Refusal};
use quota_core::lane::{Phase, Ticket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Lanes of a node: while one decides, another's append is on its way. Measured on two cores: batches of 1,000 events over
/// HTTP came to 1.75 times the rate of one lane, consumes to the same; a third would take the processor from the others.
const LANES: usize = 2;
/// Commands that may wait at once; more are refused with 503.
const QUEUE_MAX: usize = 16_384;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The door to the lanes. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    lanes: Arc<[mpsc::UnboundedSender<Job>]>,
    waiting: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

/// The lanes' end of the queue.
pub struct Queue {
    lanes: Vec<mpsc::UnboundedReceiver<Job>>,
    waiting: Arc<AtomicUsize>,
}

/// A writer and the queue that its lanes drain; commands get in while the gate is open.
#[must_use]
pub fn queue(gate: Arc<Gate>) -> (Writer, Queue) {
    // Unbounded as channels, bounded by the count of waiting commands: a batch counts by its commands.
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..LANES).map(|_| mpsc::unbounded_channel()).unzip();
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        Writer {
            lanes: senders.into(),
            waiting: Arc::clone(&waiting),
            gate,
        },
        Queue {
            lanes: receivers,
            waiting,
        },
    )
}

/// Drains the queue until it is told to stop; whatever got in before is answered.
pub async fn run(context: Context, queue: Queue, stop: CancellationToken) {
    let Queue { lanes, waiting } = queue;
    let lanes = lanes.into_iter().map(|jobs| {
        let (context, waiting, stop) = (context.clone(), Arc::clone(&waiting), stop.clone());
        tokio::spawn(drive::run(context, jobs, waiting, stop))
    });
    for ended in join_all(lanes).await {
        if let Err(error) = ended {
            tracing::error!(%error, "a lane did not end well");
        }
    }
}

impl Writer {
    /// Commands that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a lane has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lanes.iter().any(mpsc::UnboundedSender::is_closed)
    }

    /// Carries a command out.
    pub async fn submit(&self, command: Command) -> Answer {
        let mut answers = self.submit_all(vec![command]).await;
        answers
            .pop()
            .unwrap_or_else(|| Answer::Refused(Refusal::unavailable("the writer has stopped")))
    }

    /// Carries commands out, each by itself, in this order. Answers come in the same order.
    pub async fn submit_all(&self, commands: Vec<Command>) -> Vec<Answer> {
        let count = commands.len();
        if count == 0 {
            return Vec::new();
        }
        if let Some(why) = self.gate.why() {
            return refuse_all(count, &why);
        }
        if self.waiting.fetch_add(count, Ordering::Relaxed) + count > QUEUE_MAX {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            metrics::counter!("quota_writer_refused_total").increment(count as u64);
            return refuse_all(count, "more commands wait than can be carried out in time");
        }
        if let [command] = &*commands {
            return self.submit_to(self.lane_of(command), commands).await;
        }
        let mut parts: Vec<(Vec<usize>, Vec<Command>)> = vec![Default::default(); self.lanes.len()];
        for (place, command) in commands.into_iter().enumerate() {
            if let Some((places, part)) = parts.get_mut(self.lane_of(&command)) {
                places.push(place);
                part.push(command);
            }
        }
        let parts = parts.into_iter().enumerate();
        let answered = join_all(parts.map(|(lane, (places, part))| async move {
            places.into_iter().zip(self.submit_to(lane, part).await)
        }));
        let mut answers: Vec<(usize, Answer)> = answered.await.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// The lane that has the command's partition.
    fn lane_of(&self, command: &Command) -> usize {
        command.address.partition as usize % self.lanes.len()
    }

    /// Carries commands of one lane out.
    async fn submit_to(&self, lane: usize, commands: Vec<Command>) -> Vec<Answer> {
        let count = commands.len();
        let Some(jobs) = self.lanes.get(lane).filter(|_| count > 0) else {
            return Vec::new();
        };
        let ticket = Arc::new(Ticket::default());
        let (reply, answer) = oneshot::channel();
        let job = Job {
            commands,
            reply,
            ticket: Arc::clone(&ticket),
            deadline: Instant::now() + PATIENCE,
        };
        if jobs.send(job).is_err() {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            return refuse_all(count, "this node is stopping");
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) => refuse_all(count, "this node is stopping"),
            Err(_) => match ticket.give_up() {
                Phase::Waiting => refuse_all(count, "the ledger could not be written in time"),
                _ => vec![Answer::Refused(Refusal::outcome_unknown()); count],
            },
        }
    }
}

fn refuse_all(count: usize, why: &str) -> Vec<Answer> {
    vec![Answer::Refused(Refusal::unavailable(format!("{why}; nothing was recorded"))); count]
}
