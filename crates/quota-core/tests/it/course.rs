//! What callers are told while an append of unknown outcome may still go in, and after they have given up.

use quota_core::catalog::Catalog;
use quota_core::command::{Answer, Command, Consume, Refusal, Wish};
use quota_core::desk::Desk;
use quota_core::epoch::Epochs;
use quota_core::lane::{Course, PartitionEnd, Phase, Proposal, Settled, Ticket};
use quota_core::row::Head;
use quota_core::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Two commands of one subject, and an append of theirs that ends at the partition's first place.
fn begun() -> (Course, Proposal) {
    let catalog = Catalog::parse(include_str!("../../catalogs/applyx/catalog.toml")).unwrap();
    let desk = Desk::new(catalog, "somebody", Timestamp::from_micros(1));
    let command = || Command {
        address: desk.address().clone(),
        wish: Wish::Sweep,
    };
    let mut course = Course::new(vec![(0, command()), (1, command())]);
    let round = course.round(&Epochs::default(), |_| false).unwrap();
    assert!(!round.locked);
    let proposal = Proposal {
        rows: vec![(*desk.rows()[0]).clone()],
        fences: Vec::new(),
    };
    (course, proposal)
}

fn in_doubt() -> Course {
    let (mut course, proposal) = begun();
    assert_eq!(
        course.looked_for(&proposal, []),
        [0; 0],
        "nothing stands there"
    );
    course
}

fn statuses(answers: &[(usize, Answer)]) -> Vec<u16> {
    let status = |(_, answer): &(usize, Answer)| match answer {
        Answer::Refused(refusal) => refusal.status,
        _ => 200,
    };
    answers.iter().map(status).collect()
}

/// A later round's answers: a refusal, and a success.
fn decided() -> Settled {
    let refused = Refusal::whole(409, "hold_expired", "too late");
    Settled {
        answers: vec![
            (0, Answer::Refused(refused)),
            (1, Answer::Swept { recorded: 0 }),
        ],
        ..Settled::default()
    }
}

/// While nothing stands in its last place, an append of unknown outcome may go in: a refusal would say that nothing was
/// recorded, so it is told as unknown. Once that place is taken it is the refusal that it is.
///
/// Failed when doubts were not noted, and when a later round's refusals were told as they came.
#[test]
fn a_refusal_in_doubt_is_told_as_unknown() {
    for (known, first) in [(-1, 504), (0, 409)] {
        let mut settled = decided();
        in_doubt().settled(&mut settled, |_| known);
        assert_eq!(statuses(&settled.answers), [first, 200]);
    }
}

/// The same of commands for which nothing more can be tried, also after their batch was halved, and whoever may have taken that
/// place by now. Where another row was found there, nothing of theirs is there.
///
/// Failed when doubts were not noted, when those that were left were told 503 whatever was in doubt, and when halving forgot.
#[test]
fn what_is_left_in_doubt_is_told_as_unknown() {
    for unavailable in [true, false] {
        assert_eq!(statuses(&in_doubt().refused(unavailable)), [504, 504]);
    }
    let (first, later) = in_doubt().halved("too much").unwrap();
    assert_eq!(statuses(&first.refused(true)), [504]);
    assert_eq!(statuses(&later.refused(true)), [504]);
    let (mut course, proposal) = begun();
    let mut other = proposal.rows[0].clone();
    other.hash = [7; 32];
    assert_eq!(course.looked_for(&proposal, [&other]), [0; 0]);
    assert_eq!(statuses(&course.refused(true)), [503, 503]);
    let (mut course, proposal) = begun();
    let there = course.looked_for(&proposal, &proposal.rows);
    assert_eq!(there, [proposal.rows[0].partition]);
    assert_eq!(statuses(&course.refused(true)), [503, 503]);
}

/// What its caller has given up is in no later round, and is not answered.
///
/// Failed when rounds took whatever was left.
#[test]
fn what_was_given_up_is_not_decided() {
    let (mut course, _) = begun();
    let round = course
        .round(&Epochs::default(), |index| index == 0)
        .unwrap();
    assert!(round.locked);
    assert_eq!(round.batch.addresses().count(), 1);
    let left = course.refused(true);
    assert_eq!(
        left.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [1]
    );
    let (mut course, _) = begun();
    assert!(course.round(&Epochs::default(), |_| true).is_none());
    assert_eq!(course.left(), 0);
}

/// What was looked for and not found may be in the ledger by the next round, also under an id that nobody else can know: it is
/// looked up then, and its answer is the first one's, which is no retry of the caller's.
///
/// Failed when fresh ids were never looked up (503, or another refusal, of what is recorded).
#[test]
fn an_append_that_landed_late_is_found_without_a_key() {
    let now = Timestamp::from_micros(1);
    let catalog = Catalog::parse(include_str!("../../catalogs/applyx/catalog.toml")).unwrap();
    let mut desk = Desk::new(catalog, "somebody", now);
    let consume = Wish::Consume(Consume {
        feature: "resume_edits".to_owned(),
        amount: 1,
        resource: None,
        hold_seconds: None,
        key: None,
        fresh_id: "fresh".to_owned(),
    });
    let address = desk.address().clone();
    let command = Command {
        address: address.clone(),
        wish: consume.clone(),
    };
    let mut course = Course::new(vec![(0, command)]);
    let first = course.round(&Epochs::default(), |_| false).unwrap();
    assert_eq!(first.batch.wants().events, []);
    // Meanwhile it goes in.
    let Answer::Decided(told) = desk.submit(consume, now) else {
        panic!("a consume is decided");
    };
    let mut later = course.round(&Epochs::default(), |_| false).unwrap().batch;
    let row = desk.rows().last().unwrap();
    assert_eq!(
        later.wants().events,
        [(address.partition, address.key, row.event_key)]
    );
    later.put_found(address.key, row.event_key, Some(Arc::clone(row)));
    later.put_state(address.key, desk.state().clone());
    let head = Head {
        offset: row.offset,
        hash: row.hash,
        recorded_at: row.recorded_at,
    };
    let versions = BTreeMap::from([(Arc::clone(&address.product), 1)]);
    later.put_end(address.partition, PartitionEnd { head, versions });
    let proposal = later.decide(now, &|_, version| desk.catalog(version).cloned());
    assert_eq!(proposal.rows, []);
    let settled = later.settle(&[address.partition]);
    let [(0, Answer::Decided(again))] = &settled.answers[..] else {
        panic!("it is answered: {settled:?}");
    };
    assert!(
        again.outcome.reason.allows() && !again.replayed,
        "{again:?}"
    );
    assert_eq!(again.outcome, told.outcome);
    assert_eq!(again.position, told.position);
}

/// Either the lane takes commands, or their caller is told that nothing of them was recorded.
///
/// Failed when the lane took what was given up, and when a caller was told so of what was taken.
#[test]
fn caller_and_lane_agree() {
    let ticket = Ticket::default();
    assert_eq!(ticket.give_up(), Phase::Waiting);
    assert!(!ticket.take());
    assert!(ticket.is_given_up());
    let ticket = Ticket::default();
    assert!(ticket.take());
    assert!(!ticket.is_given_up());
    assert_eq!(ticket.give_up(), Phase::Taken);
    assert!(ticket.is_given_up());
    assert_eq!(ticket.give_up(), Phase::GivenUp);
}
