//! Following partitions: every row once and in order, whatever topic and ledger do.

use proptest::prelude::*;
use quota_core::follow::{Follower, Output, Rules};

const SECOND: i64 = 1_000_000;
const RULES: Rules = Rules {
    ahead: 8,
    range: 5,
    silence: SECOND,
};

fn follower(next: i64) -> Follower<i64> {
    let mut follower = Follower::new(RULES);
    follower.follow(0, 0, next);
    follower
}

/// What there is to do now: rows' offsets, and the range that is to be read.
fn drain(follower: &mut Follower<i64>) -> (Vec<i64>, Option<(u64, i64, i64)>) {
    let (mut rows, mut read) = (Vec::new(), None);
    while let Some(output) = follower.output() {
        match output {
            Output::Row { offset, row, .. } => {
                assert_eq!(offset, row);
                rows.push(offset);
            }
            Output::Read {
                ticket, from, to, ..
            } => {
                assert!(
                    read.replace((ticket, from, to)).is_none(),
                    "one range at a time"
                );
            }
            Output::Epoch { .. } => panic!("no epoch here"),
        }
    }
    (rows, read)
}

fn rows(from: i64, to: i64) -> Vec<(i64, i64)> {
    (from..=to).map(|offset| (offset, offset)).collect()
}

#[test]
fn what_comes_in_turn_is_handed_out_and_what_was_seen_is_dropped() {
    let mut follower = follower(3);
    for offset in [2, 3, 3, 4, 2, 5] {
        assert_eq!(
            follower.wants(0, 0, offset),
            offset >= follower.next(0).unwrap()
        );
        follower.record(0, 0, offset, offset, 0);
    }
    assert_eq!(drain(&mut follower), (vec![3, 4, 5], None));
    assert_eq!((follower.next(0), follower.lag(0)), (Some(6), Some(0)));
    follower.record(7, 0, 0, 0, 0);
    assert_eq!(
        drain(&mut follower),
        (vec![], None),
        "nobody follows partition 7"
    );
}

#[test]
fn a_hole_is_read_from_the_ledger_at_once_and_only_once() {
    let mut follower = follower(0);
    follower.record(0, 0, 2, 2, 0);
    let (_, read) = drain(&mut follower);
    let (ticket, from, to) = read.unwrap();
    assert_eq!((from, to), (0, 1));
    follower.record(0, 0, 4, 4, 0);
    follower.tick(10 * SECOND);
    assert_eq!(drain(&mut follower), (vec![], None), "it is being read");
    follower.range(0, ticket, rows(0, 1), 0);
    let (handed, read) = drain(&mut follower);
    assert_eq!(handed, [0, 1, 2]);
    let (ticket, from, to) = read.unwrap();
    assert_eq!((from, to), (3, 3));
    // The topic brings it first; then the read brings it again.
    follower.record(0, 0, 3, 3, 0);
    follower.range(0, ticket, rows(3, 3), 0);
    assert_eq!(drain(&mut follower), (vec![3, 4], None));
}

#[test]
fn a_silent_topic_is_given_a_second() {
    let mut follower = follower(0);
    follower.head(0, 6, 0, 5);
    assert_eq!(follower.deadline(), Some(5 + SECOND));
    follower.tick(4 + SECOND);
    assert_eq!(drain(&mut follower), (vec![], None));
    // A record begins the second anew.
    follower.record(0, 0, 0, 0, SECOND);
    follower.tick(SECOND + SECOND - 1);
    assert_eq!(drain(&mut follower), (vec![0], None));
    follower.tick(2 * SECOND);
    let (_, read) = drain(&mut follower);
    let (ticket, from, to) = read.unwrap();
    assert_eq!((from, to), (1, 5), "at most five at once");
    // Once silent, the next range follows at once.
    follower.range(0, ticket, rows(1, 5), 2 * SECOND);
    let (handed, read) = drain(&mut follower);
    assert_eq!(handed, [1, 2, 3, 4, 5]);
    let (ticket, from, to) = read.unwrap();
    assert_eq!((from, to), (6, 6));
    follower.range(0, ticket, rows(6, 6), 2 * SECOND);
    assert_eq!(drain(&mut follower), (vec![6], None));
    assert_eq!(follower.deadline(), None);
}

