//! Decisions: what a command comes to, given what is known. Pure; refusals record nothing.

mod consume;
mod hold;
mod replay;
mod session;

pub use replay::{Recorded, replay, told};

use crate::catalog::Catalog;
use crate::command::{
    Address, Answer, Command, Decision, EXPIRY_SOURCE, HOLD_SOURCE, Refusal, Wish,
};
use crate::digest::EventKey;
use crate::epoch::Epochs;
use crate::event::{Event, Expired};
use crate::fold::{due_expiries, needs};
use crate::position::Position;
use crate::row::Row;
use crate::state::{RowKey, State};
use crate::time::Timestamp;
use std::sync::Arc;

/// What a decision is made in the light of.
#[derive(Clone, Copy)]
pub struct Light<'a> {
    /// The subject's state, with the things of [`things_needed`] loaded.
    pub state: &'a State,
    /// The catalog in force in the subject's partition.
    pub catalog: &'a Arc<Catalog>,
    /// That catalog's version.
    pub catalog_version: u32,
    /// The decision's time.
    pub now: Timestamp,
    /// The ledger's epochs.
    pub epochs: &'a Epochs,
}

/// An event to be, without its place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Who tells it.
    pub source: String,
    /// Its id.
    pub id: String,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What a command comes to.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// These events, in order; the answer follows from the last one's row.
    Append(Vec<Draft>, Told),
    /// Nothing to record.
    Answer(Answer),
}

/// How the answer follows from the rows that went in.
#[derive(Clone, Debug)]
pub enum Told {
    /// From the last row alone, as a retry's would.
    ByRow,
    /// A session that the last row opened or completed; the state after it has it.
    Session(String),
    /// A session was refused; the last row is the denial.
    SessionRefused,
    /// So many expiries.
    Swept(usize),
}

/// The keys whose events must be looked up before the command is decided: they tell what happened to it before.
///
/// The first is the command's own; for holds, the other end and the hold itself follow. `tried` says that an append of it may be
/// in the ledger whatever its id.
#[must_use]
pub fn keys_needed(command: &Command, tried: bool) -> Vec<EventKey> {
    let address = &command.address;
    match &command.wish {
        Wish::Record(fact) => vec![address.event_key(&fact.source, &fact.id)],
        // Without the caller's key the id is fresh, and nothing can stand under it before it was tried.
        Wish::Consume(consume) if consume.key.is_none() && !tried => Vec::new(),
        Wish::Consume(consume) => {
            vec![address.event_key(crate::command::CONSUME_SOURCE, consume.id())]
        }
        Wish::Confirm { hold } => hold_keys(address, hold, "confirm", "release"),
        Wish::Release { hold } => hold_keys(address, hold, "release", "confirm"),
        Wish::Adjust(adjust) => vec![address.event_key(crate::command::ADJUST_SOURCE, &adjust.id)],
        Wish::Sweep | Wish::OpenSession { .. } | Wish::CompleteSession { .. } => Vec::new(),
    }
}

fn hold_keys(address: &Address, hold: &str, this: &str, other: &str) -> Vec<EventKey> {
    let end = |what: &str| address.event_key(HOLD_SOURCE, &hold_event_id(hold, what));
    let mut keys = vec![end(this), end(other)];
    keys.extend(hold::event_key_of(hold));
    keys
}

/// The id of the event that ends a hold.
#[must_use]
pub fn hold_event_id(hold: &str, end: &str) -> String {
    format!("{hold}:{end}")
}

/// The things of the subject that deciding and folding a command asks for.
#[must_use]
pub fn things_needed(state: &State, command: &Command) -> Vec<RowKey> {
    match &command.wish {
        Wish::Record(fact) => {
            let mut keys = needs(&fact.event);
            keys.extend(crate::fold::needs_of_state(state, &fact.event));
            keys
        }
        Wish::Consume(consume) => consume
            .resource
            .as_deref()
            .map(RowKey::resource)
            .into_iter()
            .collect(),
        Wish::Confirm { hold } => {
            let open = state.subject.holds.get(hold);
            open.and_then(|hold| hold.resource.as_deref())
                .map(RowKey::resource)
                .into_iter()
                .collect()
        }
        Wish::OpenSession { session_type, .. } => state
            .subject
            .sessions
            .get(session_type)
            .map(|id| RowKey::session(id))
            .into_iter()
            .collect(),
        Wish::CompleteSession { session, resource } => {
            vec![RowKey::session(session), RowKey::resource(resource)]
        }
        Wish::Release { .. } | Wish::Adjust(_) | Wish::Sweep => Vec::new(),
    }
}

