//! Projector: views equal the fold of the ledger, whatever comes between.

use crate::nodes::{
    CATALOG, Database, PARTITIONS, PRODUCT, Running, WORKERS, all_rows, embedded_topics,
    eventually, fact, load, projected, real_brokers, real_topics, unique, usage,
};
use quota_core::command::Wish;
use quota_core::digest::{SubjectKey, event_key, partition_of, subject_key};
use quota_core::fold::{fold, next_due};
use quota_core::row::Row;
use quota_core::state::{RowKey, State};
use quota_postgres::{Advance, Fence, Ledger, SubjectRow, View};
use quota_server::config::Role;
use quota_server::publishing::publish_catalog;
use quota_server::shelf::Shelf;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that projectors write.
#[derive(Debug, PartialEq)]
struct Views {
    views: BTreeMap<(u32, SubjectKey), View>,
    things: BTreeMap<(u32, SubjectKey, i16, String), SubjectRow>,
}

/// What is stored.
async fn stored(ledger: &Ledger) -> Views {
    let views = ledger.views_page(None, 1_000_000).await.unwrap();
    let mut things = BTreeMap::new();
    for view in &views {
        for row in ledger
            .rows_of(view.partition, &view.subject_key)
            .await
            .unwrap()
        {
            things.insert(
                (row.partition, row.subject_key, row.kind, row.id.clone()),
                row,
            );
        }
    }
    Views {
        views: views
            .into_iter()
            .map(|view| ((view.partition, view.subject_key), view))
            .collect(),
        things,
    }
}

/// What the fold of the ledger's rows comes to, one by one from the first.
fn folded(rows: &[Row]) -> Views {
    let shelf = Shelf::default();
    let mut states: BTreeMap<(u32, SubjectKey), (State, &Row)> = BTreeMap::new();
    for row in rows {
        shelf.take(row).unwrap();
        if !row.subject.is_empty() {
            let (state, last) = states
                .entry((row.partition, row.subject_key))
                .or_insert((State::default(), row));
            fold(
                state,
                &shelf.get(&row.product, row.catalog_version).unwrap(),
                row,
            )
            .unwrap();
            *last = row;
        }
    }
    let mut views = Views {
        views: BTreeMap::new(),
        things: BTreeMap::new(),
    };
    for ((partition, subject_key), (state, last)) in states {
        let catalog = shelf.get(&last.product, last.catalog_version).unwrap();
        let view = View {
            partition,
            subject_key,
            product: last.product.clone(),
            subject: last.subject.clone(),
            subject_seq: last.subject_seq,
            offset: last.offset,
            row_count: i64::try_from(state.things().count()).unwrap(),
            next_due: next_due(&state, &catalog),
            state: state.subject_bytes(),
        };
        for (RowKey { kind, id }, _) in state.things() {
            let body = state
                .thing_bytes(&RowKey {
                    kind: *kind,
                    id: id.clone(),
                })
                .unwrap();
            let row = SubjectRow {
                partition,
                subject_key,
                kind: kind.number(),
                id: id.clone(),
                body,
            };
            views
                .things
                .insert((partition, subject_key, kind.number(), id.clone()), row);
        }
        views.views.insert((partition, subject_key), view);
    }
    views
}

/// Waits until all is projected, and compares every byte with the fold.
async fn assert_views(ledger: &Ledger) {
    projected(ledger).await;
    let rows = all_rows(ledger).await;
    let (found, expected) = (stored(ledger).await, folded(&rows));
    assert_eq!(found.views.len(), expected.views.len());
    assert!(
        found == expected,
        "views differ from the fold of {} rows",
        rows.len()
    );
}

