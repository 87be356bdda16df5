//! The world of one seed: its time, its events in order, and the tasks that run in it, all in one thread.
//!
//! Tasks are futures. Each waits for a reply, for mail or for a time, and nothing else; so whatever is awaited can be cut
//! short by dropping the future, as a crash does, and every interleaving follows from the seed.

use crate::broker::Broker;
use crate::coverage::{Coverage, Hit, Op};
use crate::node::Slot;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::store::{Reply, Store};
use quota_core::time::Timestamp;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub const SECOND: i64 = 1_000_000;
/// Where tasks belong that no crash ends.
pub const NOWHERE: usize = usize::MAX;
/// 2026-03-01T00:00:00Z.
const EPOCH: i64 = 1_772_323_200 * SECOND;

pub type TaskId = u64;
type Action = Box<dyn FnOnce(&mut World)>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

pub struct World {
    /// Steady time, in microseconds.
    pub now: i64,
    /// How far the calendar went ahead of it while nothing happened.
    pub warp: i64,
    /// How wrong the database's clock is.
    pub skew: i64,
    pub rng: Rng,
    pub coverage: Coverage,
    pub store: Store,
    pub broker: Broker,
    pub oracle: Oracle,
    pub nodes: Vec<Slot>,
    /// Nodes whose lines to the database are bad, and until when.
    pub bad_lines: BTreeMap<usize, i64>,
    /// No more faults, no more wishes: what is on its way comes to its end.
    pub calm: bool,
    queue: BTreeMap<(i64, u64), Action>,
    count: u64,
    ready: VecDeque<TaskId>,
    spawned: Vec<(TaskId, usize, Task)>,
    ended: BTreeSet<TaskId>,
    current: TaskId,
    tickets: BTreeMap<u64, (TaskId, &'static str)>,
    replies: BTreeMap<u64, Reply>,
    mail: BTreeMap<TaskId, VecDeque<crate::node::Mail>>,
}

impl World {
    pub fn new(seed: u64, partitions: u32) -> Self {
        Self {
            now: 0,
            warp: 0,
            skew: 0,
            rng: Rng::new(seed),
            coverage: Coverage::default(),
            store: Store::new(partitions),
            broker: Broker::new(partitions),
            oracle: Oracle::new(partitions),
            nodes: Vec::new(),
            bad_lines: BTreeMap::new(),
            calm: false,
            queue: BTreeMap::new(),
            count: 0,
            ready: VecDeque::new(),
            spawned: Vec::new(),
            ended: BTreeSet::new(),
            current: 0,
            tickets: BTreeMap::new(),
            replies: BTreeMap::new(),
            mail: BTreeMap::new(),
        }
    }

    pub fn hit(&mut self, what: Hit) {
        self.coverage.hit(what);
    }

    pub fn did(&mut self, what: Op, count: usize) {
        self.coverage.did(what, count);
    }

    /// The instant by a calendar that is right.
    pub fn calendar(&self) -> Timestamp {
        Timestamp::from_micros(EPOCH + self.now + self.warp)
    }

    /// What the database's clock shows.
    pub fn database_clock(&self) -> Timestamp {
        self.calendar().plus(self.skew)
    }

    pub fn fresh(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Does something after that many microseconds.
    pub fn after(&mut self, micros: i64, action: impl FnOnce(&mut Self) + 'static) {
        let place = (self.now + micros.max(0), self.fresh());
        self.queue.insert(place, Box::new(action));
    }

    /// Answers whoever waits for it; nobody may, by now.
    pub fn reply(&mut self, ticket: u64, reply: Reply) {
        if let Some((task, _)) = self.tickets.remove(&ticket) {
            self.replies.insert(ticket, reply);
            self.ready.push_back(task);
        }
    }

    pub fn waits(&self, ticket: u64) -> bool {
        self.tickets.contains_key(&ticket)
    }

    pub fn send(&mut self, task: TaskId, mail: crate::node::Mail) {
        if let Some(waiting) = self.mail.get_mut(&task) {
            waiting.push_back(mail);
            self.ready.push_back(task);
        }
    }

    fn spawn(&mut self, node: usize, task: Task) -> TaskId {
        let id = self.fresh();
        self.mail.insert(id, VecDeque::new());
        if let Some(slot) = self.nodes.get_mut(node) {
            slot.tasks.insert(id);
        }
        self.spawned.push((id, node, task));
        self.ready.push_back(id);
        id
    }

    /// The next mail of the task that runs, if there is some.
    pub fn mail(&mut self) -> Option<crate::node::Mail> {
        self.mail
            .get_mut(&self.current)
            .and_then(VecDeque::pop_front)
    }

    /// Ends a task as a crash does, wherever it stands; returns what it waited for.
    pub fn end(&mut self, task: TaskId) -> Vec<&'static str> {
        self.ended.insert(task);
        self.mail.remove(&task);
        let mut waited = Vec::new();
        self.tickets.retain(|_, (of, what)| {
            if *of == task {
                waited.push(*what);
            }
            *of != task
        });
        waited
    }
}

/// A task's door to the world.
#[derive(Clone)]
pub struct Io {
    world: Rc<RefCell<World>>,
    pub node: usize,
}

impl Io {
    pub fn with<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        look(&mut self.world.borrow_mut())
    }

