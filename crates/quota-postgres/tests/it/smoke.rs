//! That the whole interface works at all.

use crate::harness::{Database, Writer, check_chain, sorted, subject_in, with_ledger};
use quota_core::digest::subject_key;
use quota_core::row::Row;
use quota_core::time::Timestamp;
use quota_postgres::{
    Advance, EventLookup, LoadRequest, RowName, SubjectLookup, SubjectRow, View, publish,
};
use std::convert::Infallible;

fn sends<T: Send>(value: T) -> T {
    value
}

/// What went in comes out, by every road.
#[test]
fn rows_come_back_as_they_went() {
    with_ledger(4, |database| async move {
        let mut lane = database.lane().await;
        let ledger = database.ledger().await;
        let mut writer = Writer::new(database.info);
        assert_eq!(
            ledger.heads().await.unwrap(),
            (0..4).map(|p| writer.head(p)).collect::<Vec<_>>()
        );
        let fences: Vec<_> = (0..4).map(|p| writer.fence(p)).collect();
        let mut rows = Vec::new();
        for partition in 0..4 {
            let subject = subject_in(partition, 4, "p", 0);
            rows.push(writer.row("p", &subject, "a"));
            rows.push(writer.row("p", &subject, "b"));
        }
        let rows = sorted(rows);
        let appended = sends(lane.append(&rows, &fences, false)).await.unwrap();
        assert_eq!(appended.partitions, [0, 1, 2, 3]);
        assert!(appended.clock > Timestamp::from_micros(0));
        assert_eq!(
            ledger.heads().await.unwrap(),
            (0..4).map(|p| writer.head(p)).collect::<Vec<_>>()
        );
        for partition in 0..4 {
            let mine: Vec<_> = rows
                .iter()
                .filter(|row| row.partition == partition)
                .cloned()
                .collect();
            assert_eq!(check_chain(&ledger, partition).await, mine);
            assert_eq!(
                ledger
                    .subject_page(partition, &mine[0].subject_key, -1, 10)
                    .await
                    .unwrap(),
                mine
            );
            assert_eq!(
                ledger
                    .subject_page(partition, &mine[0].subject_key, 0, 10)
                    .await
                    .unwrap(),
                mine[1..]
            );
            assert_eq!(ledger.ids_at(partition, &[1, 0]).await.unwrap(), ["b", "a"]);
            assert_eq!(lane.range(partition, 1, 5).await.unwrap(), mine[1..]);
        }
        assert_eq!(
            ledger.ranges(&[(1, 1, 9), (3, 0, 1)]).await.unwrap(),
            [rows[3].clone(), rows[6].clone()]
        );
        let lookup = EventLookup {
            partition: 2,
            subject_key: rows[4].subject_key,
            event_key: rows[4].event_key,
        };
        assert_eq!(
            ledger.by_event_keys(&[lookup]).await.unwrap(),
            [rows[4].clone()]
        );
        assert_eq!(
            lane.rows_at(&[(2, 0), (2, 9)]).await.unwrap(),
            [rows[4].clone()]
        );
        let clock = lane.clock().await.unwrap();
        assert!(ledger.clock().await.unwrap() >= clock && clock >= appended.clock);
        lane.close().await;
    });
}

/// A subject with five events in partition 1, three of them in a view that has two rows.
async fn folded(database: &Database) -> (Vec<Row>, View, [SubjectRow; 2]) {
    let mut lane = database.lane().await;
    let ledger = database.ledger().await;
    let mut writer = Writer::new(database.info);
    let subject = subject_in(1, 2, "p", 0);
    let subject_key = subject_key("p", &subject);
    let fences = [writer.fence(1)];
    let rows: Vec<_> = (0..5)
        .map(|n| writer.row("p", &subject, &n.to_string()))
        .collect();
    lane.append(&rows, &fences, false).await.unwrap();
    assert_eq!(ledger.checkpoints().await.unwrap(), [0, 0]);
    let view = View {
        partition: 1,
        subject_key,
        product: "p".into(),
        subject: subject.as_str().into(),
        subject_seq: 3,
        offset: 2,
        row_count: 2,
        next_due: Some(Timestamp::from_micros(77)),
        state: b"state".to_vec(),
    };
    let row = |kind, id: &str| {
        let (id, body) = (id.to_owned(), b"body".to_vec());
        SubjectRow {
            partition: 1,
            subject_key,
            kind,
            id,
            body,
        }
    };
    let extra = [row(1, "r1"), row(2, "r2")];
    let steps = [Advance {
        partition: 1,
        from: 0,
        to: 3,
    }];
    let saved = ledger
        .save_views(&steps, std::slice::from_ref(&view), &extra)
        .await
        .unwrap();
    assert_eq!((saved.moved, saved.lost), (vec![1], vec![]));
    (rows, view, extra)
}

