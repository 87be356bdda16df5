//! Reads, each of one snapshot, and the one statement that saves views with their checkpoint.

use super::{Reply, Request, View};
use crate::coverage::{Hit, Op};
use crate::world::World;
use quota_core::digest::SubjectKey;
use quota_core::row::Row;
use quota_core::state::RowKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A subject to load; all of its things, or those named.
#[derive(Clone)]
pub struct Lookup {
    pub partition: u32,
    pub key: SubjectKey,
    pub things: Vec<RowKey>,
    pub all: bool,
}

/// What was found of a subject.
pub struct LoadedSubject {
    pub view: StoredView,
    pub tail: Vec<Arc<Row>>,
}

/// What was found, all in one snapshot.
pub struct Loaded {
    pub subjects: Vec<LoadedSubject>,
    /// The last offsets of the partitions.
    pub through: BTreeMap<u32, i64>,
    pub events: Vec<Arc<Row>>,
}

/// A view and things of its subject.
#[derive(Default)]
pub struct StoredView {
    pub state: Option<Arc<[u8]>>,
    pub things: Vec<(i16, String, Vec<u8>)>,
}

impl World {
    pub(super) fn read(&mut self, request: Request) -> Reply {
        let store = &self.store;
        match request {
            Request::Open => {
                let session = self.fresh();
                self.store.sessions.insert(session);
                Reply::Opened(session)
            }
            Request::Heads => {
                let heads = (0..store.partitions).map(|it| store.head(it)).collect();
                Reply::Heads(heads, self.database_clock())
            }
            Request::RowsAt(places) => {
                let row = |(partition, offset): &(u32, i64)| {
                    let offset = usize::try_from(*offset).ok()?;
                    store.rows(*partition).get(offset).cloned()
                };
                Reply::Rows(places.iter().filter_map(row).collect())
            }
            Request::Range(partition, from, most) => {
                let rows = store.rows(partition).iter().skip(from.max(0) as usize);
                Reply::Rows(rows.take(most).cloned().collect())
            }
            Request::Load(lookups, events) => {
                self.coverage.did(Op::Loaded, lookups.len());
                self.coverage.did(Op::Looked, events.len());
                let found = events.iter();
                let found =
                    found.filter_map(|(partition, key, event)| store.event(*partition, key, event));
                let events = found.cloned().collect();
                let through =
                    |lookup: &Lookup| (lookup.partition, store.head(lookup.partition).offset);
                Reply::Loaded(Loaded {
                    through: lookups.iter().map(through).collect(),
                    subjects: lookups.iter().map(|lookup| self.load(lookup)).collect(),
                    events,
                })
            }
            Request::Checkpoints => Reply::Checkpoints(store.checkpoints.clone()),
            Request::Stored(wanted) => {
                let stored = wanted.iter();
                let stored = stored.map(|it| self.stored(it.partition, &it.key, Some(&it.things)));
                Reply::Stored(stored.collect())
            }
            Request::Catalogs => Reply::Rows(store.catalogs.clone()),
            Request::Due(now) => {
                let due = store.views.values();
                let due = due.filter(|view| view.next_due.is_some_and(|due| due <= now));
                let name = |view: &View| (Arc::clone(&view.product), Arc::clone(&view.subject));
                Reply::Due(due.map(name).take(50).collect())
            }
            Request::Save(steps, saved) => {
                let mut moved = Vec::new();
                for step in &steps {
                    self.coverage.did(Op::Saved, 1);
                    let checkpoint = &mut self.store.checkpoints[step.partition as usize];
                    if *checkpoint == step.from {
                        *checkpoint = step.to;
                        moved.push(step.partition);
                    } else {
                        self.coverage.hit(Hit::ProjectorLost);
                    }
                }
                for saved in saved.into_iter().filter(|it| moved.contains(&it.partition)) {
                    self.keep(saved);
                }
                Reply::Moved(moved)
            }
            Request::Lock(_) | Request::Append(..) | Request::Commit | Request::Rollback => {
                Reply::Done
            }
        }
    }

    fn keep(&mut self, saved: super::Saved) {
        let place = (saved.partition, saved.key);
        let before = self.store.views.remove(&place);
        let mut things = before.map(|view| view.things).unwrap_or_default();
        for (key, body) in saved.things {
            things.insert((key.kind.number(), key.id), body.into());
        }
        let view = View {
            product: saved.product,
            subject: saved.subject,
            next_due: saved.next_due,
            state: saved.state.into(),
            things,
        };
        self.store.views.insert(place, view);
    }

    fn stored(&self, partition: u32, key: &SubjectKey, named: Option<&[RowKey]>) -> StoredView {
        let Some(view) = self.store.views.get(&(partition, *key)) else {
            return StoredView::default();
        };
        let state = Some(Arc::clone(&view.state));
        let things = match named {
            None => {
                let all = view.things.iter();
                all.map(|((kind, id), body)| (*kind, id.clone(), body.to_vec()))
                    .collect()
            }
            Some(names) => {
                let thing = |name: &RowKey| {
                    let body = view.things.get(&(name.kind.number(), name.id.clone()))?;
                    Some((name.kind.number(), name.id.clone(), body.to_vec()))
                };
                names.iter().filter_map(thing).collect()
            }
        };
        StoredView { state, things }
    }

    fn load(&self, lookup: &Lookup) -> LoadedSubject {
        let checkpoint = self.store.checkpoints[lookup.partition as usize];
        let offsets = self.store.offsets_of(&lookup.key);
        let from = offsets.partition_point(|offset| *offset < checkpoint);
        let rows = self.store.rows(lookup.partition);
        let tail = offsets[from..]
            .iter()
            .map(|offset| Arc::clone(&rows[*offset as usize]));
        let named = (!lookup.all).then_some(&lookup.things[..]);
        LoadedSubject {
            view: self.stored(lookup.partition, &lookup.key, named),
            tail: tail.collect(),
        }
    }
}
