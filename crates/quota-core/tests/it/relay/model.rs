//! A relay among failures: whatever happens, every row is in the topic in the end.

use super::{RULES, rows};
use proptest::prelude::*;
use quota_core::relay::{Ends, Output, Relay, Tail};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    /// Rows are committed by this node, or by another.
    Commit(usize, bool),
    /// The head is read.
    Head,
    /// The oldest read ends: it fails, or brings its first rows.
    Answer(Option<usize>),
    /// A run lands and is acknowledged.
    Land(usize),
    /// A run lands up to there, and the publisher is cut; other runs land, later, or do not.
    Cut(usize, usize),
    /// A run of a publisher that was cut lands after all.
    Haunt(usize),
    /// Tails are read, or cannot be.
    Tails(bool),
    /// Time passes.
    Wait(i64),
    /// The topic loses its last records.
    Lose(usize),
}

/// What happens; `cuts` says whether publishers are cut.
fn steps(cuts: bool) -> impl Strategy<Value = Vec<(u32, Step)>> {
    let cuts = u32::from(cuts);
    let step = prop_oneof![
        4 => (1..6_usize, any::<bool>()).prop_map(|(count, own)| Step::Commit(count, own)),
        1 => Just(Step::Head),
        3 => proptest::option::weighted(0.8, 0..6_usize).prop_map(Step::Answer),
        4 => (0..2_usize).prop_map(Step::Land),
        cuts => (0..2_usize, 0..5_usize).prop_map(|(run, count)| Step::Cut(run, count)),
        cuts => (0..4_usize).prop_map(Step::Haunt),
        2 => any::<bool>().prop_map(Step::Tails),
        2 => prop_oneof![1..700_000_i64, 1..70_000_000_i64].prop_map(Step::Wait),
    ];
    proptest::collection::vec((0..2_u32, step), 0..150)
}

/// Two partitions, their topic, and what is under way between them.
struct World {
    relay: Relay<i64>,
    heads: [i64; 2],
    topic: [Vec<i64>; 2],
    reads: Vec<(u64, u32, i64, i64)>,
    runs: Vec<(u64, u32, Vec<i64>)>,
    ghosts: Vec<(u32, Vec<i64>)>,
    tails: Option<u64>,
    now: i64,
}

impl World {
    fn new() -> Self {
        let relay = Relay::new(RULES, 0, [0, 1], 0);
        let (topic, reads, runs, ghosts) = Default::default();
        let mut world = Self {
            relay,
            heads: [-1; 2],
            topic,
            reads,
            runs,
            ghosts,
            tails: None,
            now: 0,
        };
        world.drain();
        world
    }

    fn step(&mut self, partition: u32, step: &Step) {
        let index = partition as usize;
        match *step {
            Step::Commit(count, own) => {
                let first = self.heads[index] + 1;
                self.heads[index] += count as i64;
                if own {
                    self.relay.committed(
                        partition,
                        first,
                        (first..=self.heads[index]).collect(),
                        self.now,
                    );
                }
            }
            Step::Head => self.relay.head(partition, self.heads[index], self.now),
            Step::Answer(brought) => self.answer(brought),
            Step::Land(which) => {
                if let Some((ticket, partition, rows)) = self.take_run(which) {
                    self.topic[partition as usize].extend(rows);
                    self.relay.published(partition, ticket, self.now);
                }
            }
            Step::Cut(which, count) => {
                if let Some((_, partition, rows)) = self.take_run(which) {
                    self.topic[partition as usize].extend(rows.into_iter().take(count));
                    let void = std::mem::take(&mut self.runs).into_iter();
                    self.ghosts
                        .extend(void.map(|(_, partition, rows)| (partition, rows)));
                    self.tails = None;
                    self.relay.cut(self.now);
                }
            }
            Step::Haunt(which) => {
                if !self.ghosts.is_empty() {
                    let (partition, rows) = self.ghosts.remove(which % self.ghosts.len());
                    self.topic[partition as usize].extend(rows);
                }
            }
            Step::Tails(readable) => self.read_tails(readable),
            Step::Wait(time) => {
                self.now += time;
                self.relay.tick(self.now);
            }
            Step::Lose(count) => {
                let left = self.topic[index].len().saturating_sub(count);
                self.topic[index].truncate(left);
            }
        }
        self.drain();
    }

