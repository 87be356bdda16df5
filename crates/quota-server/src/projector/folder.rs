//! Folds rows into views, a batch at a time: stored views in, changed views and things out. The rule is
//! [`quota_core::projection`]; this loads what it wants, and knows the catalogs.

use crate::shelf::Shelf;
use quick_cache::unsync::Cache;
use quota_core::catalog::Catalog;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::projection::{Folded, Folding, Projected};
use quota_core::row::Row;
use quota_core::state::{RowKey, State};
use quota_postgres::{Advance, Ledger, RowName, SubjectLookup, SubjectRow, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Subjects of one partition whose states are kept between two batches.
const KEPT_SUBJECTS: usize = 64;
/// Things beyond which a state is not kept.
const KEPT_THINGS: usize = 256;

/// Folds, and remembers the states of the subjects that it saved last.
pub(super) struct Folder {
    ledger: Ledger,
    shelf: Arc<Shelf>,
    kept: BTreeMap<u32, Cache<SubjectKey, State>>,
}

/// What a batch of rows came to, as it is saved.
pub(super) struct Saving {
    /// Each partition's step.
    pub steps: Vec<Advance>,
    /// The views that changed.
    pub views: Vec<View>,
    /// The things that changed.
    pub things: Vec<SubjectRow>,
}

impl Folder {
    pub(super) fn new(ledger: Ledger, shelf: Arc<Shelf>) -> Self {
        Self {
            ledger,
            shelf,
            kept: BTreeMap::new(),
        }
    }

    /// Forgets a partition's states.
    pub(super) fn forget(&mut self, partition: u32) {
        self.kept.remove(&partition);
    }

    /// Forgets all states.
    pub(super) fn forget_all(&mut self) {
        self.kept.clear();
    }

    /// Keeps the states of what was saved, and forgets those of partitions that were lost.
    pub(super) fn saved(&mut self, subjects: Vec<Projected>, lost: &BTreeSet<u32>) {
        for partition in lost {
            self.forget(*partition);
        }
        for subject in subjects {
            let small = subject.state.things().count() <= KEPT_THINGS;
            if small && !lost.contains(&subject.partition) {
                let kept = self.kept.entry(subject.partition);
                kept.or_insert_with(|| Cache::new(KEPT_SUBJECTS))
                    .insert(subject.key, subject.state);
            }
        }
    }

    /// Folds rows, those of each partition in order and without a gap.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) async fn fold(&mut self, rows: Vec<Row>) -> anyhow::Result<Folded> {
        let mut folding = Folding::default();
        for row in rows {
            if folding.is_stopped(row.partition) {
                continue;
            }
            match self.readable(&row).await {
                Ok(event) => {
                    let kept = self.kept.get_mut(&row.partition);
                    let key = row.subject_key;
                    folding.add(row, event, || Some(kept?.remove(&key)?.1));
                }
                Err(why) => folding.stop(row.partition, row.offset, format!("{why:#}")),
            }
        }
        let shelf = Arc::clone(&self.shelf);
        let catalogs = |product: &str, version: u32| shelf.get(product, version);
        loop {
            self.load(&mut folding).await?;
            if folding.go_on(&catalogs) {
                return Ok(folding.finish(&catalogs));
            }
        }
    }

    /// The row's event, where this build has a rule for it and knows the catalog that it goes by.
    async fn readable(&self, row: &Row) -> anyhow::Result<Event> {
        let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
        if row.subject.is_empty() {
            self.shelf.take(row)?;
            return Ok(event);
        }
        if self.catalog(row).is_none() {
            // Published before the partition's checkpoint, and after this node read all catalogs.
            let loaded = self.shelf.load(&self.ledger).await;
            if self.catalog(row).is_none() {
                loaded?;
                let (version, product) = (row.catalog_version, &row.product);
                anyhow::bail!("catalog {version} of {product} is not known");
            }
        }
        Ok(event)
    }

    fn catalog(&self, row: &Row) -> Option<Arc<Catalog>> {
        self.shelf.get(&row.product, row.catalog_version)
    }

    /// Loads the views and things that are wanted.
    async fn load(&self, folding: &mut Folding) -> anyhow::Result<()> {
        let name = |key: RowKey| RowName {
            kind: key.kind.number(),
            id: key.id,
        };
        let wants = folding.wants().into_iter();
        let lookups: Vec<SubjectLookup> = wants
            .map(|wanted| SubjectLookup {
                partition: wanted.partition,
                subject_key: wanted.key,
                rows: wanted.things.into_iter().map(name).collect(),
                all_rows: false,
            })
            .collect();
        if lookups.is_empty() {
            return Ok(());
        }
        let stored = self.ledger.stored(&lookups).await?;
        for (lookup, (view, rows)) in lookups.into_iter().zip(stored) {
            let things = rows.into_iter();
            let things = things.map(|row| (row.kind, row.id, row.body)).collect();
            let view = view.as_ref().map(|view| &*view.state);
            folding.put(lookup.partition, lookup.subject_key, view, things);
        }
        Ok(())
    }
}

impl Saving {
    /// A folding, as it is saved.
    pub(super) fn of(folded: &Folded) -> Self {
        let steps = folded.steps.iter().map(|step| Advance {
            partition: step.partition,
            from: step.from,
            to: step.to,
        });
        let views = folded.subjects.iter().map(|subject| View {
            partition: subject.partition,
            subject_key: subject.key,
            product: Arc::clone(&subject.product),
            subject: Arc::clone(&subject.subject),
            subject_seq: subject.state.subject.seq,
            offset: subject.state.subject.offset,
            row_count: i64::try_from(subject.state.subject.things).unwrap_or(i64::MAX),
            next_due: subject.next_due,
            state: subject.state.subject_bytes(),
        });
        let things = folded.subjects.iter().flat_map(|subject| {
            let changed = subject.changed.iter();
            changed.filter_map(|key| {
                Some(SubjectRow {
                    partition: subject.partition,
                    subject_key: subject.key,
                    kind: key.kind.number(),
                    id: key.id.clone(),
                    body: subject.state.thing_bytes(key)?,
                })
            })
        });
        Self {
            steps: steps.collect(),
            views: views.collect(),
            things: things.collect(),
        }
    }
}
