//! Epochs: where the ledger went on without a tail that a restore had lost.
//!
//! Each begins with a `ledger.epoch_started` in every partition, which says from which offset on it holds: its own, or an
//! earlier one where the ledger had gone on already. What an earlier epoch had there or after it never was, as far as this
//! ledger goes; what stood before it is the history of both.

use crate::event::{DecodeError, EpochStarted, Event};
use crate::position::Position;
use crate::row::Row;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the epochs of a ledger began. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    current: u32,
    /// Per partition the epochs after the first, ascending, and the offset that each holds from.
    starts: Arc<BTreeMap<u32, Vec<(u32, i64)>>>,
}

impl Epochs {
    /// Reads the starts of a ledger that is in the epoch `current`; rows of other types are stepped over.
    ///
    /// # Errors
    /// A start that this build cannot read.
    pub fn read<'a>(
        current: u32,
        rows: impl IntoIterator<Item = &'a Row>,
    ) -> Result<Self, DecodeError> {
        let mut starts: BTreeMap<u32, Vec<(u32, i64)>> = BTreeMap::new();
        for row in rows {
            if let Some(started) = started(row)? {
                let partition = starts.entry(row.partition).or_default();
                partition.push((started.epoch, started.from.min(row.offset)));
                partition.sort_unstable();
            }
        }
        Ok(Self {
            current,
            starts: Arc::new(starts),
        })
    }

    /// The epoch that the ledger is in.
    #[must_use]
    pub const fn current(&self) -> u32 {
        self.current
    }

    /// Where an offset stands: in the epoch that it was recorded in, so that a position never changes its name.
    #[must_use]
    pub fn position(&self, partition: u32, offset: i64) -> Position {
        let begun = self.of(partition).iter().rev();
        let epoch = begun
            .filter(|(_, from)| *from <= offset)
            .map(|(epoch, _)| *epoch)
            .next();
        Position {
            epoch: epoch.unwrap_or(0),
            partition,
            offset,
        }
    }

    /// The offset at which this ledger left the history of an epoch; none where it is in that history still.
    #[must_use]
    pub fn left(&self, partition: u32, epoch: u32) -> Option<i64> {
        let later = self.of(partition).iter().filter(|(it, _)| *it > epoch);
        later.map(|(_, from)| *from).min()
    }

    /// Whether a position is one of this ledger's history, reached yet or not: neither of a tail that was lost, nor of an
    /// epoch that has not begun.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        let left = self.left(position.partition, position.epoch);
        position.epoch <= self.current && left.is_none_or(|left| position.offset < left)
    }

    fn of(&self, partition: u32) -> &[(u32, i64)] {
        self.starts.get(&partition).map_or(&[], Vec::as_slice)
    }
}

/// The start of an epoch that a row is, if it is one.
fn started(row: &Row) -> Result<Option<EpochStarted>, DecodeError> {
    if !row.subject.is_empty() || &*row.event_type != "ledger.epoch_started" {
        return Ok(None);
    }
    match Event::decode(&row.event_type, row.type_version, &row.payload)? {
        Event::EpochStarted(started) => Ok(Some(started)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::{Place, epoch_start};
    use crate::row::Head;
    use crate::time::Timestamp;

    fn start(partition: u32, after: i64, epoch: u32, from: i64) -> Row {
        let head = Head {
            offset: after,
            hash: [7; 32],
            recorded_at: Timestamp::from_micros(5),
        };
        let place = Place {
            partition,
            head,
            before: None,
        };
        epoch_start(epoch, "lost", &[(place, from)], Timestamp::from_micros(1)).remove(0)
    }

    /// Fails when positions are named by the ledger's epoch, and when a lost offset is taken for one that is there.
    #[test]
    fn a_position_is_of_its_own_epoch_and_lost_ones_are_known() {
        let rows = [
            start(0, 9, 1, 10),
            start(0, 14, 2, 15),
            start(1, -1, 1, 0),
            start(1, 3, 2, 4),
            start(2, 9, 1, 6),
        ];
        let epochs = Epochs::read(2, &rows).unwrap();
        let named = |partition, offset| epochs.position(partition, offset).to_string();
        for (partition, offset, text) in [
            (0, 9, "0:9"),
            (0, 10, "0:10@1"),
            (0, 14, "0:14@1"),
            (0, 15, "0:15@2"),
            (1, 0, "1:0@1"),
            (1, 4, "1:4@2"),
            (2, 5, "2:5"),
            (2, 6, "2:6@1"),
        ] {
            assert_eq!(named(partition, offset), text);
        }
        let holds = |text: &str| epochs.holds(text.parse().unwrap());
        for there in [
            "0:9", "0:10@1", "0:14@1", "0:15@2", "0:99@2", "0:3@2", "1:3@1",
        ] {
            assert!(holds(there), "{there}");
        }
        for gone in ["0:10", "0:15", "0:15@1", "1:0", "1:4@1", "0:3@3", "2:6"] {
            assert!(!holds(gone), "{gone}");
        }
        assert_eq!(epochs.left(0, 0), Some(10));
        assert_eq!(epochs.left(0, 1), Some(15));
        assert_eq!(epochs.left(0, 2), None);
        assert!(Epochs::default().holds("5:7".parse().unwrap()));
        assert_eq!(Epochs::default().position(5, 7).to_string(), "5:7");
    }
}
