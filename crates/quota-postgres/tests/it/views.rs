//! Views and their tails: one snapshot, both roads alike, and no zombie writes.

use crate::harness::{Database, Writer, subject_in, with_ledger};
use quota_core::digest::{SubjectKey, subject_key};
use quota_core::row::Row;
use quota_postgres::{Advance, LoadRequest, Loaded, SubjectLookup, SubjectRow, View};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn request(partition: u32, key: SubjectKey) -> LoadRequest {
    let subject = SubjectLookup {
        partition,
        subject_key: key,
        rows: vec![],
        all_rows: true,
    };
    LoadRequest {
        subjects: vec![subject],
        events: vec![],
    }
}

/// A view that has folded all rows up to `last`: its state is how many.
fn view_of(last: &Row) -> View {
    View {
        partition: last.partition,
        subject_key: last.subject_key,
        product: last.product.clone(),
        subject: last.subject.clone(),
        subject_seq: last.subject_seq,
        offset: last.offset,
        row_count: 1,
        next_due: None,
        state: last.subject_seq.to_be_bytes().to_vec(),
    }
}

/// The row of its own that goes with such a view.
fn row_of(last: &Row) -> SubjectRow {
    SubjectRow {
        partition: last.partition,
        subject_key: last.subject_key,
        kind: 1,
        id: "count".into(),
        body: last.subject_seq.to_be_bytes().to_vec(),
    }
}

/// That view, rows and tail belong together and reach the head; returns the last sequence number.
fn seamless(loaded: &Loaded) -> i64 {
    let subject = &loaded.subjects[0];
    let place = &loaded.partitions[0];
    let mut seq = subject.view.as_ref().map_or(0, |view| view.subject_seq);
    assert_eq!(
        subject.rows.first().map_or(vec![], |row| row.body.clone()),
        subject.view.as_ref().map_or(vec![], |v| v.state.clone())
    );
    assert!(
        subject
            .view
            .as_ref()
            .is_none_or(|view| view.offset < place.checkpoint)
    );
    for row in &subject.tail {
        assert_eq!(
            row.subject_seq,
            seq + 1,
            "the tail does not follow the view"
        );
        assert!(row.offset >= place.checkpoint);
        seq = row.subject_seq;
    }
    // The test's partition has no other subject.
    assert_eq!(
        seq,
        place.head.offset + 1,
        "the tail does not reach the head"
    );
    seq
}

/// Whatever a projector saves and a lane appends meanwhile, what is loaded fits: the tail begins where the view ends and
/// goes to the head, and the rows of the view are of its age.
///
/// Fails when the checkpoint is moved in a statement of its own, and when load reads it in another snapshot than the view
/// (through a volatile function, for one).
#[test]
fn a_load_is_one_snapshot() {
    with_ledger(2, |database| async move {
        let subject = subject_in(1, 2, "p", 0);
        let key = subject_key("p", &subject);
        let stop = Arc::new(AtomicBool::new(false));
        let appending = tokio::spawn(append_on(database.clone(), subject, stop.clone()));
        let projecting = tokio::spawn(project_on(database.clone(), stop.clone()));
        let ledger = database.ledger().await;
        let mut lane = database.lane().await;
        let (mut seen, mut with_view, mut with_tail) = (0, 0, 0);
        let begun = std::time::Instant::now();
        // Until enough was seen; a busy machine takes longer.
        let enough = |seen, with_view, with_tail| seen > 100 && with_view > 50 && with_tail > 50;
        while begun.elapsed() < Duration::from_secs(4)
            || (!enough(seen, with_view, with_tail) && begun.elapsed() < Duration::from_secs(120))
        {
            for loaded in [
                lane.load(&request(1, key)).await.unwrap(),
                ledger.load(&request(1, key)).await.unwrap(),
            ] {
                let seq = seamless(&loaded);
                assert!(seq >= seen, "what was seen before is gone");
                seen = seq;
                with_view += u32::from(loaded.subjects[0].view.is_some());
                with_tail += u32::from(!loaded.subjects[0].tail.is_empty());
            }
        }
        stop.store(true, Ordering::Relaxed);
        appending.await.unwrap();
        projecting.await.unwrap();
        assert!(
            enough(seen, with_view, with_tail),
            "{seen} rows, {with_view} views, {with_tail} tails"
        );
    });
}

async fn append_on(database: Arc<Database>, subject: String, stop: Arc<AtomicBool>) {
    let mut lane = database.lane().await;
    let mut writer = Writer::new(database.info);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let fences = [writer.fence(1)];
        let rows: Vec<Row> = (0..n % 4 + 1)
            .map(|i| writer.row("p", &subject, &format!("{n}-{i}")))
            .collect();
        lane.append(&rows, &fences, false).await.unwrap();
    }
}

async fn project_on(database: Arc<Database>, stop: Arc<AtomicBool>) {
    let ledger = database.ledger().await;
    let mut from = 0;
    while !stop.load(Ordering::Relaxed) {
        let rows = ledger.range(1, from, 7).await.unwrap();
        let Some(last) = rows.last() else { continue };
        let steps = [Advance {
            partition: 1,
            from,
            to: last.offset + 1,
        }];
        let saved = ledger
            .save_views(&steps, &[view_of(last)], &[row_of(last)])
            .await
            .unwrap();
        assert_eq!(saved.moved, [1]);
        from = last.offset + 1;
    }
}

