//! The fold: events to state. Total: it never refuses, never looks back, never reads a clock.
//!
//! It goes in ledger order. A usage is charged once, to the grant and window then known to hold its `occurred_at`; what
//! is told later changes nothing that was charged, but takes effect over its own interval from its position on.

mod grants;
mod needs;
mod resources;

pub use grants::{due_expiries, next_due};
pub use needs::{missing, needs, needs_of_state};

use crate::catalog::{Catalog, Counted};
use crate::event::{DecodeError, Event, Held, Imported, SessionCreated, Usage};
use crate::row::Row;
use crate::standing::{Access, Standing};
use crate::state::{Charge, Hold, HourCount, RowKey, State, Tally, Thing};
use crate::time::{DAY, SECOND, Timestamp};
use crate::{command::SessionState, command::SessionStatus};

/// How long, by `recorded_at`, an ended grant is remembered.
pub const MEMORY: i64 = 90 * DAY;

/// Microseconds in an hour.
const HOUR: i64 = 3600 * SECOND;

/// One event on its way into a state.
struct Folding<'a> {
    state: &'a mut State,
    catalog: &'a Catalog,
    /// When it happened.
    at: Timestamp,
    /// When it was recorded.
    recorded_at: Timestamp,
    /// Where it stands.
    offset: i64,
    /// Its id.
    id: &'a str,
    /// The things that it changed.
    touched: Vec<RowKey>,
}

/// Folds a row of the ledger into its subject's state. The things of [`needs`] must be loaded.
///
/// Returns the things that it changed.
///
/// # Errors
/// [`DecodeError`] where this build has no rule for the event: whoever folds must stop, and skip nothing.
pub fn fold(state: &mut State, catalog: &Catalog, row: &Row) -> Result<Vec<RowKey>, DecodeError> {
    let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
    Ok(fold_event(state, catalog, row, &event))
}

/// Folds a row whose event is decoded already.
pub fn fold_event(state: &mut State, catalog: &Catalog, row: &Row, event: &Event) -> Vec<RowKey> {
    state.subject.seq = row.subject_seq;
    state.subject.offset = row.offset;
    let mut folding = Folding {
        state,
        catalog,
        at: row.occurred_at,
        recorded_at: row.recorded_at,
        offset: row.offset,
        id: &row.id,
        touched: Vec::new(),
    };
    folding.forget();
    folding.apply(event);
    folding.touched
}

