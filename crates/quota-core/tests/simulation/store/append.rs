//! Transactions: locks first, then the fence, then all rows of a partition or none.

use super::{Fault, Putting, Reply, Staged, Transaction};
use crate::coverage::{Hit, Op};
use crate::oracle::{Identity, identity};
use crate::world::World;
use quota_core::row::Row;
use std::collections::BTreeSet;
use std::sync::Arc;

impl World {
    /// Begins a transaction with these locks.
    pub(super) fn begin(
        &mut self,
        ticket: u64,
        session: u64,
        partitions: Vec<u32>,
        back: i64,
        returns: bool,
    ) {
        self.store
            .transactions
            .insert(session, Transaction::default());
        let granted = move |world: &mut Self, granted: bool| {
            if granted {
                world.mind_idling(session);
                world.answer(ticket, Reply::Done, back, returns);
            } else {
                world.store.transactions.remove(&session);
                world.answer(ticket, Reply::Failed(Fault::Refused), back, returns);
            }
        };
        self.lock(session, partitions, Box::new(granted));
    }

    /// Appends: inside the session's transaction, or in one of its own.
    pub(super) fn append(
        &mut self,
        ticket: u64,
        session: u64,
        putting: Putting,
        back: i64,
        returns: bool,
    ) {
        if self.store.transactions.contains_key(&session) {
            self.mind_idling(session);
            let reply = match self.stage(ticket, putting) {
                Ok((staged, partitions)) => {
                    if let Some(transaction) = self.store.transactions.get_mut(&session) {
                        transaction.staged.rows.extend(staged.rows);
                        transaction.staged.attempts.extend(staged.attempts);
                    }
                    Reply::Appended(partitions, self.database_clock())
                }
                Err(fault) => {
                    if let Some(transaction) = self.store.transactions.get_mut(&session) {
                        transaction.undone = true;
                    }
                    Reply::Failed(fault)
                }
            };
            return self.answer(ticket, reply, back, returns);
        }
        let backend = self.fresh();
        let partitions = putting.fences.iter().map(|fence| fence.partition).collect();
        let granted = move |world: &mut Self, granted: bool| {
            if !granted {
                return world.answer(ticket, Reply::Failed(Fault::Refused), back, returns);
            }
            match world.stage(ticket, putting) {
                Err(fault) => {
                    world.free(backend);
                    world.answer(ticket, Reply::Failed(fault), back, returns);
                }
                Ok((staged, partitions)) => {
                    world.make_durable(backend, staged, move |world| {
                        let reply = Reply::Appended(partitions, world.database_clock());
                        world.answer(ticket, reply, back, returns);
                    });
                }
            }
        };
        self.lock(backend, partitions, Box::new(granted));
    }

    /// The rows that go in, and their partitions: those whose fences stand.
    fn stage(&mut self, ticket: u64, putting: Putting) -> Result<(Staged, Vec<u32>), Fault> {
        let Putting {
            rows,
            fences,
            all,
            attempts,
        } = putting;
        self.did(Op::Fenced, fences.len());
        let mut partitions: BTreeSet<u32> = BTreeSet::new();
        for fence in &fences {
            if self
                .store
                .fits(fence.partition, fence.first_offset, &fence.previous_hash)
            {
                partitions.insert(fence.partition);
            } else {
                self.hit(Hit::Stale);
            }
        }
        let stale = partitions.len() < fences.len();
        if all && stale {
            partitions.clear();
        }
        if stale && !partitions.is_empty() {
            self.hit(Hit::PartlyIn);
        }
        let zombie = self.is_given_up(ticket);
        if zombie && stale {
            self.hit(Hit::ZombieStale);
        }
        let goes_in = |row: &Row| partitions.contains(&row.partition);
        let rows: Vec<Arc<Row>> = rows.into_iter().filter(goes_in).map(Arc::new).collect();
        let known = |row: &Arc<Row>| {
            let store = &self.store;
            store
                .event(row.partition, &row.subject_key, &row.event_key)
                .is_some()
        };
        if rows.iter().any(known) {
            self.hit(Hit::DuplicateEvent);
            return Err(Fault::DuplicateEvent);
        }
        if !rows.is_empty() && zombie {
            self.hit(Hit::ZombieIn);
        } else if !rows.is_empty() && !self.waits(ticket) {
            self.hit(Hit::ZombieCut);
        }
        let made: BTreeSet<Identity> = rows.iter().map(|row| identity(row)).collect();
        let its = attempts.iter().filter(|(name, _)| made.contains(name));
        let attempts = its.cloned().collect();
        Ok((Staged { rows, attempts }, partitions.into_iter().collect()))
    }

    /// Commits: after a moment the rows are there for ever, and the locks are free; or the database crashes first.
    fn make_durable(
        &mut self,
        holder: u64,
        staged: Staged,
        then: impl FnOnce(&mut Self) + 'static,
    ) {
        let life = self.store.life;
        let moment = self.rng.delay(300);
        self.after(moment, move |world| {
            if world.store.life != life {
                return;
            }
            world.did(Op::Appended, staged.rows.len());
            for attempt in staged.attempts {
                world.oracle.each.recorded(attempt);
            }
            for row in staged.rows {
                world.oracle.committed(&row, &mut world.coverage);
                world.store.add(row, world.now);
            }
            world.free(holder);
            then(world);
        });
    }

    pub(super) fn commit(&mut self, ticket: u64, session: u64, back: i64, returns: bool) {
        let Some(transaction) = self.store.transactions.remove(&session) else {
            return self.answer(ticket, Reply::Failed(Fault::Refused), back, returns);
        };
        if transaction.undone {
            self.free(session);
            return self.answer(ticket, Reply::Failed(Fault::Refused), back, returns);
        }
        self.make_durable(session, transaction.staged, move |world| {
            world.answer(ticket, Reply::Done, back, returns);
        });
    }
}