/// A tail read by the second index and one read by the primary key are the same, wherever the checkpoint stands. Which
/// road is taken depends on how much either would read.
///
/// Fails when either road is off by one, or when neither or both are taken.
#[test]
fn both_roads_to_a_tail_agree() {
    with_ledger(1, |database| async move {
        let mut lane = database.lane().await;
        let ledger = database.ledger().await;
        let mut writer = Writer::new(database.info);
        let fences = [writer.fence(0)];
        // One subject with most of the rows, one with a few, one with none.
        let name = |n: usize| match n % 40 {
            7 => "few",
            n if n % 3 == 0 => "other",
            _ => "most",
        };
        let rows: Vec<Row> = (0..400)
            .map(|n| writer.row("p", name(n), &n.to_string()))
            .collect();
        lane.append(&rows, &fences, false).await.unwrap();
        let mut from = 0;
        for to in [0, 1, 8, 48, 200, 390, 399, 400] {
            let folded: Vec<View> = ["few", "other", "most"]
                .iter()
                .filter_map(|name| {
                    rows[..to]
                        .iter()
                        .rfind(|row| &*row.subject == *name)
                        .map(view_of)
                })
                .collect();
            let steps = [Advance {
                partition: 0,
                from,
                to: to as i64,
            }];
            assert_eq!(
                ledger.save_views(&steps, &folded, &[]).await.unwrap().moved,
                [0]
            );
            from = to as i64;
            for name in ["few", "other", "most", "none"] {
                let loaded = lane
                    .load(&request(0, subject_key("p", name)))
                    .await
                    .unwrap();
                let expected: Vec<Row> = rows[to..]
                    .iter()
                    .filter(|row| &*row.subject == name)
                    .cloned()
                    .collect();
                assert_eq!(loaded.subjects[0].tail, expected, "{name} from {to}");
                assert_eq!(
                    loaded.subjects[0].view.as_ref(),
                    folded.iter().find(|view| &*view.subject == name)
                );
            }
        }
    });
}

/// A projector that lost its partition changes nothing there, while its other partitions go on: neither view nor row nor
/// checkpoint.
///
/// Fails when `save_views` does not compare the checkpoint, or writes views of partitions that it did not move.
#[test]
fn a_zombie_projector_changes_nothing() {
    with_ledger(3, |database| async move {
        let ledger = database.ledger().await;
        let mut lane = database.lane().await;
        let mut writer = Writer::new(database.info);
        let subjects: Vec<String> = (0..3).map(|p| subject_in(p, 3, "p", 0)).collect();
        let fences: Vec<_> = (0..3).map(|p| writer.fence(p)).collect();
        let rows: Vec<Row> = subjects
            .iter()
            .map(|subject| writer.row("p", subject, "a"))
            .collect();
        lane.append(&rows, &fences, false).await.unwrap();
        let step = |partition, from, to| Advance {
            partition,
            from,
            to,
        };
        let (views, extra): (Vec<_>, Vec<_>) =
            rows.iter().map(|row| (view_of(row), row_of(row))).unzip();
        assert_eq!(
            ledger
                .save_views(&[step(1, 0, 1)], &views[1..2], &extra[1..2])
                .await
                .unwrap()
                .moved,
            [1]
        );

        // The zombie still believes partition 1 to be at 0, and has folded something else.
        let mut stale = views.clone();
        let mut stale_rows = extra.clone();
        for (view, row) in stale.iter_mut().zip(&mut stale_rows) {
            view.state = b"zombie".to_vec();
            row.body = b"zombie".to_vec();
        }
        let steps = [step(2, 0, 1), step(1, 0, 1), step(0, 0, 1)];
        let saved = ledger
            .save_views(&steps, &stale, &stale_rows)
            .await
            .unwrap();
        assert_eq!((saved.moved, saved.lost), (vec![0, 2], vec![1]));
        assert_eq!(ledger.checkpoints().await.unwrap(), [1, 1, 1]);
        let kept = ledger.views_page(Some((0, [255; 16])), 1).await.unwrap();
        assert_eq!(kept, views[1..2]);
        assert_eq!(
            ledger.rows_of(1, &rows[1].subject_key).await.unwrap(),
            extra[1..2]
        );
        assert_eq!(
            ledger.rows_of(0, &rows[0].subject_key).await.unwrap()[0].body,
            b"zombie"
        );
    });
}

/// Of many projectors that start from the same checkpoints, in whatever order they name them, exactly one moves each;
/// none waits for another for ever.
///
/// Fails when `save_views` does not compare the checkpoint again after waiting, or does not lock in order.
#[test]
fn one_of_many_projectors_wins() {
    with_ledger(8, |database| async move {
        let ledgers = [database.ledger().await, database.ledger().await];
        for round in 0..40_i64 {
            let tasks: Vec<_> = (0..6_u32)
                .map(|n| {
                    let ledger = ledgers[n as usize % 2].clone();
                    let mut steps: Vec<_> = (0..8)
                        .map(|p| Advance {
                            partition: (p + n) % 8,
                            from: round,
                            to: round + 1,
                        })
                        .collect();
                    if n % 2 == 0 {
                        steps.reverse();
                    }
                    tokio::spawn(async move { ledger.save_views(&steps, &[], &[]).await.unwrap() })
                })
                .collect();
            let mut moved = Vec::new();
            for task in tasks {
                moved.extend(task.await.unwrap().moved);
            }
            moved.sort_unstable();
            assert_eq!(moved, [0, 1, 2, 3, 4, 5, 6, 7], "round {round}");
        }
    });
}
