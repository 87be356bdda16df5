//! A node: its memory, its tasks, and how it starts and crashes. What decides is the product's own; here it is only driven.

mod cache;
mod desk;
mod follower;
mod inbox;
mod lane;
mod projector;
mod reading;
mod relay;
mod upkeep;

pub use cache::Memory;
pub use desk::{Job, submit};
pub use reading::{Checked, check};

use crate::broker::Message;
use crate::coverage::Hit;
use crate::store::Reply;
use crate::world::{Io, TaskId, World};
use quota_core::relay::Ends;
use quota_core::row::Row;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// Lanes of a node, as the product has them.
pub const LANES: usize = 2;

/// What a task finds in its mail.
pub enum Mail {
    Job(Job),
    Records(Vec<Arc<Row>>),
    Heads(Rc<Reading>),
    /// By whose instance it was asked, the partition, the ticket and the rows; none where the read failed.
    Range(u64, u32, u64, Option<Vec<(i64, Arc<Row>)>>),
    /// The same of the topic's tails.
    Tails(u64, u64, Option<BTreeMap<u32, Ends>>),
    Published(u32, u64),
    /// A producer is of no more use.
    Cut(u64),
    /// The partitions that are the task's from now on.
    Own(BTreeSet<u32>),
    /// A lane of this node has committed these rows of a partition.
    Committed(u32, Vec<Arc<Row>>),
    Messages {
        number: usize,
        generation: u64,
        from: usize,
        messages: Vec<Arc<Message>>,
    },
}

/// One reading of all heads.
pub struct Reading {
    pub offsets: Vec<i64>,
    pub asked_at: i64,
}

/// A node as the world sees it.
pub struct Slot {
    pub alive: bool,
    pub memory: Option<Rc<RefCell<Memory>>>,
    pub tasks: BTreeSet<TaskId>,
    /// Of even partitions, and of odd ones.
    pub lanes: [TaskId; LANES],
    pub follower: TaskId,
    pub relay: TaskId,
    pub projector: TaskId,
    pub inbox: TaskId,
    /// The lanes' sessions.
    pub sessions: BTreeSet<u64>,
    /// Those who wait for an answer.
    pub callers: BTreeSet<u64>,
}

impl Slot {
    pub const fn down() -> Self {
        Self {
            alive: false,
            memory: None,
            tasks: BTreeSet::new(),
            lanes: [0; LANES],
            follower: 0,
            relay: 0,
            projector: 0,
            inbox: 0,
            sessions: BTreeSet::new(),
            callers: BTreeSet::new(),
        }
    }
}

/// Starts a node: it reads the ledger's ends, then all of its tasks begin.
pub fn start(io: &Io, node: usize) {
    let io = io.at(node);
    let begin = io.clone();
    io.spawn(async move {
        let memory = loop {
            match upkeep::opened(&begin).await {
                Some(memory) => break memory,
                // The database is away: it is tried again.
                None => begin.sleep(300_000).await,
            }
        };
        let memory = Rc::new(RefCell::new(memory));
        let (io, with) = (&begin, &memory);
        let lanes = [(); LANES].map(|()| io.spawn(lane::run(io.clone(), Rc::clone(with))));
        let follower = io.spawn(follower::run(io.clone(), Rc::clone(with)));
        let relay = io.spawn(relay::run(io.clone(), Rc::clone(with)));
        let projector = io.spawn(projector::run(io.clone(), Rc::clone(with)));
        let inbox = io.spawn(inbox::run(io.clone(), Rc::clone(with)));
        io.spawn(upkeep::heads(io.clone(), Rc::clone(with)));
        io.spawn(upkeep::sweeper(io.clone(), Rc::clone(with)));
        io.with(|world| {
            world.hit(Hit::NodeJoined);
            let slot = &mut world.nodes[node];
            slot.alive = true;
            slot.memory = Some(memory);
            (slot.lanes, slot.follower, slot.relay) = (lanes, follower, relay);
            (slot.projector, slot.inbox) = (projector, inbox);
        });
    });
}

impl World {
    /// A node dies, wherever each of its tasks stands. What it has sent is on its way still.
    pub fn crash_node(&mut self, node: usize) {
        let slot = std::mem::replace(&mut self.nodes[node], Slot::down());
        for task in slot.tasks {
            let waited = self.end(task);
            self.broker.leave(task);
            for what in &waited {
                self.note_crash(what);
            }
            if waited.is_empty() {
                self.hit(Hit::CrashIdle);
            }
        }
        for caller in slot.callers {
            let soon = self.rng.delay(1_000);
            self.after(soon, move |world| {
                world.reply(caller, Reply::Failed(crate::store::Fault::Lost));
            });
        }
        for number in 0..self.broker.inboxes.len() {
            if self.broker.inboxes[number].owner == Some(slot.inbox) {
                self.hand_inbox(number, None);
            }
        }
        for session in slot.sessions {
            let noticed = self.rng.range(1_000, 5_000_000);
            self.after(noticed, move |world| world.cut_session(session));
        }
    }

    fn note_crash(&mut self, waited_for: &str) {
        let hit = match waited_for {
            "lane: load" => Hit::CrashLoad,
            "lane: lock" => Hit::CrashLock,
            "lane: append" => Hit::CrashAppend,
            "lane: commit" => Hit::CrashCommit,
            "lane: read" => Hit::CrashRead,
            "projector" => Hit::CrashProjector,
            "an answer" => Hit::CrashInbox,
            "inbox: commit" => Hit::CrashCommitOffset,
            _ => return,
        };
        self.hit(hit);
    }
}