/// A view is loaded with the rows asked for, its tail, its checkpoint and the head; events by their key.
#[test]
fn views_are_loaded_with_their_tail() {
    with_ledger(2, |database| async move {
        let (rows, view, extra) = folded(&database).await;
        let (mut lane, ledger) = (database.lane().await, database.ledger().await);
        let (partition, subject_key, event_key) = (1, view.subject_key, rows[0].event_key);
        let name = |id: &str| RowName {
            kind: 2,
            id: id.into(),
        };
        let request = |all_rows| LoadRequest {
            subjects: vec![SubjectLookup {
                partition,
                subject_key,
                rows: vec![name("r2"), name("r3")],
                all_rows,
            }],
            events: vec![EventLookup {
                partition,
                subject_key,
                event_key,
            }],
        };
        let loaded = sends(lane.load(&request(false))).await.unwrap();
        assert_eq!(loaded.subjects[0].view.as_ref(), Some(&view));
        assert_eq!(loaded.subjects[0].rows, extra[1..]);
        assert_eq!(loaded.subjects[0].tail, rows[3..]);
        assert_eq!(loaded.events, rows[..1]);
        assert_eq!(loaded.partitions[0].checkpoint, 3);
        assert_eq!(loaded.partitions[0].head, ledger.heads().await.unwrap()[1]);
        let loaded = sends(ledger.load(&request(true))).await.unwrap();
        assert_eq!(loaded.subjects[0].rows, extra);
        ledger.reset_views(&[0, 1]).await.unwrap();
        let loaded = lane.load(&request(true)).await.unwrap();
        assert_eq!(
            (
                loaded.subjects[0].tail.len(),
                loaded.subjects[0].view.is_none()
            ),
            (5, true)
        );
        assert!(loaded.subjects[0].rows.is_empty());
    });
}

/// Views are found when something of theirs is due, streamed, and forgotten.
#[test]
fn views_are_found_and_forgotten() {
    with_ledger(2, |database| async move {
        let (_, view, extra) = folded(&database).await;
        let ledger = database.ledger().await;
        let due = ledger.due(Timestamp::from_micros(77), 10).await.unwrap();
        assert_eq!(
            (due.len(), &*due[0].subject, due[0].at.micros()),
            (1, &*view.subject, 77)
        );
        assert_eq!(
            ledger.due(Timestamp::from_micros(76), 10).await.unwrap(),
            []
        );
        let page = ledger.views_page(None, 10).await.unwrap();
        assert_eq!(page, std::slice::from_ref(&view));
        let after = (1, view.subject_key);
        assert_eq!(ledger.views_page(Some(after), 10).await.unwrap(), []);
        assert_eq!(ledger.rows_of(1, &view.subject_key).await.unwrap(), extra);
        ledger.reset_views(&[0, 1]).await.unwrap();
        assert_eq!(ledger.checkpoints().await.unwrap(), [0, 0]);
        assert_eq!(ledger.views_page(None, 10).await.unwrap(), []);
        assert_eq!(ledger.rows_of(1, &view.subject_key).await.unwrap(), []);
    });
}

/// A catalog goes into every partition at once, and is found again, by product.
#[test]
fn catalogs_are_published_everywhere() {
    with_ledger(3, |database| async move {
        let mut lane = database.lane().await;
        let ledger = database.ledger().await;
        let mut writer = Writer::new(database.info);
        for (version, product) in [(1, "a"), (2, "a"), (1, "b")] {
            let appended = publish(&mut lane, product, |found| {
                assert_eq!(
                    found.newest.iter().flatten().count(),
                    if version == 1 { 0 } else { 3 }
                );
                writer.heads = (0..).zip(found.heads.clone()).collect();
                let id = format!("catalog-{version}");
                Ok::<_, Infallible>(
                    (0..3)
                        .map(|p| writer.row_in(p, product, "", "catalog.published", &id, b"{}"))
                        .collect(),
                )
            });
            assert_eq!(appended.await.unwrap().partitions, [0, 1, 2]);
        }
        let ids = |rows: Vec<Row>| {
            rows.iter()
                .map(|r| format!("{}/{}", r.product, r.id))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            ids(ledger.catalog_rows(None).await.unwrap()),
            ["a/catalog-1", "a/catalog-2", "b/catalog-1"]
        );
        assert_eq!(
            ids(ledger.catalog_rows(Some("a")).await.unwrap()),
            ["a/catalog-1", "a/catalog-2"]
        );
        assert_eq!(ledger.latest_catalogs().await.unwrap().len(), 6);
        let again = publish(&mut lane, "a", |_| Err::<Vec<_>, _>("no"));
        assert!(again.await.is_err());
        assert!(
            lane.clock().await.is_ok(),
            "a refused publication leaves the lane usable"
        );
    });
}

/// Keys are kept by digest, listed, and revoked.
#[test]
fn keys_come_and_go() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        let scopes = vec!["check".to_owned(), "consume".to_owned()];
        ledger
            .create_key("k1", "*", &scopes, &[7; 32])
            .await
            .unwrap();
        ledger
            .create_key("k2", "p", &scopes, &[8; 32])
            .await
            .unwrap();
        assert!(
            ledger
                .create_key("k3", "p", &scopes, &[8; 32])
                .await
                .is_err()
        );
        assert!(ledger.revoke_key("k1").await.unwrap());
        assert!(!ledger.revoke_key("k9").await.unwrap());
        let all = ledger.list_keys().await.unwrap();
        assert_eq!(all.len(), 2);
        assert!(all[0].revoked_at.is_some() && all[0].scopes == scopes);
        let active = ledger.all_active_keys().await.unwrap();
        assert_eq!(
            (active.len(), active[0].id.as_str(), active[0].hash),
            (1, "k2", [8; 32])
        );
    });
}