    pub fn at(&self, node: usize) -> Self {
        Self {
            world: Rc::clone(&self.world),
            node,
        }
    }

    /// Begins a task, which belongs to this door's node.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> TaskId {
        self.with(|world| world.spawn(self.node, Box::pin(task)))
    }

    /// The task that runs.
    pub fn me(&self) -> TaskId {
        self.with(|world| world.current)
    }

    pub fn now(&self) -> i64 {
        self.with(|world| world.now)
    }

    pub fn hit(&self, what: Hit) {
        self.with(|world| world.hit(what));
    }

    pub fn did(&self, what: Op, count: usize) {
        self.with(|world| world.did(what, count));
    }

    /// Waits for the reply to what `ask` sends off under the ticket.
    pub fn call(&self, what: &'static str, ask: impl FnOnce(&mut World, u64)) -> Call {
        let ticket = self.with(|world| {
            let ticket = world.fresh();
            let current = world.current;
            world.tickets.insert(ticket, (current, what));
            ask(world, ticket);
            ticket
        });
        let world = Rc::clone(&self.world);
        Call { world, ticket }
    }

    pub async fn sleep(&self, micros: i64) {
        let slept = self.call("a pause", |world, ticket| {
            world.after(micros, move |world| world.reply(ticket, Reply::Done));
        });
        slept.await;
    }

    /// The task's next mail; none when the time has come first.
    pub fn recv(&self, deadline: Option<i64>) -> Receive {
        if let Some(deadline) = deadline {
            self.with(|world| {
                let (task, left) = (world.current, deadline - world.now);
                world.after(left, move |world| world.ready.push_back(task));
            });
        }
        let world = Rc::clone(&self.world);
        Receive { world, deadline }
    }
}

/// A reply to come.
pub struct Call {
    world: Rc<RefCell<World>>,
    ticket: u64,
}

impl Future for Call {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Reply> {
        let found = self.world.borrow_mut().replies.remove(&self.ticket);
        found.map_or(Poll::Pending, Poll::Ready)
    }
}

/// Mail to come.
pub struct Receive {
    world: Rc<RefCell<World>>,
    deadline: Option<i64>,
}

impl Future for Receive {
    type Output = Option<crate::node::Mail>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let mut world = self.world.borrow_mut();
        match world.mail() {
            Some(mail) => Poll::Ready(Some(mail)),
            None if self.deadline.is_some_and(|due| due <= world.now) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Runs the world's tasks and events, one after the other.
pub struct Runner {
    world: Rc<RefCell<World>>,
    tasks: BTreeMap<TaskId, (usize, Task)>,
}

impl Runner {
    pub fn new(world: World) -> Self {
        Self {
            world: Rc::new(RefCell::new(world)),
            tasks: BTreeMap::new(),
        }
    }

    pub fn io(&self) -> Io {
        Io {
            world: Rc::clone(&self.world),
            node: NOWHERE,
        }
    }

    /// Runs until that time.
    pub fn run_until(&mut self, until: i64) {
        loop {
            self.poll_ready();
            let mut world = self.world.borrow_mut();
            let Some(next) = world.queue.first_entry() else {
                break;
            };
            let (at, _) = *next.key();
            if at > until {
                break;
            }
            let action = next.remove();
            world.now = world.now.max(at);
            action(&mut world);
        }
        let mut world = self.world.borrow_mut();
        world.now = world.now.max(until);
    }

    fn poll_ready(&mut self) {
        loop {
            let id = {
                let mut world = self.world.borrow_mut();
                for (id, node, task) in std::mem::take(&mut world.spawned) {
                    self.tasks.insert(id, (node, task));
                }
                for ended in std::mem::take(&mut world.ended) {
                    self.tasks.remove(&ended);
                }
                let Some(id) = world.ready.pop_front() else {
                    return;
                };
                world.current = id;
                id
            };
            let Some((node, task)) = self.tasks.get_mut(&id) else {
                continue;
            };
            let node = *node;
            let mut context = Context::from_waker(Waker::noop());
            if task.as_mut().poll(&mut context).is_ready() {
                self.tasks.remove(&id);
                let mut world = self.world.borrow_mut();
                world.mail.remove(&id);
                if let Some(slot) = world.nodes.get_mut(node) {
                    slot.tasks.remove(&id);
                }
            }
        }
    }
}
