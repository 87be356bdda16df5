//! The rule of the inbox: every record ends in the ledger or among the dead letters, and only then is its offset committed.
//!
//! A [`Settling`] carries the commands of one batch: its shell submits [`Settling::commands`], hands the answers in, and
//! goes on for as long as there are some. What the ledger cannot take now is tried again for as long as it takes; what it
//! refuses is a dead letter.

use crate::command::{Answer, Command};
use crate::door::Rejection;

/// Why a record does not get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The stable code.
    pub code: &'static str,
    /// What a person reads.
    pub detail: String,
}

impl From<Rejection> for Reason {
    fn from(rejection: Rejection) -> Self {
        let detail = match rejection.field {
            Some(field) => format!("{field}: {}", rejection.message),
            None => rejection.message,
        };
        Self {
            code: rejection.code,
            detail,
        }
    }
}

/// A batch of records on its way into the ledger.
#[derive(Debug)]
pub struct Settling {
    todo: Vec<(usize, Command)>,
    dead: Vec<(usize, Reason)>,
}

/// What answers came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Recorded now.
    pub recorded: u64,
    /// Recorded before.
    pub duplicates: u64,
    /// To be tried again.
    pub again: usize,
}

impl Settling {
    /// A batch: what its records ask for, and those that do not get in; each with its record's index.
    #[must_use]
    pub const fn new(commands: Vec<(usize, Command)>, dead: Vec<(usize, Reason)>) -> Self {
        Self {
            todo: commands,
            dead,
        }
    }

    /// What is to be submitted now, in order; nothing once all is settled.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.todo
            .iter()
            .map(|(_, command)| command.clone())
            .collect()
    }

    /// Takes the answers of what was submitted, in its order. One that is missing is tried again.
    pub fn answered(&mut self, answers: Vec<Answer>) -> Came {
        let mut came = Came::default();
        let mut answers = answers.into_iter();
        let mut again = Vec::new();
        for (index, command) in std::mem::take(&mut self.todo) {
            match answers.next() {
                Some(Answer::Recorded { duplicate, .. }) if duplicate => came.duplicates += 1,
                Some(Answer::Recorded { .. }) => came.recorded += 1,
                Some(Answer::Refused(refusal)) if !matches!(refusal.status, 503 | 504) => {
                    let (code, detail) = (refusal.code, refusal.message);
                    self.dead.push((index, Reason { code, detail }));
                }
                Some(Answer::Refused(_)) | None => again.push((index, command)),
                Some(other) => {
                    let detail = format!("a fact was answered with {other:?}");
                    let code = "internal";
                    self.dead.push((index, Reason { code, detail }));
                }
            }
        }
        came.again = again.len();
        self.todo = again;
        came
    }

    /// The records that do not get in, in their order, once nothing is to be submitted any more.
    #[must_use]
    pub fn dead(mut self) -> Vec<(usize, Reason)> {
        self.dead.sort_by_key(|(index, _)| *index);
        self.dead
    }
}
