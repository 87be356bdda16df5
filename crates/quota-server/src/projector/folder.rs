//! Folds rows into views, a batch at a time: stored views in, changed views and things out.

use crate::loading::fold_row;
use crate::shelf::Shelf;
use anyhow::Context as _;
use quick_cache::unsync::Cache;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::fold::{needs, needs_of_state, next_due};
use quota_core::row::Row;
use quota_core::state::{Kind, RowKey, State};
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

/// A batch of rows, folded.
#[derive(Default)]
pub(super) struct Folded {
    /// Each partition's step.
    pub steps: Vec<Advance>,
    /// The views that changed.
    pub views: Vec<View>,
    /// The things that changed.
    pub things: Vec<SubjectRow>,
    /// Partitions with a row that this build cannot fold: they end before it.
    pub stopped: Vec<Stopped>,
    /// Partitions with a subject whose view is not the one that the checkpoint speaks of: somebody else is at them, or
    /// something is wrong. Nothing of them is saved.
    pub strange: Vec<Stopped>,
    /// The states behind the views, to be kept once they are saved.
    states: Vec<(u32, SubjectKey, State)>,
}

/// Where and why a partition stopped.
pub(super) struct Stopped {
    pub partition: u32,
    pub offset: i64,
    pub why: anyhow::Error,
}

/// A subject's rows of a batch.
struct Work {
    rows: Vec<(Row, Event)>,
    /// How many of them are folded.
    done: usize,
    state: Option<State>,
    /// The things that were changed.
    touched: BTreeSet<RowKey>,
    /// The things to load before it goes on.
    wanted: Vec<RowKey>,
}

type Works = BTreeMap<(u32, SubjectKey), Work>;

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
    pub(super) fn saved(&mut self, folded: Folded, lost: &BTreeSet<u32>) {
        for partition in lost {
            self.forget(*partition);
        }
        for (partition, key, state) in folded.states {
            if !lost.contains(&partition) && state.things().count() <= KEPT_THINGS {
                let kept = self.kept.entry(partition);
                kept.or_insert_with(|| Cache::new(KEPT_SUBJECTS))
                    .insert(key, state);
            }
        }
    }

    /// Folds rows, those of each partition in order and without a gap.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) async fn fold(&mut self, rows: Vec<Row>) -> anyhow::Result<Folded> {
        let mut folded = Folded::default();
        let mut works = self.sort(rows, &mut folded).await?;
        loop {
            self.load(&mut works, &mut folded).await?;
            let mut waits = false;
            for ((partition, _), work) in &mut works {
                match work.go_on(&self.shelf) {
                    Ok(done) => waits |= !done,
                    Err(why) => folded.strange.push(work.stopped(*partition, why)),
                }
            }
            let strange: BTreeSet<u32> = folded.strange.iter().map(|it| it.partition).collect();
            works.retain(|(partition, _), _| !strange.contains(partition));
            folded
                .steps
                .retain(|step| !strange.contains(&step.partition));
            if !waits {
                break;
            }
        }
        for ((partition, key), work) in works {
            self.hand_over(partition, key, work, &mut folded);
        }
        Ok(folded)
    }

    /// Decodes rows and sorts them by subject, up to the first of each partition that this build cannot fold.
    async fn sort(&mut self, rows: Vec<Row>, folded: &mut Folded) -> anyhow::Result<Works> {
        let mut works = Works::new();
        let mut steps: BTreeMap<u32, Advance> = BTreeMap::new();
        let mut stopped: BTreeSet<u32> = BTreeSet::new();
        for row in rows {
            let (partition, offset) = (row.partition, row.offset);
            if stopped.contains(&partition) {
                continue;
            }
            match self.readable(&row).await? {
                Ok(event) => {
                    let step = steps.entry(partition).or_insert(Advance {
                        partition,
                        from: offset,
                        to: offset,
                    });
                    step.to = offset + 1;
                    if !row.subject.is_empty() {
                        self.add(&mut works, row, event);
                    }
                }
                Err(why) => {
                    stopped.insert(partition);
                    folded.stopped.push(Stopped {
                        partition,
                        offset,
                        why,
                    });
                }
            }
        }
        folded.steps = steps.into_values().collect();
        Ok(works)
    }

    /// The row's event, where this build has a rule for it and knows the catalog that it goes by.
    async fn readable(&self, row: &Row) -> anyhow::Result<anyhow::Result<Event>> {
        let event = match Event::decode(&row.event_type, row.type_version, &row.payload) {
            Ok(event) => event,
            Err(error) => return Ok(Err(error.into())),
        };
        if row.subject.is_empty() {
            return Ok(self.shelf.take(row).map(|()| event));
        }
        if self.shelf.get(&row.product, row.catalog_version).is_none() {
            // Published before the partition's checkpoint, and after this node read all catalogs.
            let unreadable = self.shelf.load(&self.ledger).await.err();
            if self.shelf.get(&row.product, row.catalog_version).is_none() {
                let (version, product) = (row.catalog_version, &row.product);
                let unknown = anyhow::anyhow!("catalog {version} of {product} is not known");
                return Ok(Err(unreadable.unwrap_or(unknown)));
            }
        }
        Ok(Ok(event))
    }

    fn add(&mut self, works: &mut Works, row: Row, event: Event) {
        let (partition, key) = (row.partition, row.subject_key);
        let work = works.entry((partition, key)).or_insert_with(|| Work {
            rows: Vec::new(),
            done: 0,
            state: self
                .kept
                .get_mut(&partition)
                .and_then(|kept| Some(kept.remove(&key)?.1)),
            touched: BTreeSet::new(),
            wanted: Vec::new(),
        });
        let needed = needs(&event);
        let missing = match &work.state {
            Some(state) => state.missing(&needed),
            None => needed,
        };
        work.wanted.extend(missing);
        work.rows.push((row, event));
    }

    /// Loads the views and things that are wanted.
    async fn load(&self, works: &mut Works, folded: &mut Folded) -> anyhow::Result<()> {
        let mut lookups = Vec::new();
        for ((partition, key), work) in works.iter_mut() {
            if work.state.is_some() && work.wanted.is_empty() {
                continue;
            }
            work.wanted.sort();
            work.wanted.dedup();
            let name = |key: &RowKey| RowName {
                kind: key.kind.number(),
                id: key.id.clone(),
            };
            lookups.push(SubjectLookup {
                partition: *partition,
                subject_key: *key,
                rows: work.wanted.iter().map(name).collect(),
                all_rows: false,
            });
        }
        if lookups.is_empty() {
            return Ok(());
        }
        let stored = self.ledger.stored(&lookups).await?;
        for (lookup, (view, rows)) in lookups.into_iter().zip(stored) {
            let place = (lookup.partition, lookup.subject_key);
            if let Some(work) = works.get_mut(&place)
                && let Err(why) = work.take_in(view, rows)
            {
                let why = why.context("what is stored of a subject cannot be read");
                folded.strange.push(work.stopped(lookup.partition, why));
            }
        }
        Ok(())
    }

    fn hand_over(&self, partition: u32, key: SubjectKey, work: Work, folded: &mut Folded) {
        let (Some(state), Some((row, _))) = (work.state, work.rows.last()) else {
            return;
        };
        for thing in &work.touched {
            if let Some(body) = state.thing_bytes(thing) {
                folded.things.push(SubjectRow {
                    partition,
                    subject_key: key,
                    kind: thing.kind.number(),
                    id: thing.id.clone(),
                    body,
                });
            }
        }
        // By the row's own catalog, which is the newest of its partition there: so it depends on the prefix alone.
        let catalog = self.shelf.get(&row.product, row.catalog_version);
        folded.views.push(View {
            partition,
            subject_key: key,
            product: Arc::clone(&row.product),
            subject: Arc::clone(&row.subject),
            subject_seq: state.subject.seq,
            offset: state.subject.offset,
            row_count: i64::try_from(state.subject.things).unwrap_or(i64::MAX),
            next_due: catalog.and_then(|catalog| next_due(&state, &catalog)),
            state: state.subject_bytes(),
        });
        folded.states.push((partition, key, state));
    }
}

