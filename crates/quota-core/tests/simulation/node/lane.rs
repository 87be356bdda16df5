//! A node's lane: it drives the product's own [`Course`] and [`Batch`] against the model of the database.

mod looking;

use super::desk::{Desk, Job};
use super::{Mail, Memory};
use crate::coverage::{Hit, Op};
use crate::oracle::Attempt;
use crate::store::{Fault, Lookup, Putting, Reply, Request};
use crate::world::Io;
use quota_core::command::Answer;
use quota_core::epoch::Epochs;
use quota_core::known::{FoldedUp, Stored, Unreadable, fold_up};
use quota_core::lane::{Batch, Course, Failure, Proposal, Round, Settled, WantedSubject};
use quota_core::row::Row;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Commands that go into one append.
const BATCH_MAX: usize = 30;
/// Rows that are read at once.
const CATCH_UP_ROWS: usize = 50;

pub async fn run(io: Io, memory: Rc<RefCell<Memory>>) {
    let mut lane = Lane {
        io,
        memory,
        session: None,
        attempts: Rc::default(),
    };
    loop {
        let Some(Mail::Job(first)) = lane.io.recv(None).await else {
            continue;
        };
        let mut commands = first.commands.len();
        let mut jobs = vec![first];
        while commands < BATCH_MAX
            && let Some(Mail::Job(job)) = lane.io.with(crate::world::World::mail)
        {
            commands += job.commands.len();
            jobs.push(job);
        }
        lane.carry_out(jobs).await;
    }
}

struct Lane {
    io: Io,
    memory: Rc<RefCell<Memory>>,
    session: Option<u64>,
    /// Whose commands are in work.
    attempts: Rc<[Attempt]>,
}

impl Lane {
    async fn carry_out(&mut self, jobs: Vec<Job>) {
        let (mut desk, todo) = Desk::open(&self.io, jobs);
        self.attempts = desk.attempts();
        let mut course = Course::new(todo);
        let mut failed = false;
        loop {
            desk.begin();
            let (before, asked_at) = (course.left(), self.io.now());
            let Some(round) = course.round(&Epochs::default(), |index| desk.is_given_up(index))
            else {
                break;
            };
            if course.left() < before {
                self.io.hit(Hit::GivenUp);
            }
            match self.round(round).await {
                Ok(settled) => self.take_in(&mut desk, &mut course, settled, asked_at),
                Err(Failure::Raced) => {}
                Err(Failure::Invalid(why)) => panic!("the model takes every row, but: {why}"),
                Err(Failure::Ambiguous(batch, proposal)) => {
                    let rows = self.look_for(&proposal).await;
                    let went_in = course.looked_for(&proposal, rows.iter().map(|row| &**row));
                    let found = !went_in.is_empty();
                    self.io.hit(if found {
                        Hit::AmbiguousIn
                    } else {
                        Hit::AmbiguousOut
                    });
                    let settled = (*batch).settle(&went_in);
                    self.take_in(&mut desk, &mut course, settled, asked_at);
                }
                Err(Failure::Unavailable(_)) => {
                    failed = true;
                    break;
                }
            }
        }
        self.put(&mut desk, course.refused(failed));
        desk.close(&self.io);
    }

    fn put(&self, desk: &mut Desk, answers: Vec<(usize, Answer)>) {
        for (index, answer) in answers {
            if matches!(&answer, Answer::Refused(refusal) if refusal.status == 504) {
                self.io.hit(Hit::Doubted);
            }
            desk.put(index, answer);
        }
    }

    fn take_in(&self, desk: &mut Desk, course: &mut Course, mut settled: Settled, asked_at: i64) {
        let memory = Rc::clone(&self.memory);
        course.settled(&mut settled, |partition| {
            memory.borrow().head_offset(partition)
        });
        let mut states: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (partition, key, state) in settled.states {
            states.entry(partition).or_default().push((key, state));
        }
        self.io.with(|world| {
            for (partition, head) in settled.heads {
                let states = states.remove(&partition).unwrap_or_default();
                memory
                    .borrow_mut()
                    .settle(world, partition, head, states, asked_at);
            }
            let relay = world.nodes[self.io.node].relay;
            for (partition, rows) in settled.rows {
                world.send(relay, Mail::Committed(partition, rows));
            }
        });
        self.put(desk, settled.answers);
    }