impl Folding<'_> {
    fn apply(&mut self, event: &Event) {
        if !matches!(event, Event::UsageDenied(_)) {
            self.state.subject.denied.clear();
        }
        match event {
            Event::UsageRecorded(usage) => self.used(usage),
            Event::UsageImported(imported) => self.imported(imported),
            Event::UsageHeld(held) => self.held(held),
            Event::UsageReleased(released) => {
                self.state.subject.holds.remove(&released.hold);
            }
            Event::UsageDenied(denied) => {
                self.state
                    .subject
                    .denied
                    .insert((denied.feature.clone(), denied.outcome.reason));
                self.count_denial(&denied.feature);
            }
            Event::SubjectFlagged(flagged) => {
                if flagged.flag == "superadmin" {
                    self.state.subject.superadmin = flagged.value;
                }
            }
            Event::AdjustmentGranted(adjustment) => {
                self.adjusted(&adjustment.feature, adjustment.amount)
            }
            Event::SubscriptionPurchased(purchase) => self.purchased(purchase, false),
            Event::SubscriptionRenewed(purchase) => self.purchased(purchase, true),
            Event::SubscriptionCancelled(cancellation) => self.cancelled(cancellation),
            Event::SubscriptionExpired(expired) => {
                if let Some(grant) = self
                    .state
                    .subject
                    .grants
                    .iter_mut()
                    .find(|grant| grant.id == expired.grant)
                {
                    grant.noticed = Some(expired.effective_at);
                }
            }
            Event::ResourceCreated(data) => self.created(data),
            Event::ResourceCompleted(data) => {
                self.completed(&data.resource, data.source.as_deref())
            }
            Event::ResourceDeleted(data) => self.deleted(&data.resource),
            Event::ResourceUnlocked(data) => self.unlocked(&data.resource),
            Event::SessionCreated(data) => self.session_created(data),
            Event::SessionCompleted(data) => {
                let resource = Some(data.resource.clone());
                self.close_session(
                    &data.session,
                    &data.session_type,
                    SessionStatus::Completed,
                    resource,
                );
                self.completed(&data.resource, Some(&data.source));
            }
            Event::SessionSuperseded(data) => {
                self.close_session(
                    &data.session,
                    &data.session_type,
                    SessionStatus::Superseded,
                    None,
                );
            }
            Event::SubjectRegistered(_) | Event::CatalogPublished(_) | Event::EpochStarted(_) => {}
        }
    }

    fn session_created(&mut self, data: &SessionCreated) {
        self.state
            .subject
            .sessions
            .insert(data.session_type.clone(), data.session.clone());
        let session = SessionState {
            id: data.session.clone(),
            session_type: data.session_type.clone(),
            status: SessionStatus::Active,
            resource: None,
            created_at: self.at,
            completed_at: None,
        };
        self.put(RowKey::session(&data.session), Thing::Session(session));
    }

    fn standing(&self) -> Standing<'_> {
        Standing {
            state: self.state,
            catalog: self.catalog,
            at: self.at,
        }
    }

    fn put(&mut self, key: RowKey, thing: Thing) {
        self.touched.push(key.clone());
        self.state.put(key, thing);
    }

    /// A use: counted on the hold's window where it confirms one, else where its time falls.
    fn used(&mut self, usage: &Usage) {
        let hold = usage
            .hold
            .as_ref()
            .and_then(|hold| self.state.subject.holds.remove(hold));
        if usage.bypassed || hold.as_ref().is_some_and(|hold| hold.bypassed) {
            return;
        }
        if let Some(hold) = hold {
            if let Some(charge) = hold.charge {
                self.charge(&usage.feature, &charge, usage.amount);
            }
            return;
        }
        if self.state.subject.superadmin {
            return;
        }
        if let Some(charge) =
            self.charge_of(&usage.feature, usage.resource.as_deref(), usage.amount)
        {
            self.charge(&usage.feature, &charge, usage.amount);
        }
    }

    fn imported(&mut self, imported: &Imported) {
        let feature = self.catalog.feature(&imported.feature);
        let subject = feature.is_some_and(|feature| feature.counted == Counted::Subject);
        let candidates = self.standing().by_plan(&imported.feature);
        if self.forgotten() && !subject {
            return;
        }
        if let Some(counting) = candidates.first() {
            self.charge(&imported.feature, &counting.charge, imported.amount);
        }
    }

    /// The window that units count in: the first with room, else the first; none where nothing counts.
    fn charge_of(&self, feature: &str, resource: Option<&str>, amount: i64) -> Option<Charge> {
        let standing = self.standing();
        match standing.access(feature, resource) {
            Access::Closed { .. } => None,
            Access::Open(candidates) => {
                let picked = standing
                    .pick(feature, &candidates, amount)
                    .or(candidates.first())?;
                (!self.forgotten() || picked.charge.owner == crate::state::Owner::Subject)
                    .then(|| picked.charge.clone())
            }
        }
    }

    /// Whether the event belongs to a time whose grants are forgotten, and none that is known holds it.
    fn forgotten(&self) -> bool {
        let until = self.state.subject.forgotten_until;
        until.is_some_and(|until| self.at < until) && self.standing().in_force().is_empty()
    }

    fn charge(&mut self, feature: &str, charge: &Charge, amount: i64) {
        let offset = self.offset;
        self.charge_for(feature, charge, amount, offset);
    }

    fn charge_for(&mut self, feature: &str, charge: &Charge, amount: i64, offset: i64) {
        if let Some(tally) = self.tally(feature, charge) {
            tally.count(amount, offset);
        }
    }

    fn adjusted(&mut self, feature: &str, amount: i64) {
        let counted = self.standing().by_plan(feature);
        if let Some(counting) = counted.first()
            && let Some(tally) = self.tally(feature, &counting.charge)
        {
            tally.extra = tally.extra.saturating_add(amount);
        }
    }

    fn tally(&mut self, feature: &str, charge: &Charge) -> Option<&mut Tally> {
        let counts_now = self.at >= self.recorded_at;
        let counters = self.state.counters_mut(&charge.owner)?;
        let counter = counters.entry(feature.to_owned()).or_default();
        counter.tally_mut(charge, counts_now)
    }

    fn held(&mut self, held: &Held) {
        let charge = if held.bypassed {
            None
        } else {
            self.charge_of(&held.feature, held.resource.as_deref(), held.amount)
        };
        let hold = Hold {
            feature: held.feature.clone(),
            amount: held.amount,
            resource: held.resource.clone(),
            charge,
            expires_at: held.expires_at,
            bypassed: held.bypassed,
        };
        self.state.subject.holds.insert(held.hold.clone(), hold);
    }

    fn count_denial(&mut self, feature: &str) {
        let hour = self.recorded_at.micros().div_euclid(HOUR);
        let counts = self
            .state
            .subject
            .denials
            .entry(feature.to_owned())
            .or_insert(HourCount { hour, count: 0 });
        if counts.hour == hour {
            counts.count = counts.count.saturating_add(1);
        } else {
            *counts = HourCount { hour, count: 1 };
        }
    }

    fn close_session(
        &mut self,
        id: &str,
        kind: &str,
        status: SessionStatus,
        resource: Option<String>,
    ) {
        if self
            .state
            .subject
            .sessions
            .get(kind)
            .is_some_and(|active| active == id)
        {
            self.state.subject.sessions.remove(kind);
        }
        let Some(mut session) = self.state.session(id).cloned() else {
            return;
        };
        session.status = status;
        session.resource = resource;
        if status == SessionStatus::Completed {
            session.completed_at = Some(self.at);
        }
        self.put(RowKey::session(id), Thing::Session(session));
    }

    /// Drops what no later event can need: holds whose time is over, and grants that ended long ago.
    fn forget(&mut self) {
        let recorded_at = self.recorded_at;
        self.state
            .subject
            .holds
            .retain(|_, hold| hold.expires_at > recorded_at);
        self.forget_grants();
    }
}

/// Denials recorded for a feature in the hour that holds an instant.
#[must_use]
pub fn denials_in_hour(state: &State, feature: &str, at: Timestamp) -> u32 {
    let hour = at.micros().div_euclid(HOUR);
    state
        .subject
        .denials
        .get(feature)
        .filter(|counts| counts.hour == hour)
        .map_or(0, |counts| counts.count)
}
