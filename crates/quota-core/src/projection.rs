//! The rule of the projector: rows folded into views, and which partitions it is at.
//!
//! A [`Folding`] takes the rows of one step, says which stored views and things it [wants](Folding::wants), and comes to the
//! changed ones. They are saved together with the step of the checkpoint, which moves by compare-and-set. [`Duty`] says
//! where to begin, where to begin anew and where to stop. Neither does any I/O.

mod duty;

pub use duty::{Duty, Judged};

use crate::catalog::Catalog;
use crate::digest::SubjectKey;
use crate::event::Event;
use crate::fold::{fold_event, missing, needs, next_due};
use crate::row::Row;
use crate::state::{Kind, RowKey, State};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A projector's step in one partition: from the checkpoint that it started at to the one that it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The partition.
    pub partition: u32,
    /// The next offset, as the projector last knew it.
    pub from: i64,
    /// The next offset, once this is saved.
    pub to: i64,
}

/// A subject whose view is wanted, or things of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedView {
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub key: SubjectKey,
    /// The things of it that are wanted.
    pub things: Vec<RowKey>,
}

/// A subject after the step.
#[derive(Debug)]
pub struct Projected {
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub key: SubjectKey,
    /// The product.
    pub product: Arc<str>,
    /// The subject.
    pub subject: Arc<str>,
    /// When its earliest expiry falls due.
    pub next_due: Option<Timestamp>,
    /// Its state.
    pub state: State,
    /// The things that changed.
    pub changed: BTreeSet<RowKey>,
}

/// Where and why a partition cannot be folded on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The partition.
    pub partition: u32,
    /// The row's offset.
    pub offset: i64,
    /// Why.
    pub why: String,
}

/// What a folding comes to.
#[derive(Debug, Default)]
pub struct Folded {
    /// Each partition's step.
    pub steps: Vec<Step>,
    /// The subjects that changed.
    pub subjects: Vec<Projected>,
    /// Partitions with a row that this build cannot fold: their steps end before it.
    pub stopped: Vec<Stopped>,
    /// Partitions with a subject whose view is not the one that the checkpoint speaks of: somebody else is at them, or
    /// something is wrong. Nothing of them is to be saved.
    pub strange: Vec<Stopped>,
}

/// The rows of one step on their way into views.
#[derive(Debug, Default)]
pub struct Folding {
    works: BTreeMap<(u32, SubjectKey), Work>,
    steps: BTreeMap<u32, Step>,
    stopped: BTreeMap<u32, Stopped>,
    strange: BTreeMap<u32, Stopped>,
}

/// A subject's rows of the step.
#[derive(Debug)]
struct Work {
    rows: Vec<(Row, Event)>,
    /// How many of them are folded.
    done: usize,
    state: Option<State>,
    /// The things that were changed.
    touched: BTreeSet<RowKey>,
    /// The things to load before it goes on.
    wanted: BTreeSet<RowKey>,
}

impl Folding {
    /// Takes the next row of a partition, with its event. `kept` has the subject's state as of the row before, where its
    /// last step left it with the shell.
    pub fn add(&mut self, row: Row, event: Event, kept: impl FnOnce() -> Option<State>) {
        let (partition, offset) = (row.partition, row.offset);
        if self.stopped.contains_key(&partition) {
            return;
        }
        let step = self.steps.entry(partition).or_insert(Step {
            partition,
            from: offset,
            to: offset,
        });
        step.to = offset + 1;
        if row.subject.is_empty() {
            return;
        }
        let place = (partition, row.subject_key);
        let work = self.works.entry(place).or_insert_with(|| Work {
            rows: Vec::new(),
            done: 0,
            state: kept(),
            touched: BTreeSet::new(),
            wanted: BTreeSet::new(),
        });
        let needed = needs(&event);
        let missing = match &work.state {
            Some(state) => state.missing(&needed),
            None => needed,
        };
        work.wanted.extend(missing);
        work.rows.push((row, event));
    }

    /// A partition ends before this row for now: it cannot be folded. Whatever follows of it is left out.
    pub fn stop(&mut self, partition: u32, offset: i64, why: String) {
        self.stopped.entry(partition).or_insert(Stopped {
            partition,
            offset,
            why,
        });
    }

    /// Whether a partition was stopped.
    #[must_use]
    pub fn is_stopped(&self, partition: u32) -> bool {
        self.stopped.contains_key(&partition)
    }

