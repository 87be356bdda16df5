//! The rule of the relay: every row of the ledger goes to the topic, in order, at least once.
//!
//! A [`Relay`] starts from the topic's own last records, never from a cursor of its own, so that a topic that was
//! emptied or made anew is found and filled again; but a broker that forgets is not asked ([`Relay::forgetful`]). It is told of tails and heads, of rows that this node committed
//! or that a read brought, and of what came of publishing; it says what to read and what to publish. One run of each
//! partition is on its way at a time, so that runs land in order however its shell sends them.
//!
//! Its shell drains [`Relay::output`] after every input, and does what is asked there. Time is a monotonic count of
//! microseconds.

mod partition;
mod port;

pub use port::{Ends, Output, Rules, Stop, Tail};

use partition::{Course, Partition, offset_of};
use std::collections::{BTreeMap, VecDeque};

/// Carries any number of partitions from the ledger to the topic.
#[derive(Debug)]
pub struct Relay<T> {
    rules: Rules,
    epoch: u32,
    /// The broker forgets: what it holds says nothing.
    forgetful: bool,
    partitions: BTreeMap<u32, Partition<T>>,
    outputs: VecDeque<Output<T>>,
    tickets: u64,
    /// Rows in hand.
    held: usize,
    /// Some partition wanted to read, and too many rows were in hand.
    starved: bool,
    /// Whose turn it is when rows can be read again.
    turn: u32,
    /// The reading of tails that is under way.
    asking: Option<u64>,
    /// When tails are read next.
    tails_at: i64,
}

impl<T> Relay<T> {
    /// A relay of these partitions, in the ledger's present epoch; it asks for tails first.
    #[must_use]
    pub fn new(
        rules: Rules,
        epoch: u32,
        partitions: impl IntoIterator<Item = u32>,
        now: i64,
    ) -> Self {
        let fresh = |partition| (partition, Partition::new());
        let partitions = partitions.into_iter().map(fresh).collect();
        let mut relay = Self::over(rules, epoch, partitions, now);
        relay.tick(now);
        relay
    }

    /// A relay to a broker that forgets: each partition begins after this offset, and its tail is never asked for. After
    /// a failure it goes on from what was acknowledged.
    #[must_use]
    pub fn forgetful(
        rules: Rules,
        epoch: u32,
        partitions: impl IntoIterator<Item = (u32, i64)>,
    ) -> Self {
        let after = |(partition, offset)| (partition, Partition::after(offset));
        let partitions = partitions.into_iter().map(after).collect();
        let mut relay = Self::over(rules, epoch, partitions, i64::MAX);
        relay.forgetful = true;
        relay
    }

    const fn over(
        rules: Rules,
        epoch: u32,
        partitions: BTreeMap<u32, Partition<T>>,
        tails_at: i64,
    ) -> Self {
        Self {
            rules,
            epoch,
            forgetful: false,
            partitions,
            outputs: VecDeque::new(),
            tickets: 0,
            held: 0,
            starved: false,
            turn: 0,
            asking: None,
            tails_at,
        }
    }

    /// The ends of the partitions, as [`Output::Tails`] asked; those left out stay as they are.
    pub fn tails(&mut self, ticket: u64, ends: &BTreeMap<u32, Ends>, now: i64) {
        if self.asking.take_if(|asked| *asked == ticket).is_none() {
            return;
        }
        self.tails_at = now.saturating_add(self.rules.check);
        for (number, ends) in ends {
            let Some(partition) = self.partitions.get_mut(number) else {
                continue;
            };
            let news = partition.compare(*ends, self.epoch);
            let let_go = partition.turn_about();
            self.held = self.held.saturating_sub(let_go);
            if let Some(why) = news {
                let partition = *number;
                self.outputs.push_back(Output::Stopped { partition, why });
            }
        }
        let courses = || self.partitions.values().map(|partition| partition.course);
        if courses().any(|course| course == Course::Unknown) {
            self.tails_at = now.saturating_add(self.rules.backoff);
        } else if courses().any(|course| matches!(course, Course::Stopped(_))) {
            // Somebody is at it, and waits for it to go on.
            let soon = self.rules.backoff.saturating_mul(10).min(self.rules.check);
            self.tails_at = now.saturating_add(soon);
        }
        self.read_all(now);
    }

