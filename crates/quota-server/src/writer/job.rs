//! A caller's commands on their way through the lane, and who may still decide them.

use quota_core::command::{Answer, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

/// Commands that came together and are answered together.
pub struct Job {
    /// The commands.
    pub commands: Vec<Command>,
    /// Where the answers go.
    pub reply: oneshot::Sender<Vec<Answer>>,
    /// Who may still decide them.
    pub ticket: Arc<Ticket>,
    /// When their caller gives up.
    pub deadline: Instant,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of it was decided.
    Waiting,
    /// It is being decided and appended.
    Taken,
    /// Its caller was told that time ran out.
    GivenUp,
}

/// The agreement between a caller and the lane on what became of a job.
#[derive(Default)]
pub struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Ticket {
    /// The lane takes the job; false where its caller has given up: then it must not be decided.
    pub fn take(&self) -> bool {
        self.0
            .compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The caller gives up; returns where the job stood.
    pub fn give_up(&self) -> Phase {
        match self.0.swap(GIVEN_UP, Ordering::AcqRel) {
            WAITING => Phase::Waiting,
            TAKEN => Phase::Taken,
            _ => Phase::GivenUp,
        }
    }

    /// Whether the caller has given up: then what lost a race must not be decided again.
    pub fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GIVEN_UP
    }
}
