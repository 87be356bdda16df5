//! The writer: commands wait in a bounded queue; one lane takes what is waiting and appends it in groups.
//!
//! A caller's future may be dropped at any time without harm: everything that touches the ledger runs in the lane's own
//! task. What a caller is told when time runs out is certain: 503 where its command can no longer be decided, 504 where
//! it may have been.

mod catching_up;
mod deciding;
mod desk;
mod drive;
mod job;

pub use drive::{Context, run};

use crate::admission::Gate;
use crate::writer::job::{Job, Phase, Ticket};
use quota_core::command::{Answer, Command, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait at once; more are refused with 503.
const QUEUE_MAX: usize = 16_384;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The door to the lane. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    waiting: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

/// The lane's end of the queue.
pub struct Queue {
    jobs: mpsc::UnboundedReceiver<Job>,
    waiting: Arc<AtomicUsize>,
}

/// A writer and the queue that its lane drains; commands get in while the gate is open.
#[must_use]
pub fn queue(gate: Arc<Gate>) -> (Writer, Queue) {
    // Unbounded as a channel, bounded by the count of waiting commands: a batch counts by its commands.
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        Writer {
            jobs: sender,
            waiting: Arc::clone(&waiting),
            gate,
        },
        Queue {
            jobs: receiver,
            waiting,
        },
    )
}

impl Writer {
    /// Commands that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether the lane has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.jobs.is_closed()
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
        let ticket = Arc::new(Ticket::default());
        let (reply, answer) = oneshot::channel();
        let job = Job {
            commands,
            reply,
            ticket: Arc::clone(&ticket),
            deadline: Instant::now() + PATIENCE,
        };
        if self.jobs.send(job).is_err() {
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