    /// Tails or heads could not be read.
    pub fn tails_failed(&mut self, ticket: u64, now: i64) {
        if self.asking.take_if(|asked| *asked == ticket).is_some() {
            self.tails_at = now.saturating_add(self.rules.backoff);
        }
    }

    /// The ledger's head was read.
    pub fn head(&mut self, partition: u32, head: i64, now: i64) {
        if let Some(found) = self.partitions.get_mut(&partition) {
            found.head = found.head.max(head);
            self.read(partition, now);
        }
    }

    /// This node committed these rows, the first at that offset: what fits on is published without reading it again.
    pub fn committed(&mut self, partition: u32, first: i64, rows: Vec<T>, now: i64) {
        let Some(found) = self.partitions.get_mut(&partition) else {
            return;
        };
        let count = rows.len();
        let last = first.saturating_add(offset_of(count)) - 1;
        found.head = found.head.max(last);
        let room = self.rules.hold.saturating_sub(self.held);
        if found.course == Course::Running && found.cursor == first && count <= room {
            found.take(rows);
            self.held += count;
        }
        self.publish(partition);
        self.read(partition, now);
    }

    /// What a read brought, by offset; less than was asked for is no fault.
    pub fn rows(&mut self, partition: u32, ticket: u64, rows: Vec<(i64, T)>, now: i64) {
        let Some(found) = self.finish_read(partition, ticket) else {
            return;
        };
        let before = found.cursor;
        if found.course == Course::Running {
            for (offset, row) in rows {
                if offset == found.cursor {
                    found.take([row]);
                }
            }
        }
        let taken = usize::try_from(found.cursor - before).unwrap_or_default();
        self.held += taken;
        if taken == 0 {
            self.wait(partition, now);
        }
        self.publish(partition);
        self.read_all_if_starved(now);
        self.read(partition, now);
    }

    /// A read failed; it is asked again after a while.
    pub fn rows_failed(&mut self, partition: u32, ticket: u64, now: i64) {
        if self.finish_read(partition, ticket).is_some() {
            self.wait(partition, now);
        }
    }

    /// A run is in the topic.
    pub fn published(&mut self, partition: u32, ticket: u64, now: i64) {
        let Some(found) = self.partitions.get_mut(&partition) else {
            return;
        };
        let Some((_, count)) = found.sending.take_if(|(sent, _)| *sent == ticket) else {
            return;
        };
        let let_go = found.turn_about();
        self.held = self.held.saturating_sub(count + let_go);
        self.publish(partition);
        self.read_all_if_starved(now);
        self.read(partition, now);
    }

    /// Something could not be published, so nobody knows what is in the topic: all that is on its way is void, and
    /// its publisher with it. Tails tell where to go on.
    pub fn cut(&mut self, now: i64) {
        self.outputs.clear();
        let again = now.saturating_add(self.rules.backoff);
        for partition in self.partitions.values_mut() {
            let acknowledged = partition.acknowledged();
            partition.waiting.clear();
            partition.sending = None;
            partition.reading = None;
            if self.forgetful {
                partition.cursor = acknowledged + 1;
                partition.not_before = again;
            } else if !matches!(partition.course, Course::Stopped(_)) {
                partition.course = Course::Unknown;
            }
        }
        self.held = 0;
        self.starved = false;
        self.asking = None;
        if !self.forgetful {
            self.tails_at = again;
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: i64) {
        if self.asking.is_none() && !self.forgetful && now >= self.tails_at {
            let ticket = self.ticket();
            self.asking = Some(ticket);
            for partition in self.partitions.values_mut() {
                partition.asked_at = partition.acknowledged();
            }
            self.outputs.push_back(Output::Tails { ticket });
        }
        self.read_all(now);
    }

    /// When [`Relay::tick`] has something to do, if nothing comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<i64> {
        let tails = (self.asking.is_none() && !self.forgetful).then_some(self.tails_at);
        let room = self.held < self.rules.hold;
        let waits = |partition: &Partition<T>| {
            (room && partition.lacks() > 0).then_some(partition.not_before)
        };
        let reads = self.partitions.values().filter_map(waits);
        reads.chain(tails).min()
    }

