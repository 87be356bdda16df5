//! What a batch comes to, once it is known what went in.

use super::{Batch, Settled};
use crate::command::Address;
use std::collections::{BTreeMap, BTreeSet};

impl Batch {
    /// Takes in which partitions' rows are in the ledger now; the rest lost a race.
    #[must_use]
    pub fn settle(mut self, went_in: &[u32]) -> Settled {
        let went_in: BTreeSet<u32> = went_in.iter().copied().collect();
        let mut settled = Settled::default();
        let mut partitions = BTreeMap::new();
        for ((index, command), answer) in self.commands.into_iter().zip(self.planned) {
            let Address { key, partition, .. } = command.address;
            match answer {
                Some(answer) if went_in.contains(&partition) => {
                    partitions.insert(key, partition);
                    settled.answers.push((index, answer));
                }
                _ => settled.again.push((index, command)),
            }
        }
        for (partition, rows) in self
            .rows
            .into_iter()
            .filter(|(partition, _)| went_in.contains(partition))
        {
            if let Some(last) = rows.last() {
                settled.heads.push((partition, last.head()));
                settled.rows.push((partition, rows));
            }
        }
        for (key, partition) in partitions {
            if self.changed.contains(&key)
                && let Some(state) = self.states.remove(&key)
            {
                settled.states.push((partition, key, state));
            }
        }
        settled
    }
}
