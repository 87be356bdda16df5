//! Views and caches against the fold of the ledger's prefix from nothing: byte for byte.

use crate::catalogs::{parsed, text};
use crate::store::Store;
use crate::world::World;
use quota_core::digest::SubjectKey;
use quota_core::fold::{fold, next_due};
use quota_core::row::Row;
use quota_core::state::State;
use quota_core::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the rows of each subject of a partition come to, folded from nothing up to an offset.
fn folded(
    store: &Store,
    partition: u32,
    until: i64,
) -> BTreeMap<SubjectKey, (State, Option<Timestamp>)> {
    let mut states: BTreeMap<SubjectKey, (State, Option<Timestamp>)> = BTreeMap::new();
    let rows = store
        .rows(partition)
        .iter()
        .take_while(|row| row.offset < until);
    for row in rows.filter(|row| !row.subject.is_empty()) {
        let catalog = parsed(&text(&row.product, row.catalog_version));
        let (state, due) = states.entry(row.subject_key).or_default();
        fold(state, &catalog, row).expect("a row that can be folded");
        *due = next_due(state, &catalog);
    }
    states
}

/// Invariant 5, for one partition as it is stored now.
pub fn check_views(store: &Store, partition: u32) {
    let expected = folded(store, partition, store.checkpoints[partition as usize]);
    let stored: BTreeSet<&SubjectKey> = store
        .views
        .keys()
        .filter(|(of, _)| *of == partition)
        .map(|(_, key)| key)
        .collect();
    assert_eq!(
        stored,
        expected.keys().collect(),
        "the views of partition {partition}"
    );
    for (key, (state, due)) in &expected {
        let view = &store.views[&(partition, *key)];
        let bytes = String::from_utf8(state.subject_bytes()).expect("JSON");
        let there = String::from_utf8(view.state.to_vec()).expect("JSON");
        assert_eq!(
            there, bytes,
            "the view of {} of {}",
            view.subject, view.product
        );
        assert_eq!(view.next_due, *due, "when {} is due", view.subject);
        let things: BTreeMap<(i16, String), Arc<[u8]>> = state
            .things()
            .filter_map(|(key, _)| {
                Some((
                    (key.kind.number(), key.id.clone()),
                    state.thing_bytes(key)?.into(),
                ))
            })
            .collect();
        assert_eq!(view.things, things, "the things of {}", view.subject);
    }
}

/// Everything that a node holds of a partition is true up to the end that it knows, and that end is as new as it says.
pub fn check_caches(world: &World, node: usize, partition: u32) {
    let Some(memory) = &world.nodes[node].memory else {
        return;
    };
    let memory = memory.borrow();
    let (end, kept) = memory.kept(partition);
    let at_head = memory.at_head(partition);
    let then = world.store.head_before(partition, at_head);
    assert!(
        end >= then,
        "node {node} says that it knew all of {partition} at {at_head}, which went to {then}: it knows {end}"
    );
    for (key, state) in kept {
        let rows: Vec<&Arc<Row>> = world.store.rows(partition).iter().collect();
        let its = world
            .store
            .offsets_of(key)
            .iter()
            .filter(|offset| **offset <= end);
        let mut expected = State::default();
        for offset in its {
            let row = rows[*offset as usize];
            fold(
                &mut expected,
                &parsed(&text(&row.product, row.catalog_version)),
                row,
            )
            .expect("a fold");
        }
        // A state may be newer than the end: it was loaded from a later snapshot.
        if state.subject.offset <= end {
            let (held, known) = (state.subject_bytes(), expected.subject_bytes());
            assert_eq!(
                String::from_utf8_lossy(&held),
                String::from_utf8_lossy(&known),
                "a cache of node {node} at {end}"
            );
        }
    }
}