/// The expiry notices that are due before anything else is decided about the subject.
#[must_use]
pub fn notices(light: &Light<'_>) -> Vec<Draft> {
    let due = due_expiries(light.state, light.catalog, light.now);
    due.into_iter()
        .map(|(grant, effective_at)| Draft {
            source: EXPIRY_SOURCE.to_owned(),
            id: format!("{grant}:{}", effective_at.micros()),
            occurred_at: effective_at,
            event: Event::SubscriptionExpired(Expired {
                grant,
                effective_at,
            }),
        })
        .collect()
}

/// Decides a command that was not carried out before. `found` are the rows under [`keys_needed`], in that order.
#[must_use]
pub fn decide(light: &Light<'_>, command: &Command, found: &[Option<Arc<Row>>]) -> Verdict {
    match &command.wish {
        Wish::Record(fact) => {
            if fact.is_over_at(light.now) {
                let message = "data.ends_at must be after the present, where neither time nor data.starts_at is sent";
                return refuse(Refusal::field(
                    422,
                    "invalid_event",
                    "data.ends_at",
                    message,
                ));
            }
            let draft = Draft {
                source: fact.source.clone(),
                id: fact.id.clone(),
                occurred_at: fact.time.unwrap_or(light.now),
                event: fact.event.clone(),
            };
            Verdict::Append(vec![draft], Told::ByRow)
        }
        Wish::Consume(consume) => consume::decide(light, &command.address, consume),
        Wish::Confirm { hold } => hold::confirm(light, &command.address, hold, found),
        Wish::Release { hold } => hold::release(light, &command.address, hold, found),
        Wish::Adjust(adjust) => {
            if light.catalog.feature(&adjust.feature).is_none() {
                return unknown_feature(&adjust.feature);
            }
            let event = Event::AdjustmentGranted(crate::event::Adjustment {
                feature: adjust.feature.clone(),
                amount: adjust.amount,
                reason: adjust.reason.clone(),
                actor: adjust.actor.clone(),
            });
            let source = crate::command::ADJUST_SOURCE.to_owned();
            let draft = Draft {
                source,
                id: adjust.id.clone(),
                occurred_at: light.now,
                event,
            };
            Verdict::Append(vec![draft], Told::ByRow)
        }
        // The notices went before; there is nothing else to do.
        Wish::Sweep => Verdict::Append(Vec::new(), Told::Swept(0)),
        Wish::OpenSession {
            session_type,
            force_new,
            fresh_id,
        } => session::open(light, &command.address, session_type, *force_new, fresh_id),
        Wish::CompleteSession { session, resource } => {
            session::complete(light, &command.address, session, resource)
        }
    }
}

fn refuse(refusal: Refusal) -> Verdict {
    Verdict::Answer(Answer::Refused(refusal))
}

fn unknown_feature(feature: &str) -> Verdict {
    let message = format!("the catalog knows no feature {feature:?}");
    refuse(Refusal::field(422, "unknown_feature", "feature", message))
}

/// The subject's newest event.
fn newest(light: &Light<'_>, address: &Address) -> Position {
    let offset = light.state.subject.offset;
    light.epochs.position(address.partition, offset)
}

/// A decision as the state's newest position shows it.
fn decision(
    light: &Light<'_>,
    address: &Address,
    feature: &str,
    outcome: crate::event::Outcome,
) -> Decision {
    Decision {
        address: address.clone(),
        feature: feature.to_owned(),
        outcome,
        hold: None,
        catalog: Arc::clone(light.catalog),
        catalog_version: light.catalog_version,
        position: newest(light, address),
        replayed: false,
    }
}

/// A check: the answer that a consume would get, without using anything.
///
/// # Errors
/// A refusal where the question cannot be asked.
pub fn check(
    light: &Light<'_>,
    address: &Address,
    question: &crate::judge::Question,
) -> Result<Decision, Refusal> {
    consume::valid(light.catalog, question, true)?;
    let judgement = crate::judge::judge(light.state, light.catalog, question, light.now);
    Ok(decision(
        light,
        address,
        &question.feature,
        judgement.outcome,
    ))
}
