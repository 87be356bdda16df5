//! What must be loaded before an event is folded.

use crate::event::{Event, Held, Usage};
use crate::state::{RowKey, State};

/// The things that folding an event asks for.
#[must_use]
pub fn needs(event: &Event) -> Vec<RowKey> {
    match event {
        Event::ResourceCreated(data)
        | Event::ResourceCompleted(data)
        | Event::ResourceDeleted(data)
        | Event::ResourceUnlocked(data) => vec![RowKey::resource(&data.resource)],
        Event::UsageRecorded(Usage {
            resource: Some(resource),
            ..
        }) => vec![RowKey::resource(resource)],
        Event::SubscriptionPurchased(data) | Event::SubscriptionRenewed(data) => {
            let mut keys = vec![RowKey::payment(&data.payment_id)];
            keys.extend(data.resource.as_deref().map(RowKey::resource));
            keys
        }
        Event::SubscriptionCancelled(data) => data
            .payment_id
            .as_deref()
            .map(RowKey::payment)
            .into_iter()
            .collect(),
        Event::SessionCreated(data) => vec![RowKey::session(&data.session)],
        Event::SessionSuperseded(data) => vec![RowKey::session(&data.session)],
        Event::SessionCompleted(data) => vec![
            RowKey::session(&data.session),
            RowKey::resource(&data.resource),
        ],
        Event::UsageHeld(Held {
            resource: Some(resource),
            ..
        }) => vec![RowKey::resource(resource)],
        _ => Vec::new(),
    }
}

/// The things that folding an event may ask for beyond [`needs`], which only the state names.
#[must_use]
pub fn needs_of_state(state: &State, event: &Event) -> Vec<RowKey> {
    match event {
        // A purchase gives slots to resources that wait for one.
        Event::SubscriptionPurchased(_) | Event::SubscriptionRenewed(_) => state
            .subject
            .unbound
            .iter()
            .map(|unbound| RowKey::resource(&unbound.resource))
            .collect(),
        // The end of what pays for a resource lets the unlock begin that waits behind it.
        Event::SubscriptionCancelled(_) => state
            .subject
            .grants
            .iter()
            .filter_map(|grant| grant.resource.as_deref())
            .map(RowKey::resource)
            .collect(),
        _ => Vec::new(),
    }
}

/// The things that must be loaded before an event is folded into this state, and are not.
#[must_use]
pub fn missing(state: &State, event: &Event) -> Vec<RowKey> {
    let mut needed = needs(event);
    needed.extend(needs_of_state(state, event));
    state.missing(&needed)
}
