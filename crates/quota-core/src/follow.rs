//! The one way to follow partitions: the topic while it flows, the ledger wherever it does not.
//!
//! A [`Follower`] is told of records (from the topic, or a node's own commits), of the ledger's heads, of what ledger
//! reads brought, and of the time; it hands out every row of each partition exactly once and in order, and says which
//! range to read. So there is no second mode for a topic that lost a record, came late, or is away.
//!
//! Its shell drains [`Follower::output`] after every input, and does what is asked there. Time is a monotonic count
//! of microseconds.

use std::collections::{BTreeMap, VecDeque};

/// How a follower goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Records that are kept, for each partition, while a hole before them is healed; the ledger has the rest.
    pub ahead: usize,
    /// The most rows that one read of the ledger asks for.
    pub range: i64,
    /// After how many microseconds without a row, while there is one, the ledger is asked; also between two attempts.
    pub silence: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            ahead: 1_024,
            range: 1_000,
            silence: 1_000_000,
        }
    }
}

/// What a follower wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<T> {
    /// Apply the partition's next row.
    Row {
        /// The partition.
        partition: u32,
        /// The row's offset.
        offset: i64,
        /// The row.
        row: T,
    },
    /// Read these offsets from the ledger, ends included, then call [`Follower::range`] or
    /// [`Follower::range_failed`] with the ticket. The partition asks for no other range until then.
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
    /// The ledger has begun this epoch: what was known of the partition may be of a lost tail. Drop it, and call
    /// [`Follower::follow`] again; until then the partition is still.
    Epoch {
        /// The partition.
        partition: u32,
        /// The new epoch.
        epoch: u32,
    },
}

/// Follows any number of partitions.
#[derive(Debug)]
pub struct Follower<T> {
    rules: Rules,
    partitions: BTreeMap<u32, Partition<T>>,
    outputs: VecDeque<Output<T>>,
    tickets: u64,
}

/// How many readings of the head are remembered while rows before them are missing.
const MARKS: usize = 16;

#[derive(Debug)]
struct Partition<T> {
    epoch: u32,
    /// The offset that is handed out next.
    next: i64,
    /// Rows that came before their turn; all after `next`.
    ahead: BTreeMap<i64, T>,
    /// The last offset that is known to exist; -1 for none.
    head: i64,
    /// Since when there is something to come, and nothing came.
    quiet_since: Option<i64>,
    /// The range that is being read.
    reading: Option<Reading>,
    /// No reading before that time.
    not_before: i64,
    /// Heads that were read, and when; the rows before them are still missing.
    marks: VecDeque<(i64, i64)>,
    /// The last time at which it was surely at the head.
    at_head: Option<i64>,
    /// A later epoch was seen.
    still: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    ticket: u64,
    to: i64,
}

impl<T> Follower<T> {
    /// Follows nothing yet.
    #[must_use]
    pub const fn new(rules: Rules) -> Self {
        Self {
            rules,
            partitions: BTreeMap::new(),
            outputs: VecDeque::new(),
            tickets: 0,
        }
    }

    /// Follows a partition from the offset `next` on, in that epoch; anything known of it before is forgotten.
    pub fn follow(&mut self, partition: u32, epoch: u32, next: i64) {
        self.forget(partition);
        let fresh = Partition {
            epoch,
            next,
            ahead: BTreeMap::new(),
            head: -1,
            quiet_since: None,
            reading: None,
            not_before: i64::MIN,
            marks: VecDeque::new(),
            at_head: None,
            still: false,
        };
        self.partitions.insert(partition, fresh);
    }

    /// Follows a partition no longer; what was to be done for it is dropped.
    pub fn forget(&mut self, partition: u32) {
        self.partitions.remove(&partition);
        self.outputs.retain(|output| match output {
            Output::Row { partition: of, .. }
            | Output::Read { partition: of, .. }
            | Output::Epoch { partition: of, .. } => *of != partition,
        });
    }

    /// Whether a record is worth decoding: it is neither seen nor of an epoch that is over.
    #[must_use]
    pub fn wants(&self, partition: u32, epoch: u32, offset: i64) -> bool {
        self.partitions.get(&partition).is_some_and(|followed| {
            let unseen = offset >= followed.next && !followed.ahead.contains_key(&offset);
            !followed.still && (epoch > followed.epoch || (epoch == followed.epoch && unseen))
        })
    }

    /// A record came, from the topic or as a commit of this node's own.
    pub fn record(&mut self, partition: u32, epoch: u32, offset: i64, row: T, now: i64) {
        if !self.wants(partition, epoch, offset) {
            return;
        }
        let Some(followed) = self.partitions.get_mut(&partition) else {
            return;
        };
        if epoch > followed.epoch {
            followed.still = true;
            followed.ahead.clear();
            self.outputs.push_back(Output::Epoch { partition, epoch });
            return;
        }
        followed.ahead.insert(offset, row);
        followed.exists(offset, now);
        followed.hand_out(partition, &mut self.outputs, now);
        if followed.ahead.len() > self.rules.ahead {
            followed.ahead.pop_last();
        }
        self.read_if_due(partition, now);
    }

    /// The ledger's head was read; the reading began at `asked_at`. -1 for an empty partition.
    pub fn head(&mut self, partition: u32, head: i64, asked_at: i64, now: i64) {
        let Some(followed) = self.partitions.get_mut(&partition) else {
            return;
        };
        if followed.marks.len() >= MARKS {
            // Of many heads that are still to be reached the first tells soonest, the last tells most.
            followed.marks.pop_back();
        }
        followed.marks.push_back((head, asked_at));
        followed.exists(head, now);
        followed.pass_marks();
        self.read_if_due(partition, now);
    }

