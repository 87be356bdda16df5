//! Checkpoints are read as they were written, and an audit holds a partition against them.

use quota_core::audit::{Audit, Mark};
use quota_core::checkpoint::{Checkpoint, End, Signed};
use quota_core::digest::{event_key, genesis, partition_of, subject_key};
use quota_core::epoch::Epochs;
use quota_core::publication::{Place, epoch_start};
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;

pub const LEDGER: [u8; 16] = [7; 16];

/// Rows of one subject, chained; `units` are the payloads' only difference.
pub fn rows(units: &[u32]) -> Vec<Row> {
    let key = subject_key("acme", "u1");
    let partition = partition_of(&key, 64);
    let mut previous = genesis(&LEDGER, partition);
    let row = |(offset, units): (i64, &u32)| {
        let id = format!("e{offset}");
        let mut row = Row {
            partition,
            offset,
            subject_key: key,
            subject_seq: offset + 1,
            subject_prev: (offset > 0).then_some(offset - 1),
            event_key: event_key("acme", "u1", "/app", &id),
            product: "acme".into(),
            subject: "u1".into(),
            source: "/app".into(),
            id: id.into(),
            event_type: "usage.recorded".into(),
            type_version: 1,
            occurred_at: Timestamp::from_micros(offset),
            recorded_at: Timestamp::from_micros(offset),
            catalog_version: 1,
            payload: format!("{{\"amount\":{units}}}").into_bytes().into(),
            hash: [0; 32],
        };
        row.hash = row.expected_hash(&previous);
        previous = row.hash;
        row
    };
    (0..).zip(units).map(row).collect()
}

fn mark(row: &Row) -> Mark {
    Mark {
        epoch: 0,
        offset: row.offset,
        hash: row.hash,
        at: Timestamp::from_micros(99),
    }
}

/// The first bad offset of rows that are held against marks; none where all is good.
fn first_bad(rows: &[Row], marks: &[Mark]) -> Option<i64> {
    let starts = rows.iter().filter(|row| row.subject.is_empty());
    let current = u32::from(starts.clone().count() > 0);
    let epochs = Epochs::read(current, starts).unwrap();
    let partition = partition_of(&subject_key("acme", "u1"), 64);
    let mut audit = Audit::new(&LEDGER, partition, 64, epochs);
    let outcome = marks
        .iter()
        .try_for_each(|mark| audit.expect(*mark))
        .and_then(|()| rows.iter().try_for_each(|row| audit.read(row)))
        .and_then(|()| audit.finish());
    outcome.err().map(|broken| broken.position.offset)
}

#[test]
fn a_line_is_read_as_it_was_written() {
    let end = |offset, byte| End {
        offset,
        hash: [byte; 32],
    };
    let signed = Signed {
        checkpoint: Checkpoint {
            ledger_id: LEDGER,
            epoch: 3,
            at: Timestamp::from_micros(1_763_640_000_123_456),
            ends: vec![end(1_042, 1), end(-1, 2)],
        },
        key: [4; 32],
        signature: [5; 64],
    };
    let line = signed.to_line();
    assert_eq!(Signed::parse(line.as_bytes()).unwrap(), signed);
    assert!(!line.contains('\n'));
    for bad in [
        "",
        "{}",
        &line.replace("0404", "zz04"),
        &line.replace("2025", "year"),
    ] {
        assert!(Signed::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let message = signed.checkpoint.message();
    for other in [
        Checkpoint {
            epoch: 4,
            ..signed.checkpoint.clone()
        },
        Checkpoint {
            ledger_id: [8; 16],
            ..signed.checkpoint.clone()
        },
        Checkpoint {
            ends: vec![end(1_042, 1)],
            ..signed.checkpoint.clone()
        },
        Checkpoint {
            ends: vec![end(1_042, 1), end(-1, 3)],
            ..signed.checkpoint.clone()
        },
    ] {
        assert_ne!(other.message(), message, "{other:?}");
    }
}

/// A history that was rewritten and chained anew is good in itself; only what was told before knows better.
///
/// Failed when an audit did not compare marks, and when it did not ask for those beyond its end.
#[test]
fn a_rewritten_history_and_a_cut_tail_are_found() {
    let told = rows(&[1, 1, 1, 1]);
    let marks = [mark(&told[1]), mark(&told[3])];
    assert_eq!(first_bad(&told, &marks), None);
    assert_eq!(
        first_bad(&rows(&[1, 1, 1, 1, 1]), &marks),
        None,
        "it went on"
    );

    let rewritten = rows(&[1, 1, 2, 1]);
    assert_eq!(first_bad(&rewritten, &[]), None, "good in itself");
    assert_eq!(first_bad(&rewritten, &marks), Some(3));
    assert_eq!(first_bad(&rows(&[2, 1, 1, 1]), &marks), Some(1));
    assert_eq!(first_bad(&told[..2], &marks), Some(2), "cut");
    assert_eq!(first_bad(&[], &marks), Some(0), "nothing left");
    assert_eq!(
        first_bad(&told, &[mark(&told[3]), mark(&rewritten[3])]),
        Some(3),
        "two histories were told"
    );
}

/// What an earlier epoch had from a later one's start on never was; what it had before still holds.
///
/// Fails when marks of earlier epochs say nothing at all, and when those of the lost tail still count.
#[test]
fn a_later_epoch_voids_what_it_went_on_without() {
    let told = rows(&[1, 1, 1, 1]);
    let mut kept = rows(&[1, 1]);
    let last = &kept[1];
    let place = Place {
        partition: last.partition,
        head: Head {
            offset: last.offset,
            hash: last.hash,
            recorded_at: last.recorded_at,
        },
        before: None,
    };
    kept.extend(epoch_start(
        1,
        "lost",
        &[(place, 2)],
        Timestamp::from_micros(7),
    ));
    let marks = [mark(&told[1]), mark(&told[3])];
    assert_eq!(
        first_bad(&told[..2], &marks),
        Some(2),
        "cut, and no epoch says so"
    );
    assert_eq!(first_bad(&kept, &marks), None);
    let changed = Mark {
        hash: [9; 32],
        ..mark(&told[1])
    };
    assert_eq!(first_bad(&kept, &[changed]), Some(1), "before the epoch");
    let of_this_epoch = Mark {
        epoch: 1,
        ..mark(&told[3])
    };
    assert_eq!(first_bad(&kept, &[of_this_epoch]), Some(3), "cut again");
}