    /// The views and things to load before [`Folding::go_on`]; each is to be handed in by [`Folding::put`].
    #[must_use]
    pub fn wants(&self) -> Vec<WantedView> {
        let waits = |work: &Work| work.state.is_none() || !work.wanted.is_empty();
        let waiting = self.works.iter().filter(|(_, work)| waits(work));
        waiting
            .map(|((partition, key), work)| WantedView {
                partition: *partition,
                key: *key,
                things: work.wanted.iter().cloned().collect(),
            })
            .collect()
    }

    /// Takes in what is stored of a wanted subject: its view, where it has one, and those of the wanted things that there
    /// are, by kind and id.
    pub fn put(
        &mut self,
        partition: u32,
        key: SubjectKey,
        view: Option<&[u8]>,
        things: Vec<(i16, String, Vec<u8>)>,
    ) {
        if let Some(work) = self.works.get_mut(&(partition, key))
            && let Err(why) = work.take_in(view, things)
        {
            let why = format!("what is stored of a subject cannot be read: {why}");
            self.is_strange(partition, key, why);
        }
    }

    /// Folds on with what is there; whether all is folded.
    pub fn go_on(&mut self, catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>) -> bool {
        let mut done = true;
        let mut failed = Vec::new();
        for ((partition, key), work) in &mut self.works {
            match work.go_on(catalogs) {
                Ok(finished) => done &= finished,
                Err(why) => failed.push((*partition, *key, why)),
            }
        }
        for (partition, key, why) in failed {
            self.is_strange(partition, key, why);
        }
        let strange = &self.strange;
        self.works
            .retain(|(partition, _), _| !strange.contains_key(partition));
        self.steps
            .retain(|partition, _| !strange.contains_key(partition));
        done
    }

    fn is_strange(&mut self, partition: u32, key: SubjectKey, why: String) {
        let work = self.works.get(&(partition, key));
        let row = work.and_then(|work| work.rows.get(work.done));
        let offset = row.map_or(-1, |(row, _)| row.offset);
        self.strange.entry(partition).or_insert(Stopped {
            partition,
            offset,
            why,
        });
    }

    /// What it came to.
    #[must_use]
    pub fn finish(self, catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>) -> Folded {
        let mut subjects = Vec::with_capacity(self.works.len());
        for ((partition, key), work) in self.works {
            let (Some(state), Some((row, _))) = (work.state, work.rows.last()) else {
                continue;
            };
            // By the row's own catalog, which is the newest of its partition there: so it depends on the prefix alone.
            let catalog = catalogs(&row.product, row.catalog_version);
            subjects.push(Projected {
                partition,
                key,
                product: Arc::clone(&row.product),
                subject: Arc::clone(&row.subject),
                next_due: catalog.and_then(|catalog| next_due(&state, &catalog)),
                state,
                changed: work.touched,
            });
        }
        Folded {
            steps: self.steps.into_values().collect(),
            subjects,
            stopped: self.stopped.into_values().collect(),
            strange: self.strange.into_values().collect(),
        }
    }
}

impl Work {
    /// Takes in what is stored: the view where there is no state yet, and things.
    fn take_in(
        &mut self,
        view: Option<&[u8]>,
        things: Vec<(i16, String, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut state = match (self.state.take(), view) {
            (Some(state), _) => state,
            (None, Some(view)) => State::from_stored(view, &[]).map_err(told)?,
            (None, None) => State::default(),
        };
        for key in std::mem::take(&mut self.wanted) {
            state.add_stored(key, None).map_err(told)?;
        }
        for (number, id, body) in things {
            let kind = Kind::from_number(number)
                .ok_or_else(|| format!("kind {number} of a stored row"))?;
            state
                .add_stored(RowKey { kind, id }, Some(&body))
                .map_err(told)?;
        }
        self.state = Some(state);
        Ok(())
    }

    /// Folds on, until the end or until things are missing; whether it is done.
    fn go_on(
        &mut self,
        catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
    ) -> Result<bool, String> {
        let state = self.state.as_mut().ok_or("the subject was not loaded")?;
        while let Some((row, event)) = self.rows.get(self.done) {
            let (expected, found) = (state.subject.seq + 1, row.subject_seq);
            if found != expected {
                return Err(format!(
                    "event {found} of a subject whose next is {expected}"
                ));
            }
            self.wanted = missing(state, event).into_iter().collect();
            if !self.wanted.is_empty() {
                return Ok(false);
            }
            let Some(catalog) = catalogs(&row.product, row.catalog_version) else {
                return Err(format!(
                    "catalog {} of {} is not known yet",
                    row.catalog_version, row.product
                ));
            };
            self.touched.extend(fold_event(state, &catalog, row, event));
            self.done += 1;
        }
        Ok(true)
    }
}

fn told(error: serde_json::Error) -> String {
    error.to_string()
}
