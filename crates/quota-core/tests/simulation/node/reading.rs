//! A check on a node: from its cache, else from view and tail; at the position that is asked for, or an error.

use super::Memory;
use crate::coverage::Op;
use crate::store::{Lookup, Reply, Request};
use crate::world::Io;
use quota_core::command::Address;
use quota_core::decide::{Light, check as judged};
use quota_core::epoch::Epochs;
use quota_core::event::Outcome;
use quota_core::judge::Question;
use quota_core::known::{FoldedUp, Stored, fold_up};
use quota_core::state::{RowKey, State};
use quota_core::time::Timestamp;
use std::sync::Arc;

/// What a check said.
pub struct Checked {
    pub outcome: Outcome,
    /// The offset that it is true at.
    pub at: i64,
    pub state: Arc<State>,
    pub catalog_version: u32,
    pub now: Timestamp,
}

/// Asks a node; none where it is away, cannot read, or cannot reach the position.
pub async fn check(
    io: &Io,
    node: usize,
    address: &Address,
    question: &Question,
    at_least: i64,
) -> Option<Checked> {
    let way = io.with(|world| world.rng.delay(200));
    io.sleep(way).await;
    let memory = io.with(|world| world.nodes[node].memory.clone())?;
    let wanted: Vec<RowKey> = question
        .resource
        .iter()
        .map(|id| RowKey::resource(id))
        .collect();
    let (known, end) = {
        let memory = memory.borrow();
        (
            memory.get(address.partition, &address.key),
            memory.end(address.partition),
        )
    };
    let cached =
        known.filter(|state| end.head.offset >= at_least && state.missing(&wanted).is_empty());
    let (state, at) = match cached {
        Some(state) => (state, end.head.offset),
        None => {
            let lookup = Lookup {
                partition: address.partition,
                key: address.key,
                things: wanted.clone(),
                all: true,
            };
            let request = Request::Load(vec![lookup], Vec::new());
            let Ok(Reply::Loaded(mut loaded)) = io.ask("a check", None, request).await else {
                return None;
            };
            let through = loaded.through[&address.partition];
            if through < at_least {
                io.hit(crate::coverage::Hit::NeverOlder);
                return None;
            }
            let state = Arc::new(folded(
                &memory.borrow(),
                loaded.subjects.remove(0),
                &wanted,
            )?);
            let (key, kept) = (address.key, Arc::clone(&state));
            io.with(|world| {
                memory
                    .borrow_mut()
                    .keep(world, address.partition, key, kept, through)
            });
            (state, through)
        }
    };
    let memory = memory.borrow();
    let catalog_version = *end.versions.get(&address.product)?;
    let catalog = memory.catalog(&address.product, catalog_version)?;
    let now = io
        .with(|world| memory.clock(world))
        .max(end.head.recorded_at);
    let light = Light {
        state: &state,
        catalog: &catalog,
        catalog_version,
        now,
        epochs: &Epochs::default(),
    };
    let decision = judged(&light, address, question).ok()?;
    io.did(Op::Checked, 1);
    Some(Checked {
        outcome: decision.outcome,
        at,
        state: Arc::clone(&state),
        catalog_version,
        now,
    })
}

/// The state that a subject's stored view and rows come to, for a check.
fn folded(memory: &Memory, found: crate::store::LoadedSubject, wanted: &[RowKey]) -> Option<State> {
    let stored = Stored {
        view: found.view.state.as_deref(),
        things: found.view.things,
        tail: found.tail.iter().map(|row| &**row),
    };
    match fold_up(stored, wanted, &|product: &str, version| {
        memory.catalog(product, version)
    }) {
        Ok(FoldedUp::State(state)) => Some(*state),
        _ => None,
    }
}
