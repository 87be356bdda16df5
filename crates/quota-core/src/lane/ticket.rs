//! The agreement between a caller and a lane on what became of commands that wait.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where commands stand that came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of them was decided.
    Waiting,
    /// They are being decided and appended.
    Taken,
    /// Their caller was told that time ran out.
    GivenUp,
}

/// The agreement between a caller and the lane: either the lane takes the commands, or their caller is told that nothing of them
/// was recorded, and never both.
#[derive(Debug, Default)]
pub struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Ticket {
    /// The lane takes the commands; false where their caller has given up: then they must not be decided.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0
            .compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The caller gives up; returns where the commands stood.
    #[must_use]
    pub fn give_up(&self) -> Phase {
        match self.0.swap(GIVEN_UP, Ordering::AcqRel) {
            WAITING => Phase::Waiting,
            TAKEN => Phase::Taken,
            _ => Phase::GivenUp,
        }
    }

    /// Whether the caller has given up: then what lost a race must not be decided again.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GIVEN_UP
    }
}
