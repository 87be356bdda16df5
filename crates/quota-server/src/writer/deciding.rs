//! What a batch is decided by: ends and states from the cache, the rest from the ledger.

use crate::loading::{fold_loaded, request};
use crate::writer::drive::{Context, unavailable};
use quota_core::lane::{Batch, Failure, Proposal, Wants};
use quota_postgres::{Error, EventLookup, Lane};
use std::sync::Arc;

/// Loads what the batch wants, and decides it.
pub(super) async fn decided(
    context: &Context,
    lane: &mut Lane,
    batch: &mut Batch,
    partitions: &[u32],
    locked: bool,
) -> Result<Proposal, Failure> {
    for partition in partitions {
        if let Some(end) = context.cache.end(*partition) {
            batch.put_end(*partition, end);
        }
    }
    let addresses: Vec<_> = batch
        .addresses()
        .map(|address| (address.partition, address.key))
        .collect();
    for (partition, key) in addresses {
        if !batch.has_state(&key)
            && let Some(state) = context.cache.get(partition, &key)
        {
            batch.put_state(key, (*state).clone());
        }
    }
    loop {
        let wants = batch.wants();
        if wants.subjects.is_empty() && wants.events.is_empty() {
            break;
        }
        load(context, lane, batch, wants, locked).await?;
    }
    let catalogs = |product: &str, version: u32| context.shelf.get(product, version);
    Ok(batch.decide(context.clock.now(), &catalogs))
}

async fn load(
    context: &Context,
    lane: &mut Lane,
    batch: &mut Batch,
    wants: Wants,
    locked: bool,
) -> Result<(), Failure> {
    let mut wanted = wants.subjects;
    let mut events: Vec<EventLookup> = wants
        .events
        .iter()
        .map(|(partition, subject_key, event_key)| EventLookup {
            partition: *partition,
            subject_key: *subject_key,
            event_key: *event_key,
        })
        .collect();
    for (_, subject, event) in &wants.events {
        batch.put_found(*subject, *event, None);
    }
    loop {
        let mut request = request(&wanted, true);
        request.events = std::mem::take(&mut events);
        let mut loaded = lane.load(&request).await.map_err(|error| match error {
            Error::Invalid(why) => Failure::Invalid(why),
            other => unavailable(other),
        })?;
        for row in std::mem::take(&mut loaded.events) {
            batch.put_found(row.subject_key, row.event_key, Some(Arc::new(row)));
        }
        let folded = fold_loaded(&wanted, &mut loaded, &context.shelf);
        for (key, error) in folded.failed {
            let error = format!("{error:#}");
            if !locked {
                // Most likely a catalog that others have published: the next round reads on first.
                tracing::debug!(error, "a subject cannot be folded yet");
                return Err(Failure::Raced);
            }
            metrics::counter!("quota_lane_unreadable_subjects_total").increment(1);
            tracing::error!(
                subject_key = hex::encode(key),
                error,
                "a subject cannot be folded: its commands are refused"
            );
            batch.give_up(key);
        }
        for loaded in folded.states {
            let state = Arc::new(loaded.state.clone());
            context
                .cache
                .keep(loaded.partition, loaded.key, state, loaded.through);
            batch.put_state(loaded.key, loaded.state);
        }
        if folded.more.is_empty() {
            return Ok(());
        }
        wanted = folded.more;
    }
}
