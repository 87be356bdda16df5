//! The rule of a lane: how waiting commands become one append, and what its callers are told.
//!
//! A [`Batch`] does no I/O. Its driver asks what it [wants](Batch::wants), loads that, lets it
//! [decide](Batch::decide), appends the rows under the fences that it names, and [settles](Batch::settle) it with the
//! partitions that went in. Everything about a partition that did not go in is decided again, from what stands there.

mod course;
mod judge;
mod parts;
mod settling;
mod ticket;

pub use course::{Course, Failure, Round};
pub use parts::*;
pub use ticket::{Phase, Ticket};

use self::judge::{Judge, refused_session, unavailable};
use crate::catalog::Catalog;
use crate::command::{Address, Answer, Command, Refusal, SessionAnswer, Wish};
use crate::decide::{
    Draft, Recorded, Told, Verdict, decide, keys_needed, notices, replay, things_needed, told,
};
use crate::digest::{EventKey, SubjectKey};
use crate::fold::fold_event;
use crate::row::{Head, Row};
use crate::state::State;
use crate::time::{SECOND, Timestamp};
use crate::{epoch::Epochs, event::Event};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far the clock may stand behind a partition's last row before nothing is decided there any more.
const CLOCK_BEHIND_MAX: i64 = 5 * SECOND;

/// Commands on their way to one append.
#[derive(Debug)]
pub struct Batch {
    epochs: Epochs,
    commands: Vec<(usize, Command)>,
    states: BTreeMap<SubjectKey, State>,
    changed: BTreeSet<SubjectKey>,
    ends: BTreeMap<u32, PartitionEnd>,
    found: BTreeMap<(SubjectKey, EventKey), Option<Arc<Row>>>,
    given_up: BTreeSet<SubjectKey>,
    rows: BTreeMap<u32, Vec<Arc<Row>>>,
    planned: Vec<Option<Answer>>,
    /// Whether an earlier append of these commands may be in the ledger by now.
    tried: bool,
}

impl Batch {
    /// A batch of commands, each with the index that its answer goes by.
    #[must_use]
    pub fn new(epochs: Epochs, commands: Vec<(usize, Command)>) -> Self {
        Self {
            epochs,
            commands,
            states: BTreeMap::new(),
            changed: BTreeSet::new(),
            ends: BTreeMap::new(),
            found: BTreeMap::new(),
            given_up: BTreeSet::new(),
            rows: BTreeMap::new(),
            planned: Vec::new(),
            tried: false,
        }
    }

    /// The same for a later round: what was appended in an earlier one, and not found then, may be there by now. So fresh ids
    /// are looked up as well.
    #[must_use]
    pub const fn tried_before(mut self) -> Self {
        self.tried = true;
        self
    }

