//! A subject's own row and its things, as they are stored.

use crate::catalog::Window;
use crate::event::Reason;
use crate::time::{Timestamp, micros, optional_micros};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Evidence that a counter keeps, and an answer shows, at most.
pub const EVIDENCE_MAX: usize = 10;

/// Windows of a kind that a counter keeps: the current and the previous one.
const WINDOWS_MAX: usize = 2;

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
    /// What was refused and recorded since something else happened.
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

/// One feature's counter: the newest windows of each kind, the older first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counter {
    windows: Vec<Tally>,
}

/// What was used in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// The kind of window: a catalog may change it, and then counting starts anew.
    #[serde(default, skip_serializing_if = "is_lifetime")]
    pub window: Window,
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
    /// The tally of a window, if anything was counted in it.
    #[must_use]
    pub fn tally(&self, charge: &Charge) -> Option<&Tally> {
        self.windows.iter().rev().find(|tally| tally.is_of(charge))
    }

    /// The tally to count in; none for a window older than those that are kept, unless it is the one that counts now.
    pub fn tally_mut(&mut self, charge: &Charge, counts_now: bool) -> Option<&mut Tally> {
        if self.tally(charge).is_none() {
            let of_kind = |tally: &Tally| tally.window == charge.window;
            if self.windows.iter().filter(|tally| of_kind(tally)).count() >= WINDOWS_MAX {
                let oldest = self.windows.iter().position(of_kind)?;
                let older = self.windows.get(oldest)?.start > charge.start;
                if older && !counts_now {
                    return None;
                }
                self.windows.remove(oldest);
            }
            let place = (charge.window, charge.start);
            let at = self
                .windows
                .partition_point(|tally| (tally.window, tally.start) < place);
            let tally = Tally {
                window: charge.window,
                start: charge.start,
                used: 0,
                extra: 0,
                evidence: Vec::new(),
            };
            // Most counters never have a second window: room for four would be most of a small subject's memory.
            self.windows.reserve_exact(1);
            self.windows.insert(at, tally);
        }
        self.windows.iter_mut().find(|tally| tally.is_of(charge))
    }
}

impl Tally {
    fn is_of(&self, charge: &Charge) -> bool {
        (self.window, self.start) == (charge.window, charge.start)
    }

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
    /// The kind of window.
    #[serde(default, skip_serializing_if = "is_lifetime")]
    pub window: Window,
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

fn is_lifetime(window: &Window) -> bool {
    *window == Window::Lifetime
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &i64) -> bool {
    *value == 0
}