    /// What a read of the ledger brought, by offset; less than was asked for is no fault.
    pub fn range(&mut self, partition: u32, ticket: u64, rows: Vec<(i64, T)>, now: i64) {
        let reading = self.finish(partition, ticket);
        let Some((followed, reading)) = self.partitions.get_mut(&partition).zip(reading) else {
            return;
        };
        let before = followed.next;
        for (offset, row) in rows {
            if offset == followed.next {
                // What the topic brought in the meantime comes first: it is the same row.
                followed.ahead.insert(offset, row);
                followed.hand_out(partition, &mut self.outputs, now);
            }
        }
        if followed.next > reading.to {
            // The topic was silent until now; it is not given another second for each range.
            if followed.quiet_since.is_some() {
                followed.quiet_since = Some(now.saturating_sub(self.rules.silence));
            }
        } else if followed.next == before {
            followed.not_before = now.saturating_add(self.rules.silence);
        }
        self.read_if_due(partition, now);
    }

    /// A read of the ledger failed; it is asked again after a while.
    pub fn range_failed(&mut self, partition: u32, ticket: u64, now: i64) {
        let finished = self.finish(partition, ticket);
        if let Some((followed, _)) = self.partitions.get_mut(&partition).zip(finished) {
            followed.not_before = now.saturating_add(self.rules.silence);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: i64) {
        let partitions: Vec<u32> = self.partitions.keys().copied().collect();
        for partition in partitions {
            self.read_if_due(partition, now);
        }
    }

    /// When [`Follower::tick`] has something to do, if nothing comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        let due = |followed: &Partition<T>| followed.due_at(&self.rules);
        self.partitions.values().filter_map(due).min()
    }

    /// What is to be done, in order.
    pub fn output(&mut self) -> Option<Output<T>> {
        self.outputs.pop_front()
    }

    /// The offset that a partition hands out next; all before it were handed out.
    #[must_use]
    pub fn next(&self, partition: u32) -> Option<i64> {
        self.partitions
            .get(&partition)
            .map(|followed| followed.next)
    }

    /// How many rows a partition is known to lack.
    #[must_use]
    pub fn lag(&self, partition: u32) -> Option<i64> {
        let followed = self.partitions.get(&partition)?;
        let last = followed.next.saturating_sub(1);
        Some(followed.head.saturating_sub(last).max(0))
    }

    /// Microseconds since what was handed out was surely all that there was; none if it never was.
    #[must_use]
    pub fn age(&self, partition: u32, now: i64) -> Option<i64> {
        let at_head = self.partitions.get(&partition)?.at_head?;
        Some(now.saturating_sub(at_head).max(0))
    }

    /// The reading that the ticket names, if it is still of use.
    fn finish(&mut self, partition: u32, ticket: u64) -> Option<Reading> {
        let followed = self.partitions.get_mut(&partition)?;
        let mine = |reading: &mut Reading| reading.ticket == ticket;
        let reading = followed.reading.take_if(mine);
        reading.filter(|_| !followed.still)
    }

    fn read_if_due(&mut self, partition: u32, now: i64) {
        let rules = self.rules;
        let Some(followed) = self.partitions.get_mut(&partition) else {
            return;
        };
        if followed.due_at(&rules).is_none_or(|due| due > now) {
            return;
        }
        let most = followed.next.saturating_add(rules.range.max(1) - 1);
        let hole = followed.ahead.first_key_value().map(|(first, _)| first - 1);
        let to = hole.unwrap_or(followed.head).min(most);
        self.tickets += 1;
        let ticket = self.tickets;
        followed.reading = Some(Reading { ticket, to });
        let from = followed.next;
        self.outputs.push_back(Output::Read {
            ticket,
            partition,
            from,
            to,
        });
    }
}

impl<T> Partition<T> {
    /// An offset is known to exist.
    fn exists(&mut self, offset: i64, now: i64) {
        self.head = self.head.max(offset);
        if self.head >= self.next && self.quiet_since.is_none() {
            self.quiet_since = Some(now);
        }
    }

    /// Hands out what has its turn.
    fn hand_out(&mut self, partition: u32, outputs: &mut VecDeque<Output<T>>, now: i64) {
        let before = self.next;
        while let Some(row) = self.ahead.remove(&self.next) {
            let offset = self.next;
            outputs.push_back(Output::Row {
                partition,
                offset,
                row,
            });
            self.next += 1;
        }
        if self.next > before {
            self.head = self.head.max(self.next - 1);
            self.quiet_since = (self.head >= self.next).then_some(now);
            self.pass_marks();
        }
    }

    /// Heads that were reached say as of when the partition is known.
    fn pass_marks(&mut self) {
        while let Some((head, as_of)) = self.marks.front().copied()
            && head < self.next
        {
            self.at_head = self.at_head.max(Some(as_of));
            self.marks.pop_front();
        }
    }

    /// When the ledger is to be read, if nothing comes: at once for a hole, after a silence for what must exist.
    fn due_at(&self, rules: &Rules) -> Option<i64> {
        if self.still || self.reading.is_some() {
            return None;
        }
        let due = if self.ahead.is_empty() {
            self.quiet_since?.saturating_add(rules.silence)
        } else {
            i64::MIN
        };
        Some(due.max(self.not_before))
    }
}
