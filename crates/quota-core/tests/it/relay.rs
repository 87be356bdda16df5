//! The relay: what it asks for, step by step.

mod model;

use quota_core::relay::{Ends, Output, Relay, Rules, Stop, Tail};
use std::collections::BTreeMap;

const RULES: Rules = Rules {
    run: 4,
    hold: 10,
    check: 60_000_000,
    backoff: 500_000,
};

fn outputs(relay: &mut Relay<i64>) -> Vec<Output<i64>> {
    std::iter::from_fn(|| relay.output()).collect()
}

fn ends(topic: Option<i64>, ledger: i64) -> Ends {
    let topic = topic.map(|offset| Tail {
        offset,
        epoch: 0,
        at: offset,
    });
    Ends {
        topic,
        ledger,
        fork: None,
    }
}

/// A relay of partition 0 that has read its tails.
fn started(ends: Ends) -> (Relay<i64>, Vec<Output<i64>>) {
    let mut relay = Relay::new(RULES, 0, [0], 0);
    assert_eq!(outputs(&mut relay), [Output::Tails { ticket: 1 }]);
    relay.tails(1, &BTreeMap::from([(0, ends)]), 0);
    let outputs = outputs(&mut relay);
    (relay, outputs)
}

fn read(ticket: u64, from: i64, to: i64) -> Output<i64> {
    Output::Read {
        ticket,
        partition: 0,
        from,
        to,
    }
}

fn publish(ticket: u64, rows: std::ops::RangeInclusive<i64>) -> Output<i64> {
    Output::Publish {
        ticket,
        partition: 0,
        first: *rows.start(),
        rows: rows.collect(),
    }
}

fn rows(from: i64, to: i64) -> Vec<(i64, i64)> {
    (from..=to).map(|offset| (offset, offset)).collect()
}

#[test]
fn it_goes_on_after_the_topics_own_last_record() {
    let (mut relay, first) = started(ends(Some(6), 13));
    assert_eq!(first, [read(2, 7, 10)]);
    assert_eq!(relay.lag(0), Some(7));
    relay.rows(0, 2, rows(7, 10), 0);
    // While a run is on its way the next one is read.
    assert_eq!(outputs(&mut relay), [publish(3, 7..=10), read(4, 11, 13)]);
    relay.rows(0, 4, rows(11, 13), 0);
    assert_eq!(outputs(&mut relay), [], "one run of a partition at a time");
    relay.published(0, 3, 0);
    assert_eq!(outputs(&mut relay), [publish(5, 11..=13)]);
    relay.published(0, 5, 0);
    assert_eq!((outputs(&mut relay), relay.lag(0)), (vec![], Some(0)));
}

#[test]
fn an_empty_topic_is_filled_from_the_first_row() {
    assert_eq!(started(ends(None, 2)).1, [read(2, 0, 2)]);
    assert_eq!(started(ends(None, -1)).1, []);
}

#[test]
fn what_this_node_commits_is_published_without_reading_it_again() {
    let (mut relay, _) = started(ends(Some(2), 2));
    relay.committed(0, 3, vec![3, 4], 0);
    assert_eq!(outputs(&mut relay), [publish(2, 3..=4)]);
    relay.committed(0, 5, vec![5, 6], 0);
    relay.committed(0, 7, vec![7, 8, 9], 0);
    assert_eq!(outputs(&mut relay), []);
    relay.published(0, 2, 0);
    assert_eq!(outputs(&mut relay), [publish(3, 5..=8)]);
    relay.published(0, 3, 0);
    assert_eq!(outputs(&mut relay), [publish(4, 9..=9)]);
    // Another node's rows lie before these.
    relay.committed(0, 12, vec![12], 0);
    assert_eq!(outputs(&mut relay), [read(5, 10, 12)]);
}