#[test]
fn a_read_that_fails_or_brings_nothing_is_asked_again_later() {
    let mut follower = follower(0);
    follower.record(0, 0, 1, 1, 0);
    let (_, read) = drain(&mut follower);
    follower.range_failed(0, read.unwrap().0, 0);
    assert_eq!(drain(&mut follower), (vec![], None));
    assert_eq!(follower.deadline(), Some(SECOND));
    follower.tick(SECOND);
    let (_, read) = drain(&mut follower);
    let (ticket, _, _) = read.unwrap();
    follower.range(0, ticket - 1, rows(0, 0), SECOND);
    assert_eq!(
        drain(&mut follower),
        (vec![], None),
        "an old ticket is worth nothing"
    );
    follower.range(0, ticket, vec![], SECOND);
    follower.tick(SECOND);
    assert_eq!(drain(&mut follower), (vec![], None));
    follower.tick(2 * SECOND);
    assert!(drain(&mut follower).1.is_some());
}

#[test]
fn its_age_is_that_of_the_newest_head_it_has_reached() {
    let mut follower = follower(0);
    assert_eq!(follower.age(0, 0), None);
    follower.head(0, -1, 10, 20);
    assert_eq!(
        follower.age(0, 30),
        Some(20),
        "counted from when the reading began"
    );
    follower.head(0, 1, 40, 50);
    follower.head(0, 2, 60, 70);
    assert_eq!(follower.age(0, 100), Some(90), "behind: it only grows");
    assert_eq!(follower.lag(0), Some(3));
    follower.record(0, 0, 0, 0, 80);
    follower.record(0, 0, 1, 1, 80);
    assert_eq!(follower.age(0, 100), Some(60));
    follower.record(0, 0, 2, 2, 80);
    assert_eq!(follower.age(0, 100), Some(40));
    for second in 1..100 {
        follower.head(0, second, second, second);
    }
    for offset in 3..100 {
        follower.record(0, 0, offset, offset, 100);
    }
    assert_eq!(
        follower.age(0, 100),
        Some(1),
        "the last head is not forgotten"
    );
}

#[test]
fn a_later_epoch_stops_a_partition_until_it_is_followed_anew() {
    let mut follower = follower(0);
    follower.record(0, 0, 5, 5, 0);
    follower.record(0, 1, 3, 3, 0);
    let outputs: Vec<_> = std::iter::from_fn(|| follower.output()).collect();
    let read = Output::Read {
        ticket: 1,
        partition: 0,
        from: 0,
        to: 4,
    };
    let epoch = Output::Epoch {
        partition: 0,
        epoch: 1,
    };
    assert_eq!(outputs, [read, epoch]);
    follower.range(0, 1, rows(0, 4), 0);
    follower.record(0, 0, 0, 0, 0);
    follower.head(0, 9, 0, 0);
    follower.tick(9 * SECOND);
    assert_eq!(follower.output(), None);
    follower.follow(0, 1, 3);
    assert!(!follower.wants(0, 0, 3), "of an epoch that is over");
    follower.record(0, 0, 3, 3, 0);
    follower.record(0, 1, 3, 3, 0);
    assert_eq!(drain(&mut follower), (vec![3], None));
}

#[derive(Clone, Debug)]
enum Step {
    /// Rows are appended to the ledger and sent to the topic.
    Append(usize),
    /// The topic delivers a record: of those under way the one with this number.
    Deliver(usize),
    /// The topic delivers a record and keeps it, to deliver it again.
    Duplicate(usize),
    /// The topic loses a record.
    Lose(usize),
    /// The head is read.
    Head,
    /// A read of the ledger ends: it fails, or brings its first rows.
    Answer(usize, Option<usize>),
    /// Time passes.
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let step = prop_oneof![
        3 => (1..6_usize).prop_map(Step::Append),
        6 => (0..4_usize).prop_map(Step::Deliver),
        2 => (0..9_usize).prop_map(Step::Duplicate),
        2 => (0..9_usize).prop_map(Step::Lose),
        1 => Just(Step::Head),
        3 => (0..3_usize, proptest::option::weighted(0.8, 0..7_usize)).prop_map(|(which, rows)| Step::Answer(which, rows)),
        2 => (1..2 * SECOND).prop_map(Step::Wait),
    ];
    proptest::collection::vec((0..2_u32, step), 0..200)
}

