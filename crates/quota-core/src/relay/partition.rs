//! One partition on its way from the ledger to the topic.

use super::{Ends, Stop, Tail};
use std::collections::VecDeque;

/// What a relay knows of one partition.
#[derive(Debug)]
pub(super) struct Partition<T> {
    /// Which way it goes.
    pub course: Course,
    /// The first offset that is neither in hand nor published.
    pub cursor: i64,
    /// The ledger's head, as far as known.
    pub head: i64,
    /// Rows in hand, the last of them just before the cursor.
    pub waiting: VecDeque<T>,
    /// The run on its way: its ticket and its rows.
    pub sending: Option<(u64, usize)>,
    /// The read under way: its ticket and the rows that room is kept for.
    pub reading: Option<(u64, usize)>,
    /// No read before that time.
    pub not_before: i64,
    /// The last offset that was acknowledged when tails were last asked for.
    pub asked_at: i64,
    /// The topic's tail at the last look.
    pub seen: Option<Tail>,
}

/// Which way a partition goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// The topic's tail is not known yet.
    Unknown,
    /// Under way.
    Running,
    /// Going back to this offset, when the run on its way has landed.
    Back(i64),
    /// Stopped.
    Stopped(Stop),
}

impl<T> Partition<T> {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self {
            course: Course::Unknown,
            cursor: 0,
            head: -1,
            waiting: VecDeque::new(),
            sending: None,
            reading: None,
            not_before: i64::MIN,
            asked_at: -1,
            seen: None,
        }
    }

    /// Under way, with everything up to this offset behind it.
    pub fn after(offset: i64) -> Self {
        Self {
            course: Course::Running,
            cursor: offset + 1,
            head: offset,
            ..Self::new()
        }
    }

    /// Takes rows in hand, the first of them at the cursor.
    pub fn take(&mut self, rows: impl IntoIterator<Item = T>) {
        let before = self.waiting.len();
        self.waiting.extend(rows);
        self.cursor += offset_of(self.waiting.len() - before);
    }

    /// The last offset that is surely in the topic.
    pub fn acknowledged(&self) -> i64 {
        let sending = self.sending.map_or(0, |(_, count)| count);
        self.cursor - offset_of(self.waiting.len() + sending) - 1
    }

    /// How many rows could be read now.
    pub fn lacks(&self) -> i64 {
        let idle = self.course == Course::Running && self.reading.is_none();
        if idle {
            (self.head - self.cursor + 1).max(0)
        } else {
            0
        }
    }

    /// Drops the rows that wait, and says how many those were.
    fn drop_waiting(&mut self) -> usize {
        let count = self.waiting.len();
        self.cursor -= offset_of(count);
        self.waiting.clear();
        count
    }

    /// Judges the ends: where to begin, whether to go back, or why to stop.
    pub fn compare(&mut self, ends: Ends, epoch: u32) -> Option<Stop> {
        self.head = self.head.max(ends.ledger);
        let has = match ends.topic {
            None => -1,
            Some(tail) if tail.epoch > epoch => {
                let epoch = tail.epoch;
                return self.stop(Stop::LaterEpoch { epoch });
            }
            // What the topic has after the fork never was, as far as this ledger goes.
            Some(tail) => ends
                .fork
                .map_or(tail.offset, |fork| tail.offset.min(fork - 1)),
        };
        if has > ends.ledger {
            let (topic, ledger) = (has, ends.ledger);
            return self.stop(Stop::TopicAhead { topic, ledger });
        }
        let lost = self.first_lost(ends.topic);
        let next = lost.map_or(has + 1, |lost| lost.min(has + 1));
        match self.course {
            Course::Unknown | Course::Stopped(_) => self.course = Course::Back(next),
            // What was acknowledged before the tails were asked for is gone.
            Course::Running if next <= self.asked_at => self.course = Course::Back(next),
            Course::Running | Course::Back(_) => {}
        }
        None
    }

    /// The first row that the topic may have lost before its last record.
    fn first_lost(&mut self, tail: Option<Tail>) -> Option<i64> {
        let before = std::mem::replace(&mut self.seen, tail);
        let tail = tail?;
        if tail.at < tail.offset {
            // It was made anew while somebody published to it.
            return Some(0);
        }
        let before = before.filter(|before| before.epoch == tail.epoch)?;
        // Records beyond one for each row; along a topic that lost none, they only grow.
        let lost = (before.at - before.offset) - (tail.at - tail.offset);
        (lost > 0).then(|| (before.offset + 1 - lost).max(0))
    }

    fn stop(&mut self, why: Stop) -> Option<Stop> {
        let news = self.course != Course::Stopped(why);
        self.course = Course::Stopped(why);
        news.then_some(why)
    }

    /// Lets go of what waits where the partition is not to go on with it, and goes back as soon as nothing is on its
    /// way; says how many rows are let go.
    pub fn turn_about(&mut self) -> usize {
        if self.course == Course::Running {
            return 0;
        }
        let count = self.drop_waiting();
        if let Course::Back(to) = self.course
            && self.sending.is_none()
        {
            self.cursor = to;
            self.course = Course::Running;
        }
        count
    }
}

/// A number of rows as a distance between offsets.
pub(super) fn offset_of(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