    /// Asks on the lane's session, which is of no more use when its connection is lost.
    async fn ask(&mut self, what: &'static str, request: Request) -> Result<Reply, Fault> {
        let reply = self.io.ask(what, self.session, request).await;
        if matches!(reply, Err(Fault::Lost))
            && let Some(session) = self.session.take()
        {
            let node = self.io.node;
            self.io
                .with(|world| world.nodes[node].sessions.remove(&session));
        }
        reply
    }

    async fn open(&mut self) -> Result<(), Failure> {
        if self.session.is_none() {
            let Reply::Opened(session) =
                self.ask("lane: open", Request::Open).await.map_err(away)?
            else {
                return Err(away(Fault::Refused));
            };
            self.session = Some(session);
            let node = self.io.node;
            self.io
                .with(|world| world.nodes[node].sessions.insert(session));
        }
        Ok(())
    }

    async fn rollback(&mut self) {
        if self.session.is_some() {
            self.ask("lane: rollback", Request::Rollback).await.ok();
        }
    }

    /// One round: load, decide, append.
    async fn round(&mut self, round: Round) -> Result<Settled, Failure> {
        let Round { mut batch, locked } = round;
        let partitions = batch.partitions();
        self.open().await?;
        if locked {
            self.io.hit(Hit::LockedRound);
            let lock = Request::Lock(partitions.clone());
            self.ask("lane: lock", lock).await.map_err(away)?;
            if let Err(failure) = self.catch_up(&partitions).await {
                self.rollback().await;
                return Err(failure);
            }
        }
        match self.decided(&mut batch, &partitions, locked).await {
            Ok(proposal) => self.append(batch, proposal, locked).await,
            Err(failure) => {
                self.rollback().await;
                Err(failure)
            }
        }
    }

    /// Reads what others appended, under their locks.
    async fn catch_up(&mut self, partitions: &[u32]) -> Result<(), Failure> {
        // Before the heads are read: while a reply is on its way a transaction may be cut, and others append.
        let known = |partition: &u32| self.memory.borrow().head_offset(*partition);
        let known: Vec<i64> = partitions.iter().map(known).collect();
        let Reply::Heads(heads, _) = self.ask("lane: read", Request::Heads).await.map_err(away)?
        else {
            return Err(away(Fault::Refused));
        };
        for (partition, known) in partitions.iter().zip(known) {
            let head = heads[*partition as usize];
            assert!(head.offset >= known, "the ledger went back");
            loop {
                let next = self.memory.borrow().head_offset(*partition) + 1;
                if next > head.offset {
                    break;
                }
                let range = Request::Range(*partition, next, CATCH_UP_ROWS);
                let Reply::Rows(rows) = self.ask("lane: read", range).await.map_err(away)? else {
                    return Err(away(Fault::Refused));
                };
                let mut memory = self.memory.borrow_mut();
                for row in rows {
                    assert!(
                        !memory.is_contradicted_by(&row),
                        "the ledger contradicts a node"
                    );
                    self.io.with(|world| memory.apply(world, &row));
                }
            }
        }
        Ok(())
    }

    async fn decided(
        &mut self,
        batch: &mut Batch,
        partitions: &[u32],
        locked: bool,
    ) -> Result<Proposal, Failure> {
        {
            let memory = self.memory.borrow();
            for partition in partitions {
                batch.put_end(*partition, memory.end(*partition));
            }
            let addresses: Vec<_> = batch.addresses().map(|it| (it.partition, it.key)).collect();
            for (partition, key) in addresses {
                if !batch.has_state(&key)
                    && let Some(state) = memory.get(partition, &key)
                {
                    batch.put_state(key, (*state).clone());
                }
            }
        }
        loop {
            let wants = batch.wants();
            if wants.subjects.is_empty() && wants.events.is_empty() {
                break;
            }
            for (_, subject, event) in &wants.events {
                batch.put_found(*subject, *event, None);
            }
            self.load(batch, wants.subjects, wants.events, locked)
                .await?;
        }
        let memory = self.memory.borrow();
        self.io.did(Op::Decided, batch.addresses().count());
        let now = self.io.with(|world| memory.clock(world));
        Ok(batch.decide(now, &|product: &str, version| {
            memory.catalog(product, version)
        }))
    }

