//! The wire to the database: it delays, loses and cuts; whoever asks learns no more than a client would.

use super::{Loaded, Lookup, StoredView};
use crate::coverage::Hit;
use crate::oracle::Attempt;
use crate::world::{Io, World};
use quota_core::digest::{EventKey, SubjectKey};
use quota_core::lane::Fence;
use quota_core::projection::{Step, WantedView};
use quota_core::row::{Head, Row};
use quota_core::state::RowKey;
use quota_core::time::Timestamp;
use std::rc::Rc;
use std::sync::Arc;

/// What is asked of the database.
pub enum Request {
    Open,
    Lock(Vec<u32>),
    Append(Putting),
    Commit,
    Rollback,
    Heads,
    RowsAt(Vec<(u32, i64)>),
    /// A partition, the first offset and the most rows.
    Range(u32, i64, usize),
    Load(Vec<Lookup>, Vec<(u32, SubjectKey, EventKey)>),
    Checkpoints,
    Stored(Vec<WantedView>),
    Save(Vec<Step>, Vec<Saved>),
    Catalogs,
    Due(Timestamp),
}

/// What is to be appended.
pub struct Putting {
    pub rows: Vec<Row>,
    pub fences: Vec<Fence>,
    /// Whether all of it has to go in or nothing.
    pub all: bool,
    /// Whose commands it may carry out.
    pub attempts: Rc<[Attempt]>,
}

/// A subject's view and changed things, to be saved.
pub struct Saved {
    pub partition: u32,
    pub key: SubjectKey,
    pub product: Arc<str>,
    pub subject: Arc<str>,
    pub next_due: Option<Timestamp>,
    pub state: Vec<u8>,
    pub things: Vec<(RowKey, Vec<u8>)>,
}

/// What the database says.
pub enum Reply {
    Done,
    Failed(Fault),
    Opened(u64),
    /// The partitions that went in, and the clock.
    Appended(Vec<u32>, Timestamp),
    /// The heads, and the clock.
    Heads(Vec<Head>, Timestamp),
    Rows(Vec<Arc<Row>>),
    Loaded(Loaded),
    Checkpoints(Vec<i64>),
    Stored(Vec<StoredView>),
    /// The partitions whose checkpoint moved.
    Moved(Vec<u32>),
    Due(Vec<(Arc<str>, Arc<str>)>),
    /// From a lane, to a caller.
    Answers(Vec<quota_core::command::Answer>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection was lost: nobody knows whether the request was carried out, or will be.
    Lost,
    /// The statement failed, and its transaction with it: surely nothing was recorded.
    Refused,
    DuplicateEvent,
}

/// What becomes of one request on the wire.
struct Way {
    there: i64,
    back: i64,
    arrives: bool,
    returns: bool,
    /// When the sender gives it up, where it does before the reply.
    given_up: Option<i64>,
}

impl World {
    fn way(&mut self, node: usize) -> Way {
        let mut way = Way {
            there: self.rng.delay(200),
            back: self.rng.delay(200),
            arrives: true,
            returns: true,
            given_up: None,
        };
        let bad = self.bad_lines.get(&node);
        let odds = if bad.is_some_and(|until| *until > self.now) {
            5
        } else {
            400
        };
        if self.calm || !self.rng.one_in(odds) {
            return way;
        }
        match self.rng.below(5) {
            0 => {
                way.arrives = false;
                way.given_up = Some(self.rng.delay(20_000));
            }
            1 => {
                way.returns = false;
                way.given_up = Some(self.rng.delay(20_000));
            }
            // It is given up while it is still on its way: a zombie.
            2 | 3 => {
                let latest = if self.rng.one_in(2) {
                    6_000_000
                } else {
                    60_000
                };
                way.there = self.rng.range(1_000, latest);
                let before = self.rng.delay(20_000).min(way.there);
                way.given_up = Some(before);
            }
            _ => way.back = self.rng.range(1_000_000, 2_500_000),
        }
        way
    }

    fn ask(&mut self, node: usize, ticket: u64, session: Option<u64>, request: Request) {
        let way = self.way(node);
        if !way.arrives {
            self.hit(Hit::LostRequest);
        }
        if !way.returns {
            self.hit(Hit::LostReply);
        }
        if way.back >= 1_000_000 {
            self.hit(Hit::LateReply);
        }
        self.store.in_flight.insert(ticket, session);
        if let Some(given_up) = way.given_up {
            self.after(given_up, move |world| {
                if world.waits(ticket) {
                    world.store.given_up.insert(ticket);
                    world.reply(ticket, Reply::Failed(Fault::Lost));
                }
            });
            // Sooner or later the server notices that nobody is there.
            if let Some(session) = session {
                let noticed = given_up + self.rng.range(1_000, 8_000_000);
                self.after(noticed, move |world| world.cut_session(session));
            }
        }
        if way.arrives {
            let (back, returns) = (way.back, way.returns);
            self.after(way.there, move |world| {
                world.arrive(ticket, session, request, back, returns);
            });
        }
    }

    /// The request is at the database.
    fn arrive(
        &mut self,
        ticket: u64,
        session: Option<u64>,
        request: Request,
        back: i64,
        returns: bool,
    ) {
        // A crash since then has answered it already.
        if !self.store.in_flight.contains_key(&ticket) {
            return;
        }
        let known = session.is_none_or(|session| self.store.has_session(session));
        if !self.store.up || !known {
            if !self.store.up {
                self.hit(Hit::DatabaseDown);
            }
            return self.answer(ticket, Reply::Failed(Fault::Lost), back, true);
        }
        match request {
            Request::Lock(partitions) => {
                if let Some(session) = session {
                    self.begin(ticket, session, partitions, back, returns);
                }
            }
            Request::Append(putting) => {
                self.append(ticket, session.unwrap_or(0), putting, back, returns);
            }
            Request::Commit => self.commit(ticket, session.unwrap_or(0), back, returns),
            Request::Rollback => {
                let session = session.unwrap_or(0);
                if self.store.transactions.remove(&session).is_some() {
                    self.free(session);
                }
                self.answer(ticket, Reply::Done, back, returns);
            }
            read => {
                if let Some(session) = session {
                    self.mind_idling(session);
                }
                let reply = self.read(read);
                self.answer(ticket, reply, back, returns);
            }
        }
    }

    /// Sends a reply back, unless the database crashes first.
    pub(super) fn answer(&mut self, ticket: u64, reply: Reply, back: i64, returns: bool) {
        let life = self.store.life;
        if !returns {
            return;
        }
        self.after(back, move |world| {
            let crashed = world.store.life != life;
            world.store.in_flight.remove(&ticket);
            world.store.given_up.remove(&ticket);
            if !crashed {
                world.reply(ticket, reply);
            }
        });
    }

    /// Whether whoever sent this waits for it no more.
    pub(super) fn is_given_up(&self, ticket: u64) -> bool {
        self.store.given_up.contains(&ticket)
    }
}

impl Io {
    /// Asks the database, on a session or on any connection.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(
        &self,
        what: &'static str,
        session: Option<u64>,
        request: Request,
    ) -> Result<Reply, Fault> {
        match self
            .call(what, |world, ticket| {
                world.ask(self.node, ticket, session, request)
            })
            .await
        {
            Reply::Failed(fault) => Err(fault),
            reply => Ok(reply),
        }
    }
}