/// After a random load with catalogs published in between, views and things equal the fold of the ledger, byte for
/// byte; rebuilt from nothing they are the same bytes.
///
/// Failed when things that only the state names were not loaded (a purchase gives slots to resources that wait), when a
/// batch was folded with the newest catalog instead of each row's, and when a batch left out its partition's last row.
#[tokio::test(flavor = "multi_thread")]
async fn views_equal_the_fold_and_a_rebuild_gives_the_same_bytes() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &WORKERS).await;
    for round in 0..8 {
        load(&running, round * 150, 150).await;
        if round % 3 == 2 {
            let text = CATALOG.replace(
                "resumes = { limit = 3 }",
                &format!("resumes = {{ limit = {} }}", 3 + round),
            );
            publish_catalog(&ledger, PRODUCT, &text, None)
                .await
                .unwrap();
        }
    }
    assert_views(&ledger).await;
    running.stop().await;

    let before = stored(&ledger).await;
    assert!(
        before.things.len() > 100 && before.views.len() > 30,
        "the load leaves traces"
    );
    ledger
        .reset_views(&(0..PARTITIONS).collect::<Vec<_>>())
        .await
        .unwrap();
    let running = Running::start(&database, &topics, &[Role::Projector]).await;
    projected(&ledger).await;
    running.stop().await;
    assert!(stored(&ledger).await == before, "the rebuilt views differ");
}

/// A projector that comes late, and one whose broker goes and comes again, has holes to heal: views are whole.
///
/// Failed when a hole was passed over (the record was taken whatever its offset), by the gap in a subject's numbers.
#[tokio::test(flavor = "multi_thread")]
async fn holes_are_healed_from_the_ledger() {
    let database = Database::fresh().await;
    let (topics, broker) = embedded_topics().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &[Role::Relay]).await;
    load(&running, 0, 200).await;
    running.stop().await;
    let running = Running::start(&database, &topics, &WORKERS).await;
    load(&running, 200, 200).await;
    assert_views(&ledger).await;
    for round in 2..5 {
        broker.set_reachable(false).unwrap();
        load(&running, round * 200, 100).await;
        broker.set_reachable(true).unwrap();
        load(&running, round * 200 + 100, 100).await;
    }
    assert_views(&ledger).await;
    running.stop().await;
}

/// Without any Kafka, every node's projector follows the ledger alone; that two of them are at the same partitions
/// changes nothing.
///
/// Failed when projectors waited for an assignment for ever.
#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_views_are_made_from_the_ledger_alone() {
    let database = Database::fresh().await;
    // Nobody listens there.
    let topics =
        quota_server::topics::Topics::of_cluster(quota_kafka::Settings::new("127.0.0.1:9", "test"));
    let ledger = database.ledger().await;
    let one = Running::start(&database, &topics, &WORKERS).await;
    let two = Running::start(&database, &topics, &WORKERS).await;
    load(&one, 0, 200).await;
    load(&two, 200, 200).await;
    assert_views(&ledger).await;
    for round in 2..6 {
        futures::future::join(
            load(&one, round * 200, 100),
            load(&two, round * 200 + 100, 100),
        )
        .await;
    }
    assert_views(&ledger).await;
    one.stop().await;
    two.stop().await;
}

/// Where the group has nothing to give, since the topic is not there, views are made all the same.
///
/// Failed when a projector that reached Kafka waited for an assignment for ever.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_topic_views_are_made_from_the_ledger_alone() {
    let Some(brokers) = real_brokers() else {
        return;
    };
    let database = Database::fresh().await;
    let prefix = format!("t{}.", uuid::Uuid::new_v4().simple());
    let settings = quota_kafka::Settings::new(brokers, "test");
    let topics = quota_server::topics::Topics::of_cluster(settings).with_prefix(&prefix);
    let running = Running::start(&database, &topics, &[Role::Projector]).await;
    load(&running, 0, 200).await;
    assert_views(&database.ledger().await).await;
    running.stop().await;
}

/// Several projectors share the partitions; one that goes leaves its own to the others, and all stays whole.
///
/// Failed when a partition's states were kept although another projector had been at it meanwhile, and the
/// checkpoint was not compared.
#[tokio::test(flavor = "multi_thread")]
async fn projectors_share_the_work_and_take_over() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let one = Running::start(&database, &topics, &WORKERS).await;
    load(&one, 0, 200).await;
    let two = Running::start(&database, &topics, &WORKERS).await;
    for round in 1..6 {
        futures::future::join(
            load(&one, round * 200, 100),
            load(&two, round * 200 + 100, 100),
        )
        .await;
    }
    assert_views(&ledger).await;
    two.stop().await;
    load(&one, 2_000, 200).await;
    assert_views(&ledger).await;
    let three = Running::start(&database, &topics, &WORKERS).await;
    load(&three, 3_000, 200).await;
    one.stop().await;
    load(&three, 4_000, 200).await;
    assert_views(&ledger).await;
    three.stop().await;
}

