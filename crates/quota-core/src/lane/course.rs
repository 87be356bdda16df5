//! The course of commands through a lane: round after round, until each is answered.
//!
//! The first round goes without locks. After a lost race the locks come first, so that a command loses at most once. An
//! append whose outcome is not known is looked for under the same locks: what stands there tells. Where nothing stands
//! there, it is in doubt: the statement may be on its way still, and go in for as long as nothing else has taken its
//! place. So of a command in doubt nobody is told that nothing was recorded.

use super::{Batch, Proposal, Settled};
use crate::command::{Answer, Command, Refusal};
use crate::digest::Hash;
use crate::epoch::Epochs;
use crate::row::Row;
use std::collections::BTreeMap;

/// How often commands may lose their races before their callers are sent away to try again.
const ROUNDS_MAX: usize = 8;

const UNAVAILABLE: &str = "the ledger cannot be written just now; nothing was recorded, try again";
const OUTRUN: &str = "others write to the same subjects just now; nothing was recorded, try again";

/// What a round failed with.
#[derive(Debug)]
pub enum Failure {
    /// Surely nothing was recorded.
    Unavailable(String),
    /// An event was recorded meanwhile under a key that was not looked up: look again.
    Raced,
    /// Something in this batch is nothing that the ledger can hold: nothing was recorded, and never would be.
    Invalid(String),
    /// Rows of this batch may or may not be in the ledger.
    Ambiguous(Box<Batch>, Proposal),
}

/// Commands on their way through a lane.
#[derive(Debug)]
pub struct Course {
    todo: Vec<(usize, Command)>,
    rounds: usize,
    /// The last offsets of appends whose outcome is not known, by partition.
    doubts: BTreeMap<u32, i64>,
}

/// One round: what to decide and append next.
#[derive(Debug)]
pub struct Round {
    /// The commands.
    pub batch: Batch,
    /// Whether the locks of its partitions are taken, and what others appended is read, before it is decided.
    pub locked: bool,
}

impl Course {
    /// Commands, each with the index that its answer goes by.
    #[must_use]
    pub const fn new(commands: Vec<(usize, Command)>) -> Self {
        Self {
            todo: commands,
            rounds: 0,
            doubts: BTreeMap::new(),
        }
    }

    /// How many commands are not answered yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.todo.len()
    }

    /// The next round; none where there is nothing left to do, or nothing more may be tried. What a caller has given up is
    /// never decided again.
    pub fn round(&mut self, epochs: &Epochs, is_given_up: impl Fn(usize) -> bool) -> Option<Round> {
        self.todo.retain(|(index, _)| !is_given_up(*index));
        if self.todo.is_empty() || self.rounds >= ROUNDS_MAX {
            return None;
        }
        let locked = self.rounds > 0;
        self.rounds += 1;
        let batch = Batch::new(epochs.clone(), self.todo.clone());
        let batch = if locked || !self.doubts.is_empty() {
            batch.tried_before()
        } else {
            batch
        };
        Some(Round { batch, locked })
    }

    /// The round was appended, all or in part: what lost its race goes on. Of a command in doubt a refusal would say that
    /// nothing was recorded, so it is told as unknown.
    pub fn settled(&mut self, settled: &mut Settled, known: impl Fn(u32) -> i64) {
        for (partition, head) in &settled.heads {
            if self
                .doubts
                .get(partition)
                .is_some_and(|doubt| *doubt <= head.offset)
            {
                self.doubts.remove(partition);
            }
        }
        if !self.doubts.is_empty() {
            let places = self.todo.iter();
            let places: BTreeMap<usize, u32> = places
                .map(|(index, command)| (*index, command.address.partition))
                .collect();
            for (index, answer) in &mut settled.answers {
                let doubtful = places
                    .get(index)
                    .is_some_and(|it| self.in_doubt(*it, &known));
                if doubtful && matches!(answer, Answer::Refused(_)) {
                    *answer = Answer::Refused(Refusal::outcome_unknown());
                }
            }
        }
        self.todo = std::mem::take(&mut settled.again);
    }

    /// It was looked for what an append of unknown outcome left in its places, under the locks of its partitions: returns
    /// the partitions that it went into. It is in doubt where nothing stands.
    pub fn looked_for<'r>(
        &mut self,
        proposal: &Proposal,
        rows: impl IntoIterator<Item = &'r Row>,
    ) -> Vec<u32> {
        let place = |row: &Row| ((row.partition, row.offset), row.hash);
        let found: BTreeMap<(u32, i64), Hash> = rows.into_iter().map(place).collect();
        let mut went_in = Vec::new();
        for (partition, (offset, hash)) in proposal.last_rows() {
            match found.get(&(partition, offset)) {
                Some(there) if *there == hash => went_in.push(partition),
                Some(_) => {}
                None => {
                    self.doubts.insert(partition, offset);
                }
            }
        }
        went_in
    }

    /// Answers for those that are left: they cannot be carried out now. Where one was in doubt it is so still, also where its
    /// place is taken by now: by whom, only a round would have told.
    #[must_use]
    pub fn refused(self, unavailable: bool) -> Vec<(usize, Answer)> {
        let why = if unavailable { UNAVAILABLE } else { OUTRUN };
        let refusal = |partition| {
            if self.doubts.contains_key(&partition) {
                Refusal::outcome_unknown()
            } else {
                Refusal::unavailable(why)
            }
        };
        self.todo
            .iter()
            .map(|(index, command)| (*index, Answer::Refused(refusal(command.address.partition))))
            .collect()
    }

    /// Halves commands that the ledger cannot hold together, until the one that it cannot hold stands alone and is refused.
    ///
    /// # Errors
    /// The answer of the one that stands alone.
    pub fn halved(mut self, why: &str) -> Result<(Self, Self), Option<(usize, Answer)>> {
        if self.todo.len() > 1 {
            let later = self.todo.split_off(self.todo.len() / 2);
            let later = Self {
                todo: later,
                rounds: 0,
                doubts: self.doubts.clone(),
            };
            self.rounds = 0;
            return Ok((self, later));
        }
        Err(self.todo.pop().map(|(index, _)| {
            let message = format!("the ledger cannot hold this: {why}");
            let refusal = Refusal::whole(422, "not_recordable", message);
            (index, Answer::Refused(refusal))
        }))
    }

    /// Whether an append of unknown outcome may still go in there: nothing else has taken its place.
    fn in_doubt(&self, partition: u32, known: &impl Fn(u32) -> i64) -> bool {
        let doubt = self.doubts.get(&partition);
        doubt.is_some_and(|offset| known(partition) < *offset)
    }
}

impl Proposal {
    /// The last row of each partition: its offset and its hash.
    #[must_use]
    pub fn last_rows(&self) -> BTreeMap<u32, (i64, Hash)> {
        let last = |row: &Row| (row.partition, (row.offset, row.hash));
        self.rows.iter().map(last).collect()
    }
}
