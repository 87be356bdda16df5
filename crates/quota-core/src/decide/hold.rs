//! Holds: confirming and releasing what was reserved. Neither is decided again: only the hold's time counts.

use super::{Draft, Light, Told, Verdict, hold_event_id, newest, refuse};
use crate::catalog::ResourceUse;
use crate::command::{Address, Answer, HOLD_SOURCE, HoldStatus, Refusal};
use crate::digest::EventKey;
use crate::event::{Event, Released, ResourceEvent, Usage};
use crate::row::Row;
use crate::state::Hold;
use std::sync::Arc;
use uuid::Uuid;

/// A hold's id is its event's key, written as a UUID: so the hold is found by it, for ever, among its subject's events.
pub(super) fn id_of(key: &EventKey) -> String {
    Uuid::from_bytes(*key).to_string()
}

pub(super) fn event_key_of(hold: &str) -> Option<EventKey> {
    // Only the form that we hand out: other spellings of the same number are other names.
    let id = Uuid::parse_str(hold).ok()?;
    (id.to_string() == hold).then(|| *id.as_bytes())
}

/// The row of the hold itself, among those found.
fn held_row(found: &[Option<Arc<Row>>]) -> Option<&Row> {
    found
        .get(2)?
        .as_deref()
        .filter(|row| &*row.event_type == "usage.held")
}

fn other_end(found: &[Option<Arc<Row>>]) -> bool {
    found.get(1).is_some_and(Option::is_some)
}

fn unknown() -> Verdict {
    refuse(Refusal::whole(
        404,
        "unknown_hold",
        "this subject has no such hold",
    ))
}

fn open<'a>(light: &'a Light<'_>, hold: &str) -> Option<&'a Hold> {
    light
        .state
        .subject
        .holds
        .get(hold)
        .filter(|hold| hold.expires_at > light.now)
}

pub(super) fn confirm(
    light: &Light<'_>,
    _: &Address,
    id: &str,
    found: &[Option<Arc<Row>>],
) -> Verdict {
    if other_end(found) {
        return refuse(Refusal::whole(
            409,
            "hold_released",
            "this hold was released; consume again",
        ));
    }
    if held_row(found).is_none() {
        return unknown();
    }
    let Some(hold) = open(light, id) else {
        return refuse(Refusal::whole(
            409,
            "hold_expired",
            "this hold's time is over; consume again",
        ));
    };
    let makes = light
        .catalog
        .feature(&hold.feature)
        .is_some_and(|f| f.resource == ResourceUse::Makes);
    let event = match &hold.resource {
        Some(resource) if makes => Event::ResourceCreated(ResourceEvent {
            resource: resource.clone(),
            source: None,
            feature: Some(hold.feature.clone()),
            hold: Some(id.to_owned()),
            bypassed: hold.bypassed,
            outcome: None,
        }),
        resource => Event::UsageRecorded(Usage {
            feature: hold.feature.clone(),
            amount: hold.amount,
            resource: resource.clone(),
            hold: Some(id.to_owned()),
            bypassed: hold.bypassed,
            outcome: None,
        }),
    };
    Verdict::Append(vec![end(light, id, "confirm", event)], Told::ByRow)
}

pub(super) fn release(
    light: &Light<'_>,
    address: &Address,
    id: &str,
    found: &[Option<Arc<Row>>],
) -> Verdict {
    if other_end(found) {
        return refuse(Refusal::whole(
            409,
            "hold_confirmed",
            "this hold was confirmed; it is usage now",
        ));
    }
    if held_row(found).is_none() {
        return unknown();
    }
    if open(light, id).is_none() {
        let position = newest(light, address);
        return Verdict::Answer(Answer::Hold {
            hold: id.to_owned(),
            status: HoldStatus::Expired,
            position,
        });
    }
    let event = Event::UsageReleased(Released {
        hold: id.to_owned(),
    });
    Verdict::Append(vec![end(light, id, "release", event)], Told::ByRow)
}

fn end(light: &Light<'_>, hold: &str, what: &str, event: Event) -> Draft {
    Draft {
        source: HOLD_SOURCE.to_owned(),
        id: hold_event_id(hold, what),
        occurred_at: light.now,
        event,
    }
}