    /// The addresses of the batch, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.commands.iter().map(|(_, command)| &command.address)
    }

    /// The partitions of the batch, ascending.
    #[must_use]
    pub fn partitions(&self) -> Vec<u32> {
        let partitions: BTreeSet<u32> = self.addresses().map(|address| address.partition).collect();
        partitions.into_iter().collect()
    }

    /// Hands in the end of a partition as the driver knows it.
    pub fn put_end(&mut self, partition: u32, end: PartitionEnd) {
        self.ends.insert(partition, end);
    }

    /// Hands in a subject's state; it must hold everything up to the end of its partition that was handed in.
    pub fn put_state(&mut self, key: SubjectKey, state: State) {
        self.states.insert(key, state);
    }

    /// Whether a subject's state was handed in.
    #[must_use]
    pub fn has_state(&self, key: &SubjectKey) -> bool {
        self.states.contains_key(key)
    }

    /// Hands in what was found under an event's key.
    pub fn put_found(&mut self, subject: SubjectKey, event: EventKey, row: Option<Arc<Row>>) {
        self.found.insert((subject, event), row);
    }

    /// Gives a subject up that cannot be loaded: its commands are refused, the others go on.
    pub fn give_up(&mut self, key: SubjectKey) {
        self.states.remove(&key);
        self.given_up.insert(key);
    }

    /// What must be loaded before [`Batch::decide`]; nothing once all is there.
    #[must_use]
    pub fn wants(&self) -> Wants {
        let mut wants = Wants::default();
        let mut subjects: BTreeMap<SubjectKey, WantedSubject> = BTreeMap::new();
        let unknown = State::default();
        for (_, command) in &self.commands {
            let Address { key, partition, .. } = command.address;
            if self.given_up.contains(&key) {
                continue;
            }
            let state = self.states.get(&key);
            let things = things_needed(state.unwrap_or(&unknown), command);
            let missing = state.map_or_else(|| things.clone(), |state| state.missing(&things));
            if state.is_none() || !missing.is_empty() {
                let wanted = subjects.entry(key).or_insert_with(|| WantedSubject {
                    partition,
                    key,
                    things: Vec::new(),
                });
                wanted.things.extend(missing);
            }
            let unknown = |event: &EventKey| !self.found.contains_key(&(key, *event));
            wants.events.extend(
                keys_needed(command, self.tried)
                    .into_iter()
                    .filter(unknown)
                    .map(|event| (partition, key, event)),
            );
        }
        for mut wanted in subjects.into_values() {
            wanted.things.sort();
            wanted.things.dedup();
            wants.subjects.push(wanted);
        }
        wants.events.sort_unstable();
        wants.events.dedup();
        wants
    }

    /// Decides the commands one by one, in order, at the given time of the database's clock.
    pub fn decide(
        &mut self,
        now: Timestamp,
        catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
    ) -> Proposal {
        let commands = std::mem::take(&mut self.commands);
        self.planned = commands
            .iter()
            .map(|(_, command)| Some(self.answer(command, now, catalogs)))
            .collect();
        self.commands = commands;
        let fences = self.partitions().into_iter().filter_map(|partition| {
            let end = self.ends.get(&partition)?;
            Some(Fence {
                partition,
                first_offset: end.head.offset + 1,
                previous_hash: end.head.hash,
            })
        });
        Proposal {
            fences: fences.collect(),
            rows: self
                .rows
                .values()
                .flatten()
                .map(|row| (**row).clone())
                .collect(),
        }
    }

    fn answer(
        &mut self,
        command: &Command,
        now: Timestamp,
        catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
    ) -> Answer {
        let address = &command.address;
        let Some(head) = self.head(address.partition) else {
            return unavailable("this partition's end is not known yet");
        };
        if now.plus(CLOCK_BEHIND_MAX) < head.recorded_at {
            return unavailable("the database's clock went back; waiting until it has caught up");
        }
        let now = now.max(head.recorded_at);
        let keys = keys_needed(command, self.tried);
        let found: Vec<Option<Arc<Row>>> = keys
            .iter()
            .map(|key| self.found.get(&(address.key, *key)).cloned().flatten())
            .collect();
        if let Some(Some(row)) = found.first() {
            return self.again(command, row, catalogs);
        }
        let Some((version, catalog)) = self.catalog(address, catalogs) else {
            let message = format!("there is no product {:?}", &*address.product);
            return Answer::Refused(Refusal::whole(404, "unknown_product", message));
        };
        let judge = Judge {
            epochs: self.epochs.clone(),
            version,
            catalog,
            now,
        };
        let noticed = self.notice(command, &judge);
        let Some(state) = self.states.get(&address.key) else {
            return unavailable("what is stored of this subject cannot be read by this node");
        };
        match decide(&judge.light(state), command, &found) {
            Verdict::Answer(answer) => answer,
            Verdict::Append(drafts, told) => {
                self.carry_out(command, drafts, &told, &judge, noticed)
            }
        }
    }

    fn again(
        &self,
        command: &Command,
        row: &Row,
        catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
    ) -> Answer {
        let Some(catalog) = catalogs(&row.product, row.catalog_version) else {
            return unavailable("the catalog of the first answer is not loaded yet");
        };
        replay(command, row, &catalog, &self.epochs).unwrap_or_else(|error| {
            unavailable(format!(
                "the first answer cannot be read by this version: {error}"
            ))
        })
    }

    fn catalog(
        &self,
        address: &Address,
        catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
    ) -> Option<(u32, Arc<Catalog>)> {
        let version = *self
            .ends
            .get(&address.partition)?
            .versions
            .get(&address.product)?;
        Some((version, catalogs(&address.product, version)?))
    }

    /// The partition's end as this batch leaves it so far.
    fn head(&self, partition: u32) -> Option<Head> {
        let built = self.rows.get(&partition).and_then(|rows| rows.last());
        let known = self.ends.get(&partition).map(|end| end.head);
        built.map(|row| row.head()).or(known)
    }

    /// Appends the expiry notices that are due before the command is decided.
    fn notice(&mut self, command: &Command, judge: &Judge) -> usize {
        let Some(state) = self.states.get(&command.address.key) else {
            return 0;
        };
        let drafts = notices(&judge.light(state));
        let count = drafts.len();
        for draft in drafts {
            self.append(&command.address, draft, judge);
        }
        count
    }

    fn carry_out(
        &mut self,
        command: &Command,
        drafts: Vec<Draft>,
        how: &Told,
        judge: &Judge,
        noticed: usize,
    ) -> Answer {
        let mut last = None;
        for draft in drafts {
            last = self.append(&command.address, draft, judge);
        }
        if let (Wish::Sweep, Told::Swept(_)) = (&command.wish, how) {
            return Answer::Swept { recorded: noticed };
        }
        let Some((row, event)) = last else {
            return unavailable("the partition's end is not known yet");
        };
        let position = judge.epochs.position(row.partition, row.offset);
        let recorded = Recorded {
            row: &row,
            event: &event,
            catalog: &judge.catalog,
            position,
        };
        match how {
            Told::ByRow | Told::Swept(_) => told(command, recorded, false),
            Told::Session(id) => {
                let state = self.states.get(&command.address.key);
                let session = state.and_then(|state| state.session(id)).cloned();
                Answer::Session(Box::new(SessionAnswer {
                    session,
                    denied: None,
                    position,
                }))
            }
            Told::SessionRefused => {
                let denied = refused_session(command, &event, judge, position);
                Answer::Session(Box::new(SessionAnswer {
                    session: None,
                    denied,
                    position,
                }))
            }
        }
    }

    /// Gives a draft its place and folds it.
    fn append(
        &mut self,
        address: &Address,
        draft: Draft,
        judge: &Judge,
    ) -> Option<(Arc<Row>, Event)> {
        let head = self.head(address.partition)?;
        let state = self.states.get_mut(&address.key)?;
        let mut row = Row {
            partition: address.partition,
            offset: head.offset + 1,
            subject_key: address.key,
            subject_seq: state.subject.seq + 1,
            subject_prev: (state.subject.offset >= 0).then_some(state.subject.offset),
            event_key: address.event_key(&draft.source, &draft.id),
            product: Arc::clone(&address.product),
            subject: Arc::clone(&address.subject),
            source: draft.source.into(),
            id: draft.id.into(),
            event_type: draft.event.type_name().into(),
            type_version: 1,
            occurred_at: draft.occurred_at,
            recorded_at: judge.now,
            catalog_version: judge.version,
            payload: draft.event.encode().into(),
            hash: [0; 32],
        };
        row.hash = row.expected_hash(&head.hash);
        fold_event(state, &judge.catalog, &row, &draft.event);
        let row = Arc::new(row);
        self.changed.insert(address.key);
        self.found
            .insert((address.key, row.event_key), Some(Arc::clone(&row)));
        self.rows
            .entry(address.partition)
            .or_default()
            .push(Arc::clone(&row));
        Some((row, draft.event))
    }
}