/// A step from a checkpoint that has moved since, as a projector takes that slept through a rebalance, changes nothing.
///
/// Failed when the statement that saves views did not compare the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_changes_nothing() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &WORKERS).await;
    load(&running, 0, 300).await;
    projected(&ledger).await;
    let old = stored(&ledger).await;
    let steps: Vec<Advance> = (0..PARTITIONS)
        .zip(ledger.checkpoints().await.unwrap())
        .map(|(partition, next)| Advance {
            partition,
            from: next - 3,
            to: next,
        })
        .collect();
    load(&running, 300, 300).await;
    projected(&ledger).await;
    running.stop().await;
    let new = stored(&ledger).await;
    assert!(old != new);
    let views: Vec<View> = old.views.into_values().collect();
    let things: Vec<SubjectRow> = old.things.into_values().collect();
    let saved = ledger.save_views(&steps, &views, &things).await.unwrap();
    assert_eq!(saved.moved, Vec::<u32>::new());
    assert!(stored(&ledger).await == new);
    assert_views(&ledger).await;
}

/// A row of a type that this build does not know stops its partition, before that row; the others go on, and so does
/// that partition once somebody can read it (here: never).
///
/// Failed when such a row was skipped with a log line.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_stops_its_partition_alone() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &[Role::Relay, Role::Projector]).await;
    load(&running, 0, 200).await;
    projected(&ledger).await;
    let strange = append_strange(&ledger).await;
    for n in 0..100 {
        let subject = format!("later{n}");
        if partition_of(&subject_key(PRODUCT, &subject), PARTITIONS) != strange.partition {
            running
                .submit(&subject, Wish::Record(fact(usage("units", 1))))
                .await;
        }
    }
    let heads: Vec<i64> = ledger
        .heads()
        .await
        .unwrap()
        .iter()
        .map(|head| head.offset)
        .collect();
    eventually(
        "the others are projected",
        Duration::from_secs(20),
        || async {
            let checkpoints = ledger.checkpoints().await.unwrap();
            (0..PARTITIONS)
                .zip(checkpoints)
                .zip(&heads)
                .all(|((partition, next), head)| {
                    next == if partition == strange.partition {
                        strange.offset
                    } else {
                        head + 1
                    }
                })
        },
    )
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let index = usize::try_from(strange.partition).unwrap();
    assert_eq!(ledger.checkpoints().await.unwrap()[index], strange.offset);
    running.stop().await;
}

/// Appends an event of a type of the future.
async fn append_strange(ledger: &Ledger) -> Row {
    let mut row = all_rows(ledger)
        .await
        .into_iter()
        .rev()
        .find(|row| !row.subject.is_empty())
        .unwrap();
    let mut lane = ledger.lane().await.unwrap();
    let (partition, head) = lane.heads_of(&[row.partition]).await.unwrap()[0];
    let id = unique("strange");
    let before = ledger
        .subject_page(partition, &row.subject_key, -1, 100_000)
        .await
        .unwrap()
        .pop()
        .unwrap();
    row.offset = head.offset + 1;
    row.subject_seq = before.subject_seq + 1;
    row.subject_prev = Some(before.offset);
    row.event_key = event_key(&row.product, &row.subject, &row.source, &id);
    row.id = id.into();
    row.event_type = "usage.dreamt".into();
    row.recorded_at = head.recorded_at;
    row.hash = row.expected_hash(&head.hash);
    let fence = Fence {
        partition,
        first_offset: row.offset,
        previous_hash: head.hash,
    };
    lane.append(std::slice::from_ref(&row), &[fence], false)
        .await
        .unwrap();
    row
}
