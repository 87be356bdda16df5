//! The subject cache of a node: used by its lane and its checks alike.
//!
//! For each partition it knows the end up to which everything it holds is true. Whatever is cached reflects every event up
//! to that end, so a lane that builds on the end builds on the whole truth, and the fence finds out when it is not.

use crate::shelf::Shelf;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::fold;
use quota_core::lane::PartitionEnd;
use quota_core::row::{Head, Row};
use quota_core::state::State;
use quota_core::time::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The subject cache, and the partitions' ends.
pub struct SubjectCache {
    partitions: Vec<Mutex<Partition>>,
}

struct Partition {
    end: PartitionEnd,
    states: Cache<SubjectKey, Arc<State>, BySize>,
    /// When this partition was last known to be at its head, by the node's steady clock, in microseconds.
    at_head: i64,
}

/// Things that weigh as much as a subject without any.
const THINGS_PER_WEIGHT: u64 = 4;

/// A subject weighs more the more it has. One that is too large for its partition's share is not kept at all.
#[derive(Clone)]
struct BySize;

impl Weighter<SubjectKey, Arc<State>> for BySize {
    fn weight(&self, _: &SubjectKey, state: &Arc<State>) -> u64 {
        1 + state.subject.things / THINGS_PER_WEIGHT
    }
}

/// What became of rows that were handed to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The end is at least at the last of them now.
    Done,
    /// They begin after the end: what lies between must come first.
    Hole,
}

impl SubjectCache {
    /// A cache over partitions with these ends, for about so many subjects.
    #[must_use]
    pub fn new(ends: Vec<PartitionEnd>, subjects: usize, now: i64) -> Self {
        let each = (subjects / ends.len().max(1)).max(16);
        let partition = |end| {
            Mutex::new(Partition {
                end,
                states: Cache::with_weighter(each, each as u64, BySize),
                at_head: now,
            })
        };
        Self {
            partitions: ends.into_iter().map(partition).collect(),
        }
    }

