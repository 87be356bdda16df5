//! Which partitions a projector is at, where it has to begin anew, and where it stopped.

use super::Stopped;
use std::collections::{BTreeMap, BTreeSet};

/// How often in a row a partition may be found in a state that only another projector at it explains, while its checkpoint
/// stands still.
const STRANGE_MAX: u32 = 10;

/// The partitions of one projector. Time is a monotonic count of microseconds.
#[derive(Debug)]
pub struct Duty {
    /// How long a partition rests before it is begun anew.
    rest: i64,
    /// The partitions that the projector is at.
    owned: BTreeSet<u32>,
    /// Those of them whose checkpoint has to be read, and when.
    beginning: BTreeMap<u32, i64>,
    /// Those of them that a row stopped which this build cannot fold, and its offset.
    stopped: BTreeMap<u32, i64>,
    /// How often a partition's views were not what its checkpoint says, since it last moved.
    strange: BTreeMap<u32, u32>,
    /// The checkpoints that partitions were last begun at.
    begun: BTreeMap<u32, i64>,
}

/// What to do about partitions whose step was not saved.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Left for a while: somebody else is at them.
    pub lost: BTreeSet<u32>,
    /// Not folded any more by this build: the alarm.
    pub stopped: Vec<Stopped>,
}

impl Duty {
    /// At no partition yet; `rest` is how long one rests before it is begun anew.
    #[must_use]
    pub const fn new(rest: i64) -> Self {
        Self {
            rest,
            owned: BTreeSet::new(),
            beginning: BTreeMap::new(),
            stopped: BTreeMap::new(),
            strange: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Takes up the partitions that are this projector's now; returns those that it left.
    pub fn own(&mut self, partitions: &BTreeSet<u32>, now: i64) -> Vec<u32> {
        if self.owned == *partitions {
            return Vec::new();
        }
        let left: Vec<u32> = self.owned.difference(partitions).copied().collect();
        for partition in &left {
            self.beginning.remove(partition);
            self.stopped.remove(partition);
        }
        let new = partitions.difference(&self.owned);
        self.beginning
            .extend(new.map(|partition| (*partition, now)));
        self.owned.clone_from(partitions);
        left
    }

    /// The partitions that it is at.
    #[must_use]
    pub const fn owned(&self) -> &BTreeSet<u32> {
        &self.owned
    }

    /// How many partitions are stopped.
    #[must_use]
    pub fn stopped(&self) -> usize {
        self.stopped.len()
    }

    /// When the next partition is to be begun.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        self.beginning.values().copied().min()
    }

    /// The partitions to begin at their checkpoints now; they count as begun.
    pub fn begin(&mut self, now: i64) -> Vec<u32> {
        let due: Vec<u32> = self
            .beginning
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(partition, _)| *partition)
            .collect();
        for partition in &due {
            self.beginning.remove(partition);
        }
        due
    }

    /// A partition is begun at its checkpoint. Where that has moved, somebody else is at it, which explains whatever was
    /// strange there.
    pub fn begun(&mut self, partition: u32, next: i64) {
        if self.begun.insert(partition, next) != Some(next) {
            self.strange.remove(&partition);
        }
    }

    /// Takes what became of a step: the partitions whose checkpoints moved, those that others had moved, and what could not
    /// be folded. What is lost is begun anew after a rest; what is strange too, until it has been so too often.
    pub fn saved(
        &mut self,
        moved: &[u32],
        lost: &[u32],
        strange: Vec<Stopped>,
        stopped: Vec<Stopped>,
        now: i64,
    ) -> Judged {
        let mut judged = Judged {
            lost: lost.iter().copied().collect(),
            stopped,
        };
        for strange in strange {
            let often = self.strange.entry(strange.partition).or_insert(0);
            *often += 1;
            if *often < STRANGE_MAX {
                judged.lost.insert(strange.partition);
            } else {
                judged.stopped.push(strange);
            }
        }
        for partition in moved {
            self.strange.remove(partition);
        }
        for stopped in &judged.stopped {
            self.stopped.insert(stopped.partition, stopped.offset);
        }
        for partition in &judged.lost {
            if self.owned.contains(partition) && !self.stopped.contains_key(partition) {
                self.beginning.insert(*partition, now + self.rest);
            }
        }
        judged
    }

    /// Begins everything anew after a rest: the ledger is away, or what became of a step is not known.
    pub fn pause(&mut self, now: i64) {
        for partition in &self.owned {
            if !self.stopped.contains_key(partition) {
                self.beginning.insert(*partition, now + self.rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strange() -> Vec<Stopped> {
        vec![Stopped {
            partition: 3,
            offset: 7,
            why: "a view that is ahead".to_owned(),
        }]
    }

    /// Two projectors may be at one partition for as long as there is no Kafka: the slower one must not take what the other
    /// saves for something that it cannot fold, else nobody is there once the other is gone.
    ///
    /// Fails where only its own progress counts.
    #[test]
    fn another_projector_at_work_is_no_reason_to_stop() {
        let mut duty = Duty::new(10);
        duty.own(&BTreeSet::from([3]), 0);
        for round in 0..50 {
            let now = round * 10;
            assert_eq!(duty.begin(now), [3], "begun anew after each rest");
            duty.begun(3, round);
            let judged = duty.saved(&[], &[], strange(), Vec::new(), now);
            assert_eq!(judged.stopped, []);
        }
    }

    #[test]
    fn what_is_strange_while_the_checkpoint_stands_still_stops_the_partition() {
        let mut duty = Duty::new(10);
        duty.own(&BTreeSet::from([3]), 0);
        for round in 0..10 {
            assert_eq!(duty.begin(round * 10), [3]);
            duty.begun(3, 5);
            let judged = duty.saved(&[], &[], strange(), Vec::new(), round * 10);
            assert_eq!(judged.stopped.len(), usize::from(round == 9));
        }
        assert_eq!((duty.begin(1_000), duty.stopped()), (Vec::new(), 1));
    }
}