    /// What is to be done, in order.
    pub fn output(&mut self) -> Option<Output<T>> {
        self.outputs.pop_front()
    }

    /// How many rows of a partition are not in the topic yet; none before its tail is known.
    #[must_use]
    pub fn lag(&self, partition: u32) -> Option<i64> {
        let found = self.partitions.get(&partition)?;
        (found.course == Course::Running).then(|| (found.head - found.acknowledged()).max(0))
    }

    /// Why a partition is not relayed, where it is not.
    #[must_use]
    pub fn stopped(&self, partition: u32) -> Option<Stop> {
        match self.partitions.get(&partition)?.course {
            Course::Stopped(why) => Some(why),
            _ => None,
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn wait(&mut self, partition: u32, now: i64) {
        if let Some(found) = self.partitions.get_mut(&partition) {
            found.not_before = now.saturating_add(self.rules.backoff);
        }
    }

    fn finish_read(&mut self, partition: u32, ticket: u64) -> Option<&mut Partition<T>> {
        let found = self.partitions.get_mut(&partition)?;
        let (_, kept) = found.reading.take_if(|(asked, _)| *asked == ticket)?;
        found.not_before = i64::MIN;
        self.held = self.held.saturating_sub(kept);
        Some(found)
    }

    /// Sends a partition's next run, if none is on its way.
    fn publish(&mut self, partition: u32) {
        let run = self.rules.run.max(1);
        let Some(found) = self.partitions.get_mut(&partition) else {
            return;
        };
        if found.course != Course::Running || found.sending.is_some() || found.waiting.is_empty() {
            return;
        }
        let first = found.cursor - offset_of(found.waiting.len());
        let count = found.waiting.len().min(run);
        let rows: Vec<T> = found.waiting.drain(..count).collect();
        self.tickets += 1;
        let ticket = self.tickets;
        found.sending = Some((ticket, count));
        self.outputs.push_back(Output::Publish {
            ticket,
            partition,
            first,
            rows,
        });
    }

    /// Asks for a partition's next rows, if it lacks some and there is room.
    fn read(&mut self, partition: u32, now: i64) {
        let room = self
            .rules
            .hold
            .saturating_sub(self.held)
            .min(self.rules.run.max(1));
        let Some(found) = self.partitions.get_mut(&partition) else {
            return;
        };
        let lacks = usize::try_from(found.lacks()).unwrap_or(usize::MAX);
        if lacks == 0 || found.not_before > now {
            return;
        }
        if room == 0 {
            self.starved = true;
            return;
        }
        let count = lacks.min(room);
        let (from, to) = (found.cursor, found.cursor + offset_of(count) - 1);
        self.tickets += 1;
        let ticket = self.tickets;
        found.reading = Some((ticket, count));
        self.held += count;
        self.turn = partition + 1;
        self.outputs.push_back(Output::Read {
            ticket,
            partition,
            from,
            to,
        });
    }

    fn read_all_if_starved(&mut self, now: i64) {
        if self.starved && self.held < self.rules.hold {
            self.read_all(now);
        }
    }

    /// Lets every partition read, beginning after the one that read last.
    fn read_all(&mut self, now: i64) {
        self.starved = false;
        let after = self
            .partitions
            .range(self.turn..)
            .map(|(number, _)| *number);
        let before = self
            .partitions
            .range(..self.turn)
            .map(|(number, _)| *number);
        let all: Vec<u32> = after.chain(before).collect();
        for partition in all {
            self.read(partition, now);
        }
    }
}