#[test]
fn rows_in_hand_are_bounded_and_turns_are_taken() {
    let mut relay = Relay::new(RULES, 0, 0..5, 0);
    relay.tails(
        1,
        &(0..5)
            .map(|partition| (partition, ends(None, 99)))
            .collect(),
        0,
    );
    let asked: Vec<(u32, i64)> = outputs(&mut relay)
        .into_iter()
        .filter_map(|output| match output {
            Output::Read {
                partition,
                from,
                to,
                ..
            } => Some((partition, to - from + 1)),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [(0, 4), (1, 4), (2, 2)]);
    relay.committed(4, 100, vec![100], 0);
    assert_eq!(outputs(&mut relay), []);
    relay.rows(0, 2, vec![], 0);
    let next = outputs(&mut relay);
    assert!(
        matches!(next[..], [Output::Read { partition: 3, .. }]),
        "{next:?}"
    );
}

#[test]
fn after_a_failure_the_topic_says_where_to_go_on() {
    let (mut relay, _) = started(ends(Some(6), 13));
    relay.rows(0, 2, rows(7, 10), 0);
    relay.cut(1_000);
    assert_eq!(outputs(&mut relay), [], "what was to be published is void");
    assert_eq!(relay.deadline(), Some(501_000));
    relay.published(0, 3, 2_000);
    relay.rows(0, 4, rows(11, 13), 2_000);
    relay.committed(0, 14, vec![14], 2_000);
    assert_eq!(outputs(&mut relay), []);
    relay.tick(501_000);
    let asked = outputs(&mut relay);
    let [Output::Tails { ticket }] = asked[..] else {
        panic!("{asked:?}")
    };
    relay.tails_failed(ticket, 501_000);
    relay.tick(1_001_000);
    let ticket = ticket + 1;
    assert_eq!(outputs(&mut relay), [Output::Tails { ticket }]);
    relay.tails(ticket, &BTreeMap::from([(0, ends(Some(8), 14))]), 1_001_000);
    assert_eq!(outputs(&mut relay), [read(ticket + 1, 9, 12)]);
}

#[test]
fn a_read_that_fails_or_brings_nothing_waits() {
    let (mut relay, _) = started(ends(Some(6), 13));
    relay.rows_failed(0, 2, 0);
    assert_eq!(
        (outputs(&mut relay), relay.deadline()),
        (vec![], Some(500_000))
    );
    relay.tick(500_000);
    assert_eq!(outputs(&mut relay), [read(3, 7, 10)]);
    relay.rows(0, 3, rows(8, 10), 500_000);
    assert_eq!(outputs(&mut relay), [], "a gap is never published");
    relay.tick(1_000_000);
    assert_eq!(outputs(&mut relay), [read(4, 7, 10)]);
    relay.rows(0, 4, rows(7, 8), 1_000_000);
    assert_eq!(outputs(&mut relay), [publish(5, 7..=8), read(6, 9, 12)]);
}

#[test]
fn a_topic_that_lost_records_is_filled_again() {
    let (mut relay, _) = started(ends(Some(2), 2));
    relay.committed(0, 3, vec![3], 0);
    relay.published(0, 2, 0);
    relay.tick(60_000_000);
    let ticket = 3;
    assert_eq!(outputs(&mut relay)[1..], [Output::Tails { ticket }]);
    // A run is on its way: it lands first.
    relay.committed(0, 4, vec![4], 0);
    assert_eq!(outputs(&mut relay), [publish(4, 4..=4)]);
    relay.tails(ticket, &BTreeMap::from([(0, ends(None, 4))]), 60_000_000);
    assert_eq!(outputs(&mut relay), []);
    relay.published(0, 4, 60_000_000);
    assert_eq!(outputs(&mut relay), [read(5, 0, 3)]);
}

#[test]
fn a_topic_made_anew_under_the_relay_is_found_by_its_own_offsets() {
    let (mut relay, _) = started(ends(Some(2), 2));
    relay.committed(0, 3, vec![3], 0);
    relay.published(0, 2, 0);
    relay.tick(60_000_000);
    let topic = Some(Tail {
        offset: 3,
        epoch: 0,
        at: 0,
    });
    let found = Ends {
        topic,
        ledger: 3,
        fork: None,
    };
    relay.tails(3, &BTreeMap::from([(0, found)]), 60_000_000);
    assert_eq!(outputs(&mut relay).pop(), Some(read(4, 0, 3)));
    assert_eq!(
        started(found).1,
        [read(2, 0, 3)],
        "by a relay that begins, too"
    );
}

#[test]
fn tails_that_lag_behind_a_run_on_its_way_are_no_loss() {
    let (mut relay, _) = started(ends(Some(2), 2));
    relay.committed(0, 3, vec![3], 0);
    relay.tick(60_000_000);
    relay.published(0, 2, 60_000_000);
    relay.tails(3, &BTreeMap::from([(0, ends(Some(2), 3))]), 60_000_000);
    assert_eq!(
        outputs(&mut relay).len(),
        2,
        "published once, asked for tails once"
    );
    assert_eq!(relay.lag(0), Some(0));
}

#[test]
fn a_topic_ahead_of_the_ledger_is_reported_and_left_alone() {
    let why = Stop::TopicAhead {
        topic: 9,
        ledger: 4,
    };
    let (mut relay, first) = started(ends(Some(9), 4));
    assert_eq!(first, [Output::Stopped { partition: 0, why }]);
    assert_eq!((relay.stopped(0), relay.lag(0)), (Some(why), None));
    relay.committed(0, 5, vec![5], 0);
    relay.tick(60_000_000);
    assert_eq!(outputs(&mut relay), [Output::Tails { ticket: 2 }]);
    relay.tails(2, &BTreeMap::from([(0, ends(Some(9), 4))]), 60_000_000);
    assert_eq!(outputs(&mut relay), [], "said once");
    // The ledger was recovered from the topic.
    relay.tick(120_000_000);
    relay.tails(3, &BTreeMap::from([(0, ends(Some(9), 11))]), 120_000_000);
    assert_eq!(
        outputs(&mut relay),
        [Output::Tails { ticket: 3 }, read(4, 10, 11)]
    );
}

#[test]
fn epochs_fork_the_topic_where_the_ledger_lost_its_tail() {
    let tail = |offset, epoch, fork| {
        let mut relay = Relay::<i64>::new(RULES, 1, [0], 0);
        let topic = Some(Tail {
            offset,
            epoch,
            at: 200,
        });
        relay.tails(
            1,
            &BTreeMap::from([(
                0,
                Ends {
                    topic,
                    ledger: 60,
                    fork,
                },
            )]),
            0,
        );
        outputs(&mut relay).pop()
    };
    assert_eq!(
        tail(100, 0, Some(51)),
        Some(read(2, 51, 54)),
        "the lost tail is written over"
    );
    assert_eq!(tail(40, 0, Some(51)), Some(read(2, 41, 44)));
    assert_eq!(tail(55, 1, None), Some(read(2, 56, 59)));
    let why = Stop::LaterEpoch { epoch: 2 };
    assert_eq!(
        tail(55, 2, None),
        Some(Output::Stopped { partition: 0, why })
    );
}

/// Rows that are committed before anything else happens are published, and those whose run was cut, again.
///
/// Failed when it began at the head that it was told first (41 is missing), and after a cut at the ledger's head (42).
#[test]
fn a_broker_that_forgets_misses_no_row_after_the_beginning() {
    let mut relay = Relay::forgetful(RULES, 0, [(0, 40)]);
    assert_eq!((outputs(&mut relay), relay.deadline()), (vec![], None));
    relay.head(0, 41, 0);
    assert_eq!(outputs(&mut relay), [read(1, 41, 41)]);
    relay.rows(0, 1, rows(41, 41), 0);
    assert_eq!(outputs(&mut relay), [publish(2, 41..=41)]);
    relay.published(0, 2, 0);
    relay.committed(0, 42, vec![42], 0);
    assert_eq!(outputs(&mut relay), [publish(3, 42..=42)]);
    relay.committed(0, 43, vec![43], 0);
    relay.cut(1_000);
    assert_eq!(
        (outputs(&mut relay), relay.deadline()),
        (vec![], Some(501_000))
    );
    relay.tick(501_000);
    assert_eq!(outputs(&mut relay), [read(4, 42, 43)]);
    assert_eq!(relay.lag(0), Some(2));
}
