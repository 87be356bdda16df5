//! Answers that follow from a row: the first time, and for every retry after it, so that both are the same.

use crate::catalog::Catalog;
use crate::command::{Address, Answer, Command, Consume, Decision, HoldStatus, Refusal, Wish};
use crate::epoch::Epochs;
use crate::event::{DecodeError, Event, Outcome};
use crate::position::Position;
use crate::row::Row;
use std::sync::Arc;

/// A row and what it says: the place of an answer.
#[derive(Clone, Copy)]
pub struct Recorded<'a> {
    /// The row.
    pub row: &'a Row,
    /// Its event.
    pub event: &'a Event,
    /// The catalog of the row's version.
    pub catalog: &'a Arc<Catalog>,
    /// Where the row stands.
    pub position: Position,
}

/// The answer that a row gives to a command that was carried out before; a row of other content is a conflict.
///
/// # Errors
/// [`DecodeError`] where this build cannot read the row.
pub fn replay(
    command: &Command,
    row: &Row,
    catalog: &Arc<Catalog>,
    epochs: &Epochs,
) -> Result<Answer, DecodeError> {
    let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
    Ok(told(
        command,
        Recorded {
            row,
            event: &event,
            catalog,
            position: epochs.position(row.partition, row.offset),
        },
        true,
    ))
}

/// The answer that a row gives to the command that made it, or, `again`, to a retry of it.
#[must_use]
pub fn told(command: &Command, recorded: Recorded<'_>, again: bool) -> Answer {
    let Recorded {
        row,
        event,
        position,
        ..
    } = recorded;
    match &command.wish {
        Wish::Record(fact) => {
            let same_time = fact.time.is_none_or(|time| time == row.occurred_at);
            if same_time && fact.event == *event {
                Answer::Recorded {
                    position,
                    duplicate: again,
                }
            } else {
                Answer::Refused(Refusal::conflict(409))
            }
        }
        Wish::Consume(consume) => consumed(&command.address, consume, recorded, again),
        Wish::Confirm { hold } => ended(hold, HoldStatus::Confirmed, position),
        Wish::Release { hold } => ended(hold, HoldStatus::Released, position),
        Wish::Adjust(adjust) => match event {
            Event::AdjustmentGranted(data)
                if data.feature == adjust.feature
                    && data.amount == adjust.amount
                    && data.reason == adjust.reason
                    && data.actor == adjust.actor =>
            {
                Answer::Recorded {
                    position,
                    duplicate: again,
                }
            }
            _ => Answer::Refused(Refusal::conflict(422)),
        },
        Wish::Sweep | Wish::OpenSession { .. } | Wish::CompleteSession { .. } => Answer::Recorded {
            position,
            duplicate: again,
        },
    }
}

fn ended(hold: &str, status: HoldStatus, position: Position) -> Answer {
    Answer::Hold {
        hold: hold.to_owned(),
        status,
        position,
    }
}

fn consumed(address: &Address, consume: &Consume, recorded: Recorded<'_>, again: bool) -> Answer {
    let Some(asked) = Asked::of(recorded.event) else {
        return Answer::Refused(Refusal::conflict(422));
    };
    let same = asked.feature == Some(&consume.feature)
        && asked.amount == consume.amount
        && asked.resource == consume.resource.as_ref()
        && asked.hold_seconds == consume.hold_seconds;
    if !same {
        return Answer::Refused(Refusal::conflict(422));
    }
    Answer::Decided(Box::new(Decision {
        address: address.clone(),
        feature: consume.feature.clone(),
        outcome: asked.outcome.clone(),
        hold: asked.hold.cloned(),
        catalog: Arc::clone(recorded.catalog),
        catalog_version: recorded.row.catalog_version,
        position: recorded.position,
        // Whoever sent no key sent nothing twice.
        replayed: again && consume.key.is_some(),
    }))
}

/// What a consume asked for, read back from the event that it made.
struct Asked<'a> {
    feature: Option<&'a String>,
    amount: i64,
    resource: Option<&'a String>,
    hold_seconds: Option<i64>,
    hold: Option<&'a String>,
    outcome: &'a Outcome,
}

impl<'a> Asked<'a> {
    fn of(event: &'a Event) -> Option<Self> {
        match event {
            Event::UsageRecorded(data) => Some(Self {
                feature: Some(&data.feature),
                amount: data.amount,
                resource: data.resource.as_ref(),
                hold_seconds: None,
                hold: None,
                outcome: data.outcome.as_ref()?,
            }),
            Event::ResourceCreated(data) => Some(Self {
                feature: data.feature.as_ref(),
                amount: 1,
                resource: Some(&data.resource),
                hold_seconds: None,
                hold: None,
                outcome: data.outcome.as_ref()?,
            }),
            Event::UsageHeld(data) => Some(Self {
                feature: Some(&data.feature),
                amount: data.amount,
                resource: data.resource.as_ref(),
                hold_seconds: Some(data.hold_seconds),
                hold: Some(&data.hold),
                outcome: &data.outcome,
            }),
            Event::UsageDenied(data) => Some(Self {
                feature: Some(&data.feature),
                amount: data.amount,
                resource: data.resource.as_ref(),
                hold_seconds: data.hold_seconds,
                hold: None,
                outcome: &data.outcome,
            }),
            _ => None,
        }
    }
}
