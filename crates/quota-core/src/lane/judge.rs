//! What the commands of one partition are judged by.

use crate::catalog::Catalog;
use crate::command::{Answer, Command, Decision, Refusal};
use crate::decide::Light;
use crate::epoch::Epochs;
use crate::event::Event;
use crate::position::Position;
use crate::state::State;
use crate::time::Timestamp;
use std::sync::Arc;

/// What the commands of one partition are judged by.
pub(super) struct Judge {
    pub(super) epochs: Epochs,
    pub(super) version: u32,
    pub(super) catalog: Arc<Catalog>,
    pub(super) now: Timestamp,
}

impl Judge {
    pub(super) fn light<'a>(&'a self, state: &'a State) -> Light<'a> {
        Light {
            state,
            catalog: &self.catalog,
            catalog_version: self.version,
            now: self.now,
            epochs: &self.epochs,
        }
    }
}

/// The denial of a session, as the row of its refusal tells it.
pub(super) fn refused_session(
    command: &Command,
    event: &Event,
    judge: &Judge,
    position: Position,
) -> Option<Decision> {
    let Event::UsageDenied(denied) = event else {
        return None;
    };
    Some(Decision {
        address: command.address.clone(),
        feature: denied.feature.clone(),
        outcome: denied.outcome.clone(),
        hold: None,
        catalog: Arc::clone(&judge.catalog),
        catalog_version: judge.version,
        position,
        replayed: false,
    })
}

pub(super) fn unavailable(why: impl Into<String>) -> Answer {
    Answer::Refused(Refusal::unavailable(why))
}
