//! What is known of one subject: the fold of its events.
//!
//! The subject itself is one small row; resources, payments and sessions are rows of their own, kept for ever. A
//! [`State`] may hold only some of those: [`State::missing`] tells which still have to be loaded for a command or event.

mod subject;

pub use subject::*;

use crate::command::SessionState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the fold: its rules, its time zone data and the form of its state. View tables are named by it.
pub const FOLD_VERSION: i32 = 1;

/// What is known of one subject, and of those of its things that are loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The subject's own row.
    pub subject: Subject,
    rows: BTreeMap<RowKey, Thing>,
    absent: BTreeSet<RowKey>,
}

/// Names a thing of a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
}

/// Kinds of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A resource.
    Resource,
    /// A payment that was counted.
    Payment,
    /// A session.
    Session,
}

impl Kind {
    /// The number that stands for it in storage.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Self::Resource => 1,
            Self::Payment => 2,
            Self::Session => 3,
        }
    }

    /// The kind that a number stands for.
    #[must_use]
    pub const fn from_number(number: i16) -> Option<Self> {
        match number {
            1 => Some(Self::Resource),
            2 => Some(Self::Payment),
            3 => Some(Self::Session),
            _ => None,
        }
    }
}

/// A thing of a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Thing {
    /// A resource.
    Resource(Resource),
    /// A payment.
    Payment(Payment),
    /// A session.
    Session(SessionState),
}

impl State {
    /// A state from its stored parts. `rows` need not be complete.
    ///
    /// # Errors
    /// What serde says of bytes that are no state of this fold version.
    pub fn from_stored(
        subject: &[u8],
        rows: &[(RowKey, Vec<u8>)],
    ) -> Result<Self, serde_json::Error> {
        let mut state = Self {
            subject: serde_json::from_slice(subject)?,
            ..Self::default()
        };
        for (key, body) in rows {
            state.add_stored(key.clone(), Some(body))?;
        }
        Ok(state)
    }

    /// Adds a thing that was loaded, or the knowledge that it is not there.
    ///
    /// # Errors
    /// What serde says of bytes that are no thing of this fold version.
    pub fn add_stored(
        &mut self,
        key: RowKey,
        body: Option<&[u8]>,
    ) -> Result<(), serde_json::Error> {
        match body {
            None => {
                self.absent.insert(key);
            }
            Some(body) => {
                let thing = match key.kind {
                    Kind::Resource => Thing::Resource(serde_json::from_slice(body)?),
                    Kind::Payment => Thing::Payment(serde_json::from_slice(body)?),
                    Kind::Session => Thing::Session(serde_json::from_slice(body)?),
                };
                self.rows.insert(key, thing);
            }
        }
        Ok(())
    }

    /// The subject's own row as it is stored; the same state always gives the same bytes.
    #[must_use]
    pub fn subject_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.subject).unwrap_or_default()
    }

    /// A thing as it is stored.
    #[must_use]
    pub fn thing_bytes(&self, key: &RowKey) -> Option<Vec<u8>> {
        self.rows
            .get(key)
            .and_then(|thing| serde_json::to_vec(thing).ok())
    }

    /// Those of the keys that have to be loaded before they can be asked for.
    #[must_use]
    pub fn missing(&self, keys: &[RowKey]) -> Vec<RowKey> {
        if self.is_complete() {
            return Vec::new();
        }
        let unknown = |key: &&RowKey| !self.rows.contains_key(*key) && !self.absent.contains(*key);
        keys.iter().filter(unknown).cloned().collect()
    }

    /// Whether every thing of the subject is loaded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.len() as u64 == self.subject.things
    }

    /// All things that are loaded, by kind and id.
    pub fn things(&self) -> impl Iterator<Item = (&RowKey, &Thing)> {
        self.rows.iter()
    }

    /// A resource.
    #[must_use]
    pub fn resource(&self, id: &str) -> Option<&Resource> {
        match self.rows.get(&RowKey::resource(id)) {
            Some(Thing::Resource(resource)) => Some(resource),
            _ => None,
        }
    }

    /// A payment.
    #[must_use]
    pub fn payment(&self, id: &str) -> Option<&Payment> {
        match self.rows.get(&RowKey::payment(id)) {
            Some(Thing::Payment(payment)) => Some(payment),
            _ => None,
        }
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: &str) -> Option<&SessionState> {
        match self.rows.get(&RowKey::session(id)) {
            Some(Thing::Session(session)) => Some(session),
            _ => None,
        }
    }

    /// A grant by its id.
    #[must_use]
    pub fn grant(&self, id: &str) -> Option<&Grant> {
        self.subject.grants.iter().find(|grant| grant.id == id)
    }

    /// Puts a thing in its place.
    pub(crate) fn put(&mut self, key: RowKey, thing: Thing) {
        self.absent.remove(&key);
        if self.rows.insert(key, thing).is_none() {
            self.subject.things += 1;
        }
    }

    /// The counters of an owner.
    #[must_use]
    pub fn counters(&self, owner: &Owner) -> Option<&Counters> {
        match owner {
            Owner::Free => Some(&self.subject.free),
            Owner::Subject => Some(&self.subject.own),
            Owner::Grant(id) => self.grant(id).map(|grant| &grant.counters),
        }
    }

    /// The counters of an owner, to count in.
    pub(crate) fn counters_mut(&mut self, owner: &Owner) -> Option<&mut Counters> {
        match owner {
            Owner::Free => Some(&mut self.subject.free),
            Owner::Subject => Some(&mut self.subject.own),
            Owner::Grant(id) => self
                .subject
                .grants
                .iter_mut()
                .find(|grant| grant.id == *id)
                .map(|grant| &mut grant.counters),
        }
    }
}

impl RowKey {
    /// Names a resource.
    #[must_use]
    pub fn resource(id: &str) -> Self {
        Self {
            kind: Kind::Resource,
            id: id.to_owned(),
        }
    }

    /// Names a payment.
    #[must_use]
    pub fn payment(id: &str) -> Self {
        Self {
            kind: Kind::Payment,
            id: id.to_owned(),
        }
    }

    /// Names a session.
    #[must_use]
    pub fn session(id: &str) -> Self {
        Self {
            kind: Kind::Session,
            id: id.to_owned(),
        }
    }
}