/// Two partitions of a ledger, their topic, and who follows them.
struct World {
    follower: Follower<i64>,
    heads: [i64; 2],
    topic: [Vec<i64>; 2],
    reads: Vec<(u64, u32, i64, i64)>,
    seen: [Vec<i64>; 2],
    now: i64,
}

impl World {
    fn new() -> Self {
        let mut follower = Follower::new(RULES);
        follower.follow(0, 0, 0);
        follower.follow(1, 0, 0);
        let (topic, seen) = Default::default();
        Self {
            follower,
            heads: [-1; 2],
            topic,
            reads: Vec::new(),
            seen,
            now: 0,
        }
    }

    fn step(&mut self, partition: u32, step: &Step) {
        let index = partition as usize;
        let topic = &mut self.topic[index];
        let pick = |topic: &Vec<i64>, at: usize| (!topic.is_empty()).then(|| at % topic.len());
        match *step {
            Step::Append(count) => {
                for _ in 0..count {
                    self.heads[index] += 1;
                    topic.push(self.heads[index]);
                }
            }
            Step::Deliver(at) => {
                if let Some(at) = pick(topic, at) {
                    let offset = topic.remove(at);
                    self.follower.record(partition, 0, offset, offset, self.now);
                }
            }
            Step::Duplicate(at) => {
                if let Some(at) = pick(topic, at) {
                    self.follower
                        .record(partition, 0, topic[at], topic[at], self.now);
                }
            }
            Step::Lose(at) => {
                if let Some(at) = pick(topic, at) {
                    topic.remove(at);
                }
            }
            Step::Head => self
                .follower
                .head(partition, self.heads[index], self.now, self.now),
            Step::Answer(which, brought) => self.answer(which, brought),
            Step::Wait(time) => {
                self.now += time;
                self.follower.tick(self.now);
            }
        }
        self.drain();
    }

    fn answer(&mut self, which: usize, brought: Option<usize>) {
        if self.reads.is_empty() {
            return;
        }
        let (ticket, partition, from, to) = self.reads.remove(which % self.reads.len());
        match brought {
            None => self.follower.range_failed(partition, ticket, self.now),
            Some(count) => {
                let mut rows = rows(from, to.min(self.heads[partition as usize]));
                rows.truncate(count);
                self.follower.range(partition, ticket, rows, self.now);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.follower.output() {
            match output {
                Output::Row {
                    partition,
                    offset,
                    row,
                } => {
                    assert_eq!(offset, row);
                    self.seen[partition as usize].push(offset);
                }
                Output::Read {
                    ticket,
                    partition,
                    from,
                    to,
                } => {
                    assert!(from <= to && to - from < RULES.range);
                    assert!(
                        self.reads.iter().all(|read| read.1 != partition),
                        "one range at a time"
                    );
                    self.reads.push((ticket, partition, from, to));
                }
                Output::Epoch { .. } => panic!("no epoch here"),
            }
        }
    }
}

proptest! {
    #[test]
    fn every_row_once_and_in_order(steps in steps()) {
        let mut world = World::new();
        for (partition, step) in &steps {
            world.step(*partition, step);
            for partition in 0..2 {
                let handed: Vec<i64> = (0..world.seen[partition].len() as i64).collect();
                prop_assert_eq!(&world.seen[partition], &handed);
                let behind = world.follower.lag(partition as u32).unwrap();
                prop_assert!(behind + handed.len() as i64 <= world.heads[partition] + 1);
            }
        }
        // Whatever happened, heads and reads alone bring the rest.
        for partition in 0..2 {
            world.step(partition, &Step::Head);
        }
        while let Some(due) = world.follower.deadline().filter(|_| world.reads.is_empty()).or((!world.reads.is_empty()).then_some(world.now)) {
            world.now = world.now.max(due);
            world.step(0, &Step::Wait(0));
            world.step(0, &Step::Answer(0, Some(9)));
        }
        for partition in 0..2 {
            prop_assert_eq!(world.seen[partition].len() as i64, world.heads[partition] + 1);
            let age = world.follower.age(partition as u32, world.now).unwrap();
            prop_assert!(age <= world.now);
        }
    }
}
