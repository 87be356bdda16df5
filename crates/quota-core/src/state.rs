//! What is known of one subject: the fold of its events.
//!
//! The subject itself is one small row; resources, payments and sessions are rows of their own, kept for ever. A
//! [`State`] may hold only some of those: [`State::missing`] tells which still have to be loaded for a command or event.

use crate::command::SessionState;
use crate::event::Reason;
use crate::time::{Timestamp, micros, optional_micros};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the fold: its rules, its time zone data and the form of its state. View tables are named by it.
pub const FOLD_VERSION: i32 = 1;

/// Evidence that a counter keeps, and an answer shows, at most.
pub const EVIDENCE_MAX: usize = 10;

/// Windows that a counter keeps: the current and the previous one.
const WINDOWS_MAX: usize = 2;

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

/// A subject's own row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The newest event's sequence number; 0 before the first.
    pub seq: i64,
    /// The newest event's offset; -1 before the first.
    pub offset: i64,
    /// Flagged to skip every refusal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub superadmin: bool,
    /// Counters of the default plan.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub free: Counters,
    /// Counters that belong to no plan.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own: Counters,
    /// Grants, oldest purchase first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// Open holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<String, Hold>,
    /// Denials without a key that were recorded since something else happened.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub denied: BTreeSet<(String, Reason)>,
    /// Denials recorded in the newest hour that had one, per feature.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denials: BTreeMap<String, HourCount>,
    /// The active session of each type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<String, String>,
    /// Resources without a slot, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<Unbound>,
    /// When free usage last started anew because of a grant that is forgotten by now.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_micros"
    )]
    pub free_since: Option<Timestamp>,
    /// The latest end of a forgotten grant: usage before it, of which no grant is known, counts nowhere.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_micros"
    )]
    pub forgotten_until: Option<Timestamp>,
    /// How many things the subject has.
    #[serde(default)]
    pub things: u64,
}

impl Default for Subject {
    fn default() -> Self {
        Self {
            seq: 0,
            offset: -1,
            superadmin: false,
            free: BTreeMap::new(),
            own: BTreeMap::new(),
            grants: Vec::new(),
            holds: BTreeMap::new(),
            denied: BTreeSet::new(),
            denials: BTreeMap::new(),
            sessions: BTreeMap::new(),
            unbound: Vec::new(),
            free_since: None,
            forgotten_until: None,
            things: 0,
        }
    }
}

/// Counters by feature.
pub type Counters = BTreeMap<String, Counter>;

/// One feature's counter: its newest windows, the older first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counter {
    windows: Vec<Tally>,
}

/// What was used in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Where the window starts.
    #[serde(with = "micros")]
    pub start: Timestamp,
    /// Units used.
    pub used: i64,
    /// Extra units given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extra: i64,
    /// Offsets of the newest events that used it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<i64>,
}

impl Counter {
    /// The tally of the window that starts there, if anything was counted in it.
    #[must_use]
    pub fn tally(&self, start: Timestamp) -> Option<&Tally> {
        self.windows.iter().rev().find(|tally| tally.start == start)
    }

    /// The tally to count in; none for a window older than those that are kept.
    pub fn tally_mut(&mut self, start: Timestamp) -> Option<&mut Tally> {
        let at = self.windows.partition_point(|tally| tally.start < start);
        if self
            .windows
            .get(at)
            .is_none_or(|tally| tally.start != start)
        {
            if at == 0 && self.windows.len() >= WINDOWS_MAX {
                return None;
            }
            self.windows.insert(
                at,
                Tally {
                    start,
                    used: 0,
                    extra: 0,
                    evidence: Vec::new(),
                },
            );
            if self.windows.len() > WINDOWS_MAX {
                self.windows.remove(0);
            }
        }
        self.windows.iter_mut().find(|tally| tally.start == start)
    }
}

impl Tally {
    /// Counts units that the event at an offset used.
    pub fn count(&mut self, amount: i64, offset: i64) {
        self.used = self.used.saturating_add(amount);
        self.evidence.push(offset);
        if self.evidence.len() > EVIDENCE_MAX {
            self.evidence.remove(0);
        }
    }
}

/// One plan or purchase in force over one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The payment's id; of an unlock without payment, the event's.
    pub id: String,
    /// The plan.
    pub plan: String,
    /// Paid periods, each beginning where the one before ends; none while it waits for its resource.
    pub periods: Vec<Paid>,
    /// What calendar periods are counted from.
    #[serde(with = "micros")]
    pub anchor: Timestamp,
    /// How many periods were counted from there.
    pub counted: u32,
    /// The payment provider's subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// The resource that it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The end that a cancellation set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancelled>,
    /// The end whose notice was recorded.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_micros"
    )]
    pub noticed: Option<Timestamp>,
    /// Its counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: Counters,
    /// Resources that it paid for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resources: i64,
    /// The offset of its purchase.
    pub offset: i64,
}

/// A paid period [start, end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// Its start.
    #[serde(with = "micros")]
    pub start: Timestamp,
    /// Its end; none for an open one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_micros"
    )]
    pub end: Option<Timestamp>,
}

/// A cancellation's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The grant's end.
    #[serde(with = "micros")]
    pub end: Timestamp,
    /// It ended at once, and not at its period's end.
    pub at_once: bool,
}

impl Grant {
    /// Where its first paid period that is still known starts.
    #[must_use]
    pub fn start(&self) -> Option<Timestamp> {
        self.periods.first().map(|period| period.start)
    }

    /// The end of its last paid period; none for an open one and for one that waits.
    #[must_use]
    pub fn paid_until(&self) -> Option<Timestamp> {
        self.periods.last().and_then(|period| period.end)
    }

    /// When it ends or ended, without grace; none for an open one and for one that waits.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.cancelled
            .map_or_else(|| self.paid_until(), |cancelled| Some(cancelled.end))
    }
}

/// Units reserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The feature.
    pub feature: String,
    /// Units.
    pub amount: i64,
    /// The resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The counter that it is reserved on; none where nothing is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<Charge>,
    /// When it is over.
    #[serde(with = "micros")]
    pub expires_at: Timestamp,
    /// Held while flagged.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bypassed: bool,
}

/// One window of one counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Whose counter.
    pub owner: Owner,
    /// Where the window starts.
    #[serde(with = "micros")]
    pub start: Timestamp,
}

/// Whose a counter is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The default plan's.
    Free,
    /// The subject's, whatever plans come and go.
    Subject,
    /// A grant's, by its id.
    Grant(String),
}

/// How often something happened in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HourCount {
    /// Hours since the epoch.
    pub hour: i64,
    /// How often.
    pub count: u32,
}

/// A resource without a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbound {
    /// The resource.
    pub resource: String,
    /// When it was made.
    #[serde(with = "micros")]
    pub made_at: Timestamp,
    /// The offset of its creation.
    pub offset: i64,
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// The offset of its creation; none where only other things were told of it.
    pub created: Option<i64>,
    /// When it was made.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "optional_micros"
    )]
    pub made_at: Option<Timestamp>,
    /// Who paid for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<Owner>,
    /// It was deleted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
    /// It was completed, in a way that counts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub completed: bool,
}

/// A payment that was counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    /// The grant that it made or renewed; none where it came too late to make one.
    pub grant: Option<String>,
    /// The offset of the event that told of it first.
    pub told_by: i64,
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

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &i64) -> bool {
    *value == 0
}
