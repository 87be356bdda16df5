//! What a relay is told, and what it wants done.

/// How a relay goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most rows of one run, and of one read.
    pub run: usize,
    /// The most rows in hand, over all partitions: asked for, waiting, or published and not acknowledged.
    pub hold: usize,
    /// After how many microseconds tails are looked at again, for a topic that lost records while nobody looked.
    pub check: i64,
    /// How long to wait after a failure, in microseconds.
    pub backoff: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            run: 500,
            hold: 20_000,
            check: 60_000_000,
            backoff: 500_000,
        }
    }
}

/// The last record of a partition of the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The ledger's offset in its header.
    pub offset: i64,
    /// The epoch in its header.
    pub epoch: u32,
    /// Its own offset in the topic. A topic that holds every row has at least as many records: where this is less
    /// than the ledger's offset, or fell behind it since the last look, records were lost before this one.
    pub at: i64,
}

/// Where a partition ends: in the topic first, then, read after that, in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The topic's last record; none where it is empty.
    pub topic: Option<Tail>,
    /// The ledger's head; -1 where it is empty.
    pub ledger: i64,
    /// Where the ledger went on without what the topic has: the offset of the first `ledger.epoch_started` after the
    /// tail's epoch; none where the tail is of the ledger's epoch.
    pub fork: Option<i64>,
}

/// Why a partition is not relayed, until the tails say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The topic has rows that the ledger lost: it has to be recovered first.
    TopicAhead {
        /// The topic's last offset.
        topic: i64,
        /// The ledger's.
        ledger: i64,
    },
    /// The topic is of an epoch that this process does not know: it has to be started again.
    LaterEpoch {
        /// The topic's epoch.
        epoch: u32,
    },
}

/// What a relay wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<T> {
    /// Read the topic's tails, then the ledger's heads, and call [`super::Relay::tails`] or [`super::Relay::tails_failed`].
    Tails {
        /// Names this reading.
        ticket: u64,
    },
    /// Read these offsets from the ledger, ends included, then call [`super::Relay::rows`] or [`super::Relay::rows_failed`].
    Read {
        /// Names this reading.
        ticket: u64,
        /// The partition.
        partition: u32,
        /// The first offset.
        from: i64,
        /// The last offset.
        to: i64,
    },
    /// Publish these rows in this order, then call [`super::Relay::published`]; or, where anything fails, [`super::Relay::cut`].
    Publish {
        /// Names this run.
        ticket: u64,
        /// The partition.
        partition: u32,
        /// The first row's offset; the others follow without a gap.
        first: i64,
        /// The rows.
        rows: Vec<T>,
    },
    /// Raise an alarm: this partition is not relayed.
    Stopped {
        /// The partition.
        partition: u32,
        /// Why.
        why: Stop,
    },
}
