//! The model of the database: what the design promises of it, and no more.
//!
//! Rows of a partition are only ever added, behind a fence that compares the last row; an event's key stands once; locks
//! belong to sessions, and are theirs until the transaction ends, is cut, or the database crashes. A statement works on what
//! is there when it arrives, which may be long after its sender gave it up.

mod append;
mod read;
mod wire;

pub use read::{Loaded, LoadedSubject, Lookup, StoredView};
pub use wire::{Fault, Putting, Reply, Request, Saved};

use crate::oracle::Attempt;
use crate::world::World;
use quota_core::digest::{EventKey, Hash, SubjectKey, genesis};
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Locks that are not had by then are not had at all.
const LOCK_TIMEOUT: i64 = 2_000_000;
/// A transaction whose session says nothing for so long is cut.
const IDLE_TIMEOUT: i64 = 2_000_000;

pub const LEDGER: [u8; 16] = *b"simulated ledger";

type Granted = Box<dyn FnOnce(&mut World, bool)>;

/// A subject's stored view.
#[derive(Clone, Debug)]
pub struct View {
    pub product: Arc<str>,
    pub subject: Arc<str>,
    pub next_due: Option<Timestamp>,
    pub state: Arc<[u8]>,
    pub things: BTreeMap<(i16, String), Arc<[u8]>>,
}

/// A transaction under way.
#[derive(Default)]
struct Transaction {
    staged: Staged,
    undone: bool,
    /// Changes with every statement, so that an old timer cuts nothing.
    turn: u64,
}

/// What goes in once it is committed.
#[derive(Default)]
struct Staged {
    rows: Vec<Arc<Row>>,
    /// Whose rows they are.
    attempts: Vec<Attempt>,
}

struct Waiter {
    holder: u64,
    partitions: Vec<u32>,
    then: Granted,
}

/// The database.
pub struct Store {
    pub partitions: u32,
    pub up: bool,
    rows: Vec<Vec<Arc<Row>>>,
    /// When each of them became durable, by the steady time.
    since: Vec<Vec<i64>>,
    /// Where each event of a partition stands.
    events: Vec<BTreeMap<(SubjectKey, EventKey), i64>>,
    /// Where each subject's events stand.
    subjects: BTreeMap<SubjectKey, Vec<i64>>,
    catalogs: Vec<Arc<Row>>,
    pub views: BTreeMap<(u32, SubjectKey), View>,
    pub checkpoints: Vec<i64>,
    sessions: BTreeSet<u64>,
    transactions: BTreeMap<u64, Transaction>,
    locks: BTreeMap<u32, u64>,
    waiting: VecDeque<Waiter>,
    /// Requests that are in the database's hands, or on their way to it.
    in_flight: BTreeMap<u64, Option<u64>>,
    /// Tickets whose senders have given them up.
    given_up: BTreeSet<u64>,
    /// Counts crashes: what was begun before one never ends.
    pub life: u32,
}

impl Store {
    pub fn new(partitions: u32) -> Self {
        let each = partitions as usize;
        Self {
            partitions,
            up: true,
            rows: vec![Vec::new(); each],
            since: vec![Vec::new(); each],
            events: vec![BTreeMap::new(); each],
            subjects: BTreeMap::new(),
            catalogs: Vec::new(),
            views: BTreeMap::new(),
            checkpoints: vec![0; each],
            sessions: BTreeSet::new(),
            transactions: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            given_up: BTreeSet::new(),
            life: 0,
        }
    }

    pub fn rows(&self, partition: u32) -> &[Arc<Row>] {
        &self.rows[partition as usize]
    }

    pub fn head(&self, partition: u32) -> Head {
        let start = || Head {
            offset: -1,
            hash: genesis(&LEDGER, partition),
            recorded_at: Timestamp::MIN,
        };
        self.rows(partition).last().map_or_else(start, |row| Head {
            offset: row.offset,
            hash: row.hash,
            recorded_at: row.recorded_at,
        })
    }

    pub fn event(
        &self,
        partition: u32,
        subject: &SubjectKey,
        event: &EventKey,
    ) -> Option<&Arc<Row>> {
        let offset = self.events[partition as usize].get(&(*subject, *event))?;
        self.rows(partition).get(*offset as usize)
    }

    pub fn offsets_of(&self, subject: &SubjectKey) -> &[i64] {
        self.subjects.get(subject).map_or(&[], Vec::as_slice)
    }

    /// Whether the fence stands: the partition's last row is the one that the batch was built on.
    fn fits(&self, partition: u32, first: i64, previous: &Hash) -> bool {
        let head = self.head(partition);
        let empty = head.offset < 0 && first == 0;
        empty || (head.offset + 1 == first && head.hash == *previous)
    }

