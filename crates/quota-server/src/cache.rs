//! The subject cache of a node: used by its lane and its checks alike.
//!
//! For each partition it knows the end up to which everything it holds is true; the rule is [`quota_core::known`].

use crate::shelf::Shelf;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use quota_core::digest::SubjectKey;
use quota_core::known::{Fits, Known, advanced};
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
    known: Known,
    states: Cache<SubjectKey, Arc<State>, BySize>,
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
                known: Known::new(end, now),
                states: Cache::with_weighter(each, each as u64, BySize),
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
            .map(|partition| partition.known.end().clone())
    }

    /// A partition's last offset, as far as this node knows; -1 before the first.
    #[must_use]
    pub fn head_offset(&self, partition: u32) -> i64 {
        self.partition(partition)
            .map_or(-1, |partition| partition.known.end().head.offset)
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
        let end = partition.known.end();
        Some(CheckView {
            state: partition.states.get(key).cloned(),
            version: end.versions.get(product).copied(),
            head: end.head.offset,
            recorded_at: end.head.recorded_at,
            at_head: partition.known.at_head(),
        })
    }

    /// Keeps a state that was loaded from a snapshot whose partition ended at `through`. It is not kept where the cache
    /// has gone on since: an event between would be missing from it for ever.
    pub fn keep(&self, partition: u32, key: SubjectKey, state: Arc<State>, through: i64) {
        if let Some(mut partition) = self.partition(partition)
            && partition.known.may_keep(through)
            && partition
                .states
                .peek(&key)
                .is_none_or(|known| known.subject.seq <= state.subject.seq)
        {
            partition.states.insert(key, state);
        }
    }

    /// Takes in what this node's lane began to append at `asked_at`: the new end of a partition, and the states of its subjects.
    pub fn settle(
        &self,
        partition: u32,
        head: Head,
        states: Vec<(SubjectKey, State)>,
        asked_at: i64,
    ) {
        let Some(mut partition) = self.partition(partition) else {
            return;
        };
        let current = partition.known.settled(head, asked_at);
        for (key, state) in states.into_iter().filter(|_| current) {
            let newer = partition
                .states
                .peek(&key)
                .is_none_or(|known| known.subject.seq <= state.subject.seq);
            if newer {
                partition.states.insert(key, Arc::new(state));
            }
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
            match partition.known.fits(row) {
                Fits::Seen => {}
                Fits::Hole => return Ok(Applied::Hole),
                Fits::Next => partition.take(row, shelf)?,
            }
        }
        Ok(Applied::Done)
    }

    /// Notes that a partition's head was seen: at `now` it was at `offset`.
    pub fn saw_head(&self, partition: u32, offset: i64, now: i64) {
        if let Some(mut partition) = self.partition(partition) {
            partition.known.saw_head(offset, now);
        }
    }

    /// Whether a row that others appended contradicts what this node knows of its partition.
    #[must_use]
    pub fn is_contradicted_by(&self, row: &Row) -> bool {
        self.partition(row.partition)
            .is_some_and(|partition| partition.known.is_contradicted_by(row))
    }
}

impl Partition {
    fn take(&mut self, row: &Row, shelf: &Shelf) -> anyhow::Result<()> {
        if row.subject.is_empty() {
            shelf.take(row)?;
        } else if let Some(state) = self.states.peek(&row.subject_key).cloned() {
            let catalogs = |product: &str, version: u32| shelf.get(product, version);
            match advanced(&state, row, &catalogs) {
                Some(next) => self.states.insert(row.subject_key, Arc::new(next)),
                None => {
                    self.states.remove(&row.subject_key);
                }
            }
        }
        self.known.take(row);
        Ok(())
    }
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