    fn take_run(&mut self, which: usize) -> Option<(u64, u32, Vec<i64>)> {
        (!self.runs.is_empty()).then(|| self.runs.remove(which % self.runs.len()))
    }

    fn answer(&mut self, brought: Option<usize>) {
        if self.reads.is_empty() {
            return;
        }
        let (ticket, partition, from, to) = self.reads.remove(0);
        match brought {
            None => self.relay.rows_failed(partition, ticket, self.now),
            Some(count) => {
                let mut rows = rows(from, to);
                rows.truncate(count);
                self.relay.rows(partition, ticket, rows, self.now);
            }
        }
    }

    fn read_tails(&mut self, readable: bool) {
        let Some(ticket) = self.tails.take() else {
            return;
        };
        if readable {
            let of = |index: usize| {
                let topic = self.topic[index].last().map(|offset| Tail {
                    offset: *offset,
                    epoch: 0,
                    at: self.topic[index].len() as i64 - 1,
                });
                Ends {
                    topic,
                    ledger: self.heads[index],
                    fork: None,
                }
            };
            let ends = BTreeMap::from([(0, of(0)), (1, of(1))]);
            self.relay.tails(ticket, &ends, self.now);
        } else {
            self.relay.tails_failed(ticket, self.now);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.relay.output() {
            match output {
                Output::Tails { ticket } => assert!(self.tails.replace(ticket).is_none()),
                Output::Read {
                    ticket,
                    partition,
                    from,
                    to,
                } => {
                    assert!(from <= to && to <= self.heads[partition as usize]);
                    self.reads.push((ticket, partition, from, to));
                }
                Output::Publish {
                    ticket,
                    partition,
                    first,
                    rows,
                } => {
                    assert!(
                        rows.len() <= RULES.run && self.runs.iter().all(|run| run.1 != partition)
                    );
                    assert!(
                        rows.iter().copied().eq(first..first + rows.len() as i64),
                        "{first} {rows:?}"
                    );
                    self.runs.push((ticket, partition, rows));
                }
                Output::Stopped { .. } => panic!("{output:?}"),
            }
        }
        let on_its_way: usize = self.runs.iter().map(|run| run.2.len()).sum();
        assert!(on_its_way <= RULES.hold);
    }

    /// Nothing fails any more; twice the time after which lost records are looked for goes by.
    fn settle(&mut self) {
        let end = self.now + 2 * RULES.check + 10;
        loop {
            for partition in 0..2 {
                self.step(partition, &Step::Head);
            }
            while !(self.reads.is_empty() && self.runs.is_empty() && self.tails.is_none()) {
                self.step(0, &Step::Tails(true));
                self.step(0, &Step::Answer(Some(9)));
                self.step(0, &Step::Land(0));
            }
            if self.now > end {
                break;
            }
            let due = self.relay.deadline().unwrap();
            self.step(0, &Step::Wait((due - self.now).max(1)));
        }
    }
}

proptest! {
    /// Whoever reads the topic from its beginning meets every offset for the first time in order.
    #[test]
    fn all_rows_in_order_at_least_once(steps in steps(true)) {
        let mut world = World::new();
        for (partition, step) in &steps {
            world.step(*partition, step);
        }
        world.settle();
        for partition in 0..2 {
            let mut next = 0;
            for offset in &world.topic[partition] {
                prop_assert!(*offset <= next, "{:?}", world.topic[partition]);
                next = next.max(*offset + 1);
            }
            prop_assert_eq!(next, world.heads[partition] + 1);
            prop_assert_eq!(world.relay.lag(partition as u32), Some(0));
        }
    }

    /// What a topic loses at its end comes back, also where it was written to in the meantime.
    #[test]
    fn a_topic_that_lost_records_holds_every_row_in_the_end(
        before in steps(false),
        loss in 0..99_usize,
        after in steps(false),
    ) {
        let mut world = World::new();
        let loss = (0..2).map(|partition| (partition, Step::Lose(loss)));
        for (partition, step) in before.into_iter().chain(loss).chain(after) {
            world.step(partition, &step);
        }
        world.settle();
        for partition in 0..2 {
            let held: BTreeSet<i64> = world.topic[partition].iter().copied().collect();
            prop_assert!(held.into_iter().eq(0..=world.heads[partition]));
        }
    }
}
