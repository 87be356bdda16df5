//! Where an event stands in the ledger.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A place in the ledger: a partition, an offset in it (dense from 0) and the ledger's epoch.
///
/// As text `3:1042`, in later epochs `3:1042@1`. Clients treat it as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch: 0 until a restore has lost a tail.
    pub epoch: u32,
    /// The partition.
    pub partition: u32,
    /// The offset in that partition; -1 stands for "before the first".
    pub offset: i64,
}

impl Position {
    /// A position in epoch 0.
    #[must_use]
    pub const fn new(partition: u32, offset: i64) -> Self {
        Self {
            epoch: 0,
            partition,
            offset,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)?;
        if self.epoch > 0 {
            write!(f, "@{}", self.epoch)?;
        }
        Ok(())
    }
}

/// The text is no position.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a position is written <partition>:<offset>, for example 3:1042")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, epoch) = match text.split_once('@') {
            Some((place, epoch)) => (place, whole(epoch)?),
            None => (text, 0),
        };
        let (partition, offset) = place.split_once(':').ok_or(InvalidPosition)?;
        let offset = match offset {
            "-1" => -1,
            digits => whole(digits)?,
        };
        Ok(Self {
            epoch,
            partition: whole(partition)?,
            offset,
        })
    }
}

fn whole<T: FromStr>(digits: &str) -> Result<T, InvalidPosition> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidPosition);
    }
    digits.parse().map_err(|_| InvalidPosition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        for text in [
            "3:1042",
            "0:0",
            "63:9223372036854775807",
            "3:1042@1",
            "5:-1",
        ] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            ":",
            "3",
            "3:",
            ":4",
            "3:-2",
            "a:1",
            "3:1@",
            "3:+1",
            "3:1@x",
            "3:99999999999999999999",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(InvalidPosition), "{bad}");
        }
    }
}
