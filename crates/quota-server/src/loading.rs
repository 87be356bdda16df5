//! Subjects' states from the ledger: the stored view, and the tail folded on top of it.

use crate::shelf::Shelf;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::fold::fold_event;
use quota_core::known::{FoldedUp, Stored, Unreadable, fold_up};
use quota_core::lane::WantedSubject;
use quota_core::row::Row;
use quota_core::state::{RowKey, State};
use quota_postgres::{LoadRequest, Loaded, LoadedSubject, RowName, SubjectLookup};
use std::sync::Arc;

/// A subject's state as it was at a snapshot whose partition ended at `through`.
pub struct LoadedState {
    /// The subject's partition.
    pub partition: u32,
    /// The subject's key.
    pub key: SubjectKey,
    /// The last offset of the partition in that snapshot; -1 in an empty one.
    pub through: i64,
    /// The state.
    pub state: State,
}

/// What folding the loaded tails came to: every subject is in one of these.
#[derive(Default)]
pub struct Folded {
    /// The states.
    pub states: Vec<LoadedState>,
    /// Things that the tails are about are wanted too: load again with these.
    pub more: Vec<WantedSubject>,
    /// Subjects with stored bytes or an event that this build cannot read, or an event whose catalog is not on the shelf.
    pub failed: Vec<(SubjectKey, anyhow::Error)>,
}

/// What to ask the ledger for: these subjects with the wanted things, or all of them.
#[must_use]
pub fn request(wanted: &[WantedSubject], all: bool) -> LoadRequest {
    let subject = |wanted: &WantedSubject| SubjectLookup {
        partition: wanted.partition,
        subject_key: wanted.key,
        rows: wanted
            .things
            .iter()
            .map(|key| RowName {
                kind: key.kind.number(),
                id: key.id.clone(),
            })
            .collect(),
        all_rows: all,
    };
    LoadRequest {
        subjects: wanted.iter().map(subject).collect(),
        events: Vec::new(),
    }
}

/// Folds what was loaded for `wanted`.
pub fn fold_loaded(wanted: &[WantedSubject], loaded: &mut Loaded, shelf: &Shelf) -> Folded {
    let mut folded = Folded::default();
    let subjects = std::mem::take(&mut loaded.subjects);
    for (wanted, found) in wanted.iter().zip(subjects) {
        let partition = loaded
            .partitions
            .iter()
            .find(|found| found.partition == wanted.partition);
        let through = partition.map_or(-1, |found| found.head.offset);
        match fold_subject(wanted, found, shelf) {
            Ok(FoldedUp::State(state)) => {
                folded.states.push(LoadedState {
                    partition: wanted.partition,
                    key: wanted.key,
                    through,
                    state: *state,
                });
            }
            Ok(FoldedUp::Wants(things)) => folded.more.push(WantedSubject {
                things,
                ..wanted.clone()
            }),
            Err(error) => folded.failed.push((wanted.key, error.into())),
        }
    }
    folded
}

fn fold_subject(
    wanted: &WantedSubject,
    found: LoadedSubject,
    shelf: &Shelf,
) -> Result<FoldedUp, Unreadable> {
    let things = found.rows.into_iter();
    let stored = Stored {
        view: found.view.as_ref().map(|view| &*view.state),
        things: things.map(|row| (row.kind, row.id, row.body)).collect(),
        tail: &found.tail,
    };
    let catalogs = |product: &str, version: u32| shelf.get(product, version);
    fold_up(stored, &wanted.things, &catalogs)
}

/// Folds one row by the catalog that it was judged under.
///
/// # Errors
/// That catalog is not on the shelf.
pub fn fold_row(
    state: &mut State,
    row: &Row,
    event: &Event,
    shelf: &Shelf,
) -> anyhow::Result<Vec<RowKey>> {
    let Some(catalog) = shelf.get(&row.product, row.catalog_version) else {
        anyhow::bail!(
            "catalog {} of {} is not known yet",
            row.catalog_version,
            row.product
        );
    };
    Ok(fold_event(state, &catalog, row, event))
}

/// Loads one subject's state through the pool.
///
/// # Errors
/// The ledger cannot be read, or what is in it cannot.
pub async fn load_one(
    ledger: &quota_postgres::Ledger,
    shelf: &Shelf,
    mut wanted: WantedSubject,
    all: bool,
) -> anyhow::Result<(Arc<State>, i64)> {
    loop {
        let asked = [wanted.clone()];
        let mut loaded = ledger.load(&request(&asked, all)).await?;
        let mut folded = fold_loaded(&asked, &mut loaded, shelf);
        if let Some((_, error)) = folded.failed.pop() {
            return Err(error);
        }
        if let Some(loaded) = folded.states.pop() {
            return Ok((Arc::new(loaded.state), loaded.through));
        }
        let Some(more) = folded.more.pop() else {
            anyhow::bail!("the subject was not loaded")
        };
        wanted = more;
    }
}