    fn partition(&self, partition: u32) -> Option<MutexGuard<'_, Partition>> {
        let index = usize::try_from(partition).ok()?;
        self.partitions
            .get(index)
            .map(|mutex| mutex.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A partition's end, as far as this node knows.
    #[must_use]
    pub fn end(&self, partition: u32) -> Option<PartitionEnd> {
        self.partition(partition)
            .map(|partition| partition.end.clone())
    }

    /// A partition's last offset, as far as this node knows; -1 before the first.
    #[must_use]
    pub fn head_offset(&self, partition: u32) -> i64 {
        self.partition(partition)
            .map_or(-1, |partition| partition.end.head.offset)
    }

    /// A subject's state, if it is cached.
    #[must_use]
    pub fn get(&self, partition: u32, key: &SubjectKey) -> Option<Arc<State>> {
        self.partition(partition)?.states.get(key).cloned()
    }

    /// What a check is judged by: the state if it is cached, the product's catalog version, the head's offset and when
    /// the partition was last known to be at its head.
    #[must_use]
    pub fn view(&self, partition: u32, key: &SubjectKey, product: &str) -> Option<CheckView> {
        let partition = self.partition(partition)?;
        Some(CheckView {
            state: partition.states.get(key).cloned(),
            version: partition.end.versions.get(product).copied(),
            head: partition.end.head.offset,
            recorded_at: partition.end.head.recorded_at,
            at_head: partition.at_head,
        })
    }

    /// Keeps a state that was loaded from a snapshot whose partition ended at `through`. It is not kept where the cache
    /// has gone on since: an event between would be missing from it for ever.
    pub fn keep(&self, partition: u32, key: SubjectKey, state: Arc<State>, through: i64) {
        if let Some(mut partition) = self.partition(partition)
            && through >= partition.end.head.offset
            && partition
                .states
                .peek(&key)
                .is_none_or(|known| known.subject.seq <= state.subject.seq)
        {
            partition.states.insert(key, state);
        }
    }

    /// Takes in what this node's lane appended: the new end of a partition, and the states of its subjects.
    pub fn settle(&self, partition: u32, head: Head, states: Vec<(SubjectKey, State)>, now: i64) {
        let Some(mut partition) = self.partition(partition) else {
            return;
        };
        // Beyond this head others have appended: an event of theirs may be missing from these states.
        let current = partition.end.head.offset <= head.offset;
        for (key, state) in states.into_iter().filter(|_| current) {
            let newer = partition
                .states
                .peek(&key)
                .is_none_or(|known| known.subject.seq <= state.subject.seq);
            if newer {
                partition.states.insert(key, Arc::new(state));
            }
        }
        if current {
            partition.end.head = head;
            partition.at_head = partition.at_head.max(now);
        }
    }

    /// Takes in rows of one partition, in order. What is known already is dropped.
    ///
    /// # Errors
    /// A row that this build cannot fold.
    pub fn apply(&self, partition: u32, rows: &[Row], shelf: &Shelf) -> anyhow::Result<Applied> {
        let Some(mut partition) = self.partition(partition) else {
            return Ok(Applied::Done);
        };
        for row in rows {
            let expected = partition.end.head.offset + 1;
            if row.offset < expected {
                continue;
            }
            if row.offset > expected {
                return Ok(Applied::Hole);
            }
            partition.take(row, shelf)?;
        }
        Ok(Applied::Done)
    }

    /// Notes that a partition's head was seen: at `now` it was at `offset`.
    pub fn saw_head(&self, partition: u32, offset: i64, now: i64) {
        if let Some(mut partition) = self.partition(partition)
            && partition.end.head.offset >= offset
        {
            partition.at_head = partition.at_head.max(now);
        }
    }
}

impl Partition {
    fn take(&mut self, row: &Row, shelf: &Shelf) -> anyhow::Result<()> {
        if row.subject.is_empty() {
            shelf.take(row)?;
            if &*row.event_type == "catalog.published" {
                self.end
                    .versions
                    .insert(Arc::clone(&row.product), row.catalog_version);
            }
        } else if let Some(state) = self.states.peek(&row.subject_key).cloned() {
            match advanced(&state, row, shelf) {
                Some(next) => self.states.insert(row.subject_key, Arc::new(next)),
                None => {
                    self.states.remove(&row.subject_key);
                }
            }
        }
        self.end.head = Head {
            offset: row.offset,
            hash: row.hash,
            recorded_at: row.recorded_at,
        };
        Ok(())
    }
}

/// A state after one more row; itself where it has seen it; none where it must be loaded anew.
fn advanced(state: &State, row: &Row, shelf: &Shelf) -> Option<State> {
    if row.subject_seq <= state.subject.seq {
        return Some(state.clone());
    }
    // What this build cannot read fails where that subject is loaded, and there alone.
    let event = Event::decode(&row.event_type, row.type_version, &row.payload).ok()?;
    let mut needed = fold::needs(&event);
    needed.extend(fold::needs_of_state(state, &event));
    let (Some(catalog), true) = (
        shelf.get(&row.product, row.catalog_version),
        row.subject_seq == state.subject.seq + 1 && state.missing(&needed).is_empty(),
    ) else {
        return None;
    };
    let mut next = state.clone();
    fold::fold_event(&mut next, &catalog, row, &event);
    Some(next)
}

/// What a check is judged by.
pub struct CheckView {
    /// The subject's state, if it is cached.
    pub state: Option<Arc<State>>,
    /// The version of the product's catalog in force in the partition; none where it has none there.
    pub version: Option<u32>,
    /// The offset of the partition's head; -1 before the first.
    pub head: i64,
    /// That row's `recorded_at`: no answer is judged at an earlier time.
    pub recorded_at: Timestamp,
    /// When the partition was last known to be at its head, by the node's steady clock, in microseconds.
    pub at_head: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn state(seq: i64, things: u64) -> Arc<State> {
        let mut state = State::default();
        state.subject.seq = seq;
        state.subject.things = things;
        Arc::new(state)
    }

    /// Memory is bounded by what is cached, and a state that is not kept leaves no older one behind.
    ///
    /// Failed when every subject weighed the same.
    #[test]
    fn a_subject_with_very_much_is_not_kept() {
        let head = Head {
            offset: 9,
            hash: [0; 32],
            recorded_at: Timestamp::from_micros(0),
        };
        let end = PartitionEnd {
            head,
            versions: BTreeMap::new(),
        };
        let cache = SubjectCache::new(vec![end], 1_000, 0);
        let key = [1; 16];
        cache.keep(0, key, state(1, 10), 9);
        assert_eq!(cache.get(0, &key).map(|state| state.subject.seq), Some(1));
        cache.keep(0, key, state(2, 100_000), 9);
        assert!(cache.get(0, &key).is_none(), "neither the old nor the new");
    }
}