    /// The last offset that was durable before a time.
    pub fn head_before(&self, partition: u32, time: i64) -> i64 {
        let since = &self.since[partition as usize];
        since.partition_point(|since| *since < time) as i64 - 1
    }

    fn add(&mut self, row: Arc<Row>, now: i64) {
        let partition = row.partition as usize;
        let at = self.rows[partition].len() as i64;
        assert_eq!(row.offset, at, "the model's own primary key");
        let place = (row.subject_key, row.event_key);
        let before = self.events[partition].insert(place, at);
        assert_eq!(before, None, "the model's own unique key");
        if &*row.event_type == "catalog.published" {
            self.catalogs.push(Arc::clone(&row));
        }
        // A catalog's events have a sequence of their own in each partition.
        if !row.subject.is_empty() {
            self.subjects.entry(row.subject_key).or_default().push(at);
        }
        self.rows[partition].push(row);
        self.since[partition].push(now);
    }

    pub fn has_session(&self, session: u64) -> bool {
        self.sessions.contains(&session)
    }
}

impl World {
    /// The database crashes: what was not committed never was, and every session is gone.
    pub fn crash_database(&mut self) {
        let store = &mut self.store;
        store.life += 1;
        store.up = false;
        store.sessions.clear();
        store.transactions.clear();
        store.locks.clear();
        store.waiting.clear();
        let lost: Vec<u64> = store.in_flight.keys().copied().collect();
        store.in_flight.clear();
        for ticket in lost {
            let soon = self.rng.delay(1_000);
            self.after(soon, move |world| {
                world.reply(ticket, Reply::Failed(Fault::Lost));
            });
        }
    }

    /// Grants the locks at once, or when they are free; or says that they could not be had in time.
    fn lock(&mut self, holder: u64, partitions: Vec<u32>, then: Granted) {
        if self.store.waiting.is_empty() && self.take(holder, &partitions) {
            return then(self, true);
        }
        self.hit(crate::coverage::Hit::LockWait);
        self.store.waiting.push_back(Waiter {
            holder,
            partitions,
            then,
        });
        self.after(LOCK_TIMEOUT, move |world| {
            let place = world
                .store
                .waiting
                .iter()
                .position(|it| it.holder == holder);
            if let Some(waiter) = place.and_then(|place| world.store.waiting.remove(place)) {
                world.hit(crate::coverage::Hit::LockTimeout);
                (waiter.then)(world, false);
                world.grant();
            }
        });
        self.grant();
    }

    fn take(&mut self, holder: u64, partitions: &[u32]) -> bool {
        let locks = &mut self.store.locks;
        let free = |partition: &u32| locks.get(partition).is_none_or(|by| *by == holder);
        if !partitions.iter().all(free) {
            return false;
        }
        for partition in partitions {
            locks.insert(*partition, holder);
        }
        true
    }

    fn free(&mut self, holder: u64) {
        self.store.locks.retain(|_, by| *by != holder);
        self.grant();
    }

    /// Grants what can be granted, first come first served.
    fn grant(&mut self) {
        let mut place = 0;
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        while let Some(waiter) = self.store.waiting.get(place) {
            let (holder, partitions) = (waiter.holder, waiter.partitions.clone());
            let before = partitions.iter().any(|partition| taken.contains(partition));
            if !before && self.take(holder, &partitions) {
                if let Some(waiter) = self.store.waiting.remove(place) {
                    let life = self.store.life;
                    self.after(0, move |world| {
                        // A crash has taken the locks back, and all else with them.
                        if world.store.life == life {
                            (waiter.then)(world, true);
                        }
                    });
                }
            } else {
                taken.extend(partitions);
                place += 1;
            }
        }
    }

    /// A session's connection is noticed to be gone, or its transaction to stand still: what it did is undone.
    pub fn cut_session(&mut self, session: u64) {
        self.store.sessions.remove(&session);
        if self.store.transactions.remove(&session).is_some() {
            self.store.waiting.retain(|waiter| waiter.holder != session);
            self.free(session);
        }
    }

    /// Cuts the transaction if its session has said nothing until then.
    fn mind_idling(&mut self, session: u64) {
        let turn = self.fresh();
        let Some(transaction) = self.store.transactions.get_mut(&session) else {
            return;
        };
        transaction.turn = turn;
        self.after(IDLE_TIMEOUT, move |world| {
            let now = world.store.transactions.get(&session).map(|it| it.turn);
            if now == Some(turn) {
                world.hit(crate::coverage::Hit::IdleCut);
                world.cut_session(session);
            }
        });
    }
}
