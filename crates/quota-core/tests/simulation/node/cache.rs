//! A node's memory: subjects that it knows, catalogs, and what it believes of the database's clock.

use crate::catalogs::parsed;
use crate::coverage::{Hit, Op};
use crate::world::World;
use quota_core::catalog::Catalog;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::known::{Fits, Known, advanced};
use quota_core::lane::PartitionEnd;
use quota_core::row::{Head, Row};
use quota_core::state::State;
use quota_core::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Subjects of one partition that are kept.
const SUBJECTS: usize = 12;

pub struct Memory {
    parts: Vec<Part>,
    catalogs: BTreeMap<(Arc<str>, u32), Arc<Catalog>>,
    /// What the database's clock shows, less the time by the calendar.
    ahead: i64,
}

struct Part {
    known: Known,
    states: BTreeMap<SubjectKey, Arc<State>>,
}

impl Memory {
    pub fn new(ends: Vec<PartitionEnd>, now: i64) -> Self {
        let part = |end| Part {
            known: Known::new(end, now),
            states: BTreeMap::new(),
        };
        Self {
            parts: ends.into_iter().map(part).collect(),
            catalogs: BTreeMap::new(),
            ahead: 0,
        }
    }

    /// The database's clock, as this node believes it to be.
    pub fn clock(&self, world: &World) -> Timestamp {
        world.calendar().plus(self.ahead)
    }

    pub fn set_clock(&mut self, reading: Timestamp, world: &World) {
        self.ahead = reading.micros() - world.calendar().micros();
    }

    pub fn jump(&mut self, by: i64) {
        self.ahead += by;
    }

    pub fn catalog(&self, product: &str, version: u32) -> Option<Arc<Catalog>> {
        self.catalogs.get(&(product.into(), version)).cloned()
    }

    pub fn newest(&self, product: &str) -> Option<Arc<Catalog>> {
        let mut all = self.catalogs.iter();
        all.rfind(|((name, _), _)| &**name == product)
            .map(|(_, catalog)| Arc::clone(catalog))
    }

    /// Takes a catalog from the row that published it.
    pub fn shelve(&mut self, row: &Row) {
        let place = (Arc::clone(&row.product), row.catalog_version);
        if &*row.event_type != "catalog.published" || self.catalogs.contains_key(&place) {
            return;
        }
        let event = Event::decode(&row.event_type, row.type_version, &row.payload);
        if let Ok(Event::CatalogPublished(published)) = event {
            self.catalogs.insert(place, parsed(&published.text));
        }
    }

    pub fn end(&self, partition: u32) -> PartitionEnd {
        self.parts[partition as usize].known.end().clone()
    }

    pub fn head_offset(&self, partition: u32) -> i64 {
        self.parts[partition as usize].known.end().head.offset
    }

    pub fn get(&self, partition: u32, key: &SubjectKey) -> Option<Arc<State>> {
        self.parts[partition as usize].states.get(key).cloned()
    }

    /// Keeps what was loaded from a snapshot whose partition ended at `through`, if that may be.
    pub fn keep(
        &mut self,
        world: &mut World,
        partition: u32,
        key: SubjectKey,
        state: Arc<State>,
        through: i64,
    ) {
        let part = &mut self.parts[partition as usize];
        if !part.known.may_keep(through) {
            return world.hit(Hit::CacheLate);
        }
        part.put(world, key, state);
    }

    /// Takes in what this node's lane appended.
    pub fn settle(
        &mut self,
        world: &mut World,
        partition: u32,
        head: Head,
        states: Vec<(SubjectKey, State)>,
        asked_at: i64,
    ) {
        let part = &mut self.parts[partition as usize];
        if part.known.settled(head, asked_at) {
            for (key, state) in states {
                part.put(world, key, Arc::new(state));
            }
        }
    }

    pub fn is_contradicted_by(&self, row: &Row) -> bool {
        self.parts[row.partition as usize]
            .known
            .is_contradicted_by(row)
    }

    /// Takes in a partition's next row, or one that was taken in before.
    pub fn apply(&mut self, world: &mut World, row: &Row) {
        match self.parts[row.partition as usize].known.fits(row) {
            Fits::Seen => return,
            Fits::Hole => panic!("a row came before its turn: {row:?}"),
            Fits::Next => {}
        }
        world.did(Op::Cached, 1);
        self.shelve(row);
        let before = self.get(row.partition, &row.subject_key);
        let next = before.map(|state| {
            advanced(&state, row, &|product: &str, version| {
                self.catalog(product, version)
            })
        });
        let part = &mut self.parts[row.partition as usize];
        match next {
            Some(Some(next)) => {
                part.states.insert(row.subject_key, Arc::new(next));
            }
            Some(None) => {
                part.states.remove(&row.subject_key);
            }
            None => {}
        }
        part.known.take(row);
    }

    pub fn saw_head(&mut self, partition: u32, offset: i64, now: i64) {
        self.parts[partition as usize].known.saw_head(offset, now);
    }

    /// Every subject that is kept of a partition, and the end up to which it is true.
    pub fn kept(&self, partition: u32) -> (i64, &BTreeMap<SubjectKey, Arc<State>>) {
        let part = &self.parts[partition as usize];
        (part.known.end().head.offset, &part.states)
    }

    /// When a partition was last known to be at its head.
    pub fn at_head(&self, partition: u32) -> i64 {
        self.parts[partition as usize].known.at_head()
    }
}

impl Part {
    fn put(&mut self, world: &mut World, key: SubjectKey, state: Arc<State>) {
        let known = self.states.get(&key).map(|state| state.subject.seq);
        if known.is_some_and(|seq| seq > state.subject.seq) {
            return;
        }
        if known.is_none() && self.states.len() >= SUBJECTS {
            let victim = world.rng.below(self.states.len());
            let victim = self.states.keys().nth(victim).copied();
            if let Some(victim) = victim {
                self.states.remove(&victim);
                world.hit(Hit::Evicted);
            }
        }
        self.states.insert(key, state);
    }
}