    async fn load(
        &mut self,
        batch: &mut Batch,
        mut wanted: Vec<WantedSubject>,
        mut events: Vec<(u32, [u8; 16], [u8; 16])>,
        locked: bool,
    ) -> Result<(), Failure> {
        loop {
            let lookup = |wanted: &WantedSubject| Lookup {
                partition: wanted.partition,
                key: wanted.key,
                things: wanted.things.clone(),
                all: true,
            };
            let lookups = wanted.iter().map(lookup).collect();
            let request = Request::Load(lookups, std::mem::take(&mut events));
            let Reply::Loaded(loaded) = self.ask("lane: load", request).await.map_err(away)? else {
                return Err(away(Fault::Refused));
            };
            for row in loaded.events {
                batch.put_found(row.subject_key, row.event_key, Some(row));
            }
            let mut more = Vec::new();
            for (wanted, found) in wanted.iter().zip(loaded.subjects) {
                let state = self.fold(wanted, found.view.state, found.view.things, &found.tail);
                match state {
                    Ok(FoldedUp::State(state)) => {
                        let through = loaded.through[&wanted.partition];
                        let kept = Arc::new((*state).clone());
                        let mut memory = self.memory.borrow_mut();
                        self.io.with(|world| {
                            memory.keep(world, wanted.partition, wanted.key, kept, through)
                        });
                        batch.put_state(wanted.key, *state);
                    }
                    Ok(FoldedUp::Wants(things)) => more.push(WantedSubject {
                        things,
                        ..wanted.clone()
                    }),
                    // A catalog that others have published: the next round reads on first.
                    Err(_) if !locked => return Err(Failure::Raced),
                    Err(error) => panic!("a subject cannot be folded: {error}"),
                }
            }
            if more.is_empty() {
                return Ok(());
            }
            wanted = more;
        }
    }

    fn fold(
        &self,
        wanted: &WantedSubject,
        view: Option<Arc<[u8]>>,
        things: Vec<(i16, String, Vec<u8>)>,
        tail: &[Arc<Row>],
    ) -> Result<FoldedUp, Unreadable> {
        let stored = Stored {
            view: view.as_deref(),
            things,
            tail: tail.iter().map(|row| &**row),
        };
        let memory = self.memory.borrow();
        fold_up(stored, &wanted.things, &|product: &str, version| {
            memory.catalog(product, version)
        })
    }

    async fn append(
        &mut self,
        batch: Batch,
        proposal: Proposal,
        locked: bool,
    ) -> Result<Settled, Failure> {
        let request = Request::Append(Putting {
            rows: proposal.rows.clone(),
            fences: proposal.fences.clone(),
            all: false,
            attempts: Rc::clone(&self.attempts),
        });
        let (partitions, clock) = match self.ask("lane: append", request).await {
            Ok(Reply::Appended(partitions, clock)) => (partitions, clock),
            Ok(_) => return Err(away(Fault::Refused)),
            // Inside a transaction nothing is durable before its commit.
            Err(fault) => {
                self.rollback().await;
                return Err(failed(fault, batch, proposal, !locked));
            }
        };
        if locked && let Err(fault) = self.ask("lane: commit", Request::Commit).await {
            return Err(failed(fault, batch, proposal, true));
        }
        let mut memory = self.memory.borrow_mut();
        self.io.with(|world| memory.set_clock(clock, world));
        Ok(batch.settle(&partitions))
    }
}

fn away(fault: Fault) -> Failure {
    Failure::Unavailable(format!("{fault:?}"))
}

fn failed(fault: Fault, batch: Batch, proposal: Proposal, durable: bool) -> Failure {
    match fault {
        Fault::Lost if durable => Failure::Ambiguous(Box::new(batch), proposal),
        Fault::DuplicateEvent => Failure::Raced,
        Fault::Lost | Fault::Refused => away(fault),
    }
}