impl Work {
    fn stopped(&self, partition: u32, why: anyhow::Error) -> Stopped {
        let offset = self.rows.get(self.done).map_or(-1, |(row, _)| row.offset);
        Stopped {
            partition,
            offset,
            why,
        }
    }

    /// Takes in what is stored: the view where there is no state yet, and things.
    fn take_in(&mut self, view: Option<View>, rows: Vec<SubjectRow>) -> anyhow::Result<()> {
        let mut state = match (self.state.take(), view) {
            (Some(state), _) => state,
            (None, Some(view)) => State::from_stored(&view.state, &[])?,
            (None, None) => State::default(),
        };
        for key in self.wanted.drain(..) {
            state.add_stored(key, None)?;
        }
        for row in rows {
            let kind = Kind::from_number(row.kind)
                .with_context(|| format!("kind {} of a stored row", row.kind))?;
            state.add_stored(RowKey { kind, id: row.id }, Some(&row.body))?;
        }
        self.state = Some(state);
        Ok(())
    }

    /// Folds on, until the end or until things are missing; whether it is done.
    fn go_on(&mut self, shelf: &Shelf) -> anyhow::Result<bool> {
        let state = self.state.as_mut().context("the subject was not loaded")?;
        while let Some((row, event)) = self.rows.get(self.done) {
            let (expected, found) = (state.subject.seq + 1, row.subject_seq);
            anyhow::ensure!(
                found == expected,
                "event {found} of a subject whose next is {expected}"
            );
            let mut needed = needs(event);
            needed.extend(needs_of_state(state, event));
            self.wanted = state.missing(&needed);
            if !self.wanted.is_empty() {
                return Ok(false);
            }
            self.touched.extend(fold_row(state, row, event, shelf)?);
            self.done += 1;
        }
        Ok(true)
    }
}
