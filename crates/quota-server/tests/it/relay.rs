//! Relay: the topic holds every row of the ledger, in order, whatever comes between.

use crate::kafkas::{OwnKafka, read_topic};
use crate::nodes::{
    Database, PARTITIONS, Running, all_rows, eventually, fact, load, real_topics, topics_of, usage,
};
use quota_core::command::{Answer, Wish};
use quota_core::digest::genesis;
use quota_core::record::{from_record, to_record};
use quota_core::row::Row;
use quota_kafka::{Headers, Outgoing, Publisher, PublisherOptions, Record};
use quota_postgres::{Claims, Ledger};
use quota_server::config::Role;
use quota_server::topics::Topics;
use std::collections::BTreeMap;
use std::time::Duration;

/// The ledger offsets of records, by partition, in the order of the topic.
fn offsets(records: &[Record]) -> BTreeMap<i32, Vec<i64>> {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for record in records {
        let offset = std::str::from_utf8(record.header("ce_offset").unwrap()).unwrap();
        offsets
            .entry(record.partition)
            .or_default()
            .push(offset.parse().unwrap());
    }
    offsets
}

/// Whether the topic has the last row of every partition.
async fn reads_all(topics: &Topics, ledger: &Ledger) -> Vec<Record> {
    let heads = ledger.heads().await.unwrap();
    read_topic(topics, &topics.ledger(), |records| {
        let last = offsets(records);
        (0_i32..).zip(&heads).all(|(partition, head)| {
            head.offset < 0
                || last
                    .get(&partition)
                    .is_some_and(|offsets| offsets.contains(&head.offset))
        })
    })
    .await
}

/// Every offset from 0 to the head comes, and comes first after the one before it.
async fn assert_complete(topics: &Topics, ledger: &Ledger) {
    let records = reads_all(topics, ledger).await;
    let found = offsets(&records);
    for (partition, head) in (0_i32..).zip(ledger.heads().await.unwrap()) {
        let mut next = 0;
        for offset in found.get(&partition).into_iter().flatten() {
            assert!(
                *offset <= next,
                "partition {partition}: {offset} came before {next}"
            );
            next = next.max(offset + 1);
        }
        assert_eq!(next, head.offset + 1, "partition {partition}");
    }
}

/// Every row is in the topic once and in order, and a record is a row again: same bytes, same hash, a whole chain.
///
/// Failed when the relay's reads began one row late, and when the record left `recorded_at` at milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn the_topic_equals_the_ledger() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let running = Running::start(&database, &topics, &[Role::Relay]).await;
    for round in 0..10 {
        load(&running, round * 100, 100).await;
    }
    let ledger = database.ledger().await;
    let records = reads_all(&topics, &ledger).await;
    running.stop().await;

    let rows = all_rows(&ledger).await;
    assert_eq!(records.len(), rows.len());
    let mut of_partition: BTreeMap<i32, std::vec::IntoIter<&Record>> = BTreeMap::new();
    for partition in 0..i32::try_from(PARTITIONS).unwrap() {
        let records: Vec<&Record> = records
            .iter()
            .filter(|record| record.partition == partition)
            .collect();
        of_partition.insert(partition, records.into_iter());
    }
    let info = ledger.info();
    let mut hashes: Vec<_> = (0..PARTITIONS)
        .map(|partition| genesis(&info.id, partition))
        .collect();
    for row in &rows {
        let record = of_partition
            .get_mut(&i32::try_from(row.partition).unwrap())
            .unwrap()
            .next()
            .unwrap();
        assert_record(record, row, &info.id);
        let received = from_record(record.headers(), record.payload()).unwrap();
        let rebuilt = received.into_row(row.subject_prev);
        assert_eq!(rebuilt, *row);
        let hash = &mut hashes[usize::try_from(row.partition).unwrap()];
        assert_eq!(rebuilt.expected_hash(hash), row.hash);
        *hash = row.hash;
    }
}

fn assert_record(record: &Record, row: &Row, ledger: &[u8; 16]) {
    let text = |name: &str| {
        std::str::from_utf8(record.header(name).unwrap_or_default())
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        record.key().unwrap(),
        format!("{}/{}", row.product, row.subject).as_bytes()
    );
    assert_eq!(record.payload().unwrap(), &*row.payload);
    assert_eq!(text("ce_specversion"), "1.0");
    assert_eq!(text("ce_id"), *row.id);
    assert_eq!(text("ce_source"), *row.source);
    assert_eq!(text("ce_type"), format!("quota.{}.v1", row.event_type));
    assert_eq!(text("ce_subject"), *row.subject);
    assert_eq!(text("ce_time"), row.occurred_at.to_string());
    assert_eq!(text("content-type"), "application/json");
    assert_eq!(text("ce_product"), *row.product);
    assert_eq!(
        text("ce_ledgerid"),
        uuid::Uuid::from_bytes(*ledger).to_string()
    );
    assert_eq!(text("ce_epoch"), "0");
    assert_eq!(text("ce_partition"), row.partition.to_string());
    assert_eq!(text("ce_offset"), row.offset.to_string());
    assert_eq!(text("ce_subjectseq"), row.subject_seq.to_string());
    assert_eq!(text("ce_hash"), hex::encode(row.hash));
    assert_eq!(text("ce_catalogversion"), row.catalog_version.to_string());
    assert_eq!(text("ce_recordedtime"), row.recorded_at.to_string());
}

/// A node that starts goes on after the topic's last record: what was there is not sent again, what was not is sent.
///
/// Failed when the relay began at the ledger's head, as it does for a broker that forgets (rows are missing).
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_the_topic() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &[Role::Relay]).await;
    load(&running, 0, 100).await;
    reads_all(&topics, &ledger).await;
    running.stop().await;
    // Without a relay, the ledger goes on.
    let running = Running::start(&database, &topics, &[]).await;
    load(&running, 100, 100).await;
    running.stop().await;
    let running = Running::start(&database, &topics, &[Role::Relay]).await;
    let records = reads_all(&topics, &ledger).await;
    running.stop().await;
    assert_eq!(
        records.len(),
        all_rows(&ledger).await.len(),
        "each row once"
    );
    assert_complete(&topics, &ledger).await;
}

/// Commands go on while the broker is away, and while it is back without its disk; the topic is whole afterwards.
///
/// Failed when the relay, after a cut line, went on from its own cursor instead of the topic's tails; and when rows that
/// the client refuses, since it knows by then that the topic is gone, counted as rows that can never be published; and
/// when the topic was made anew while rows were on their way to the old one (a late row comes first).
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_and_one_that_lost_everything_are_filled_again() {
    let Some(kafka) = OwnKafka::start() else {
        return;
    };
    let topics = topics_of(&kafka.brokers).await;
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &[Role::Relay, Role::Projector]).await;
    load(&running, 0, 200).await;
    assert_complete(&topics, &ledger).await;

    kafka.run("stop");
    load(&running, 200, 200).await;
    kafka.run("start");
    load(&running, 400, 100).await;
    assert_complete(&topics, &ledger).await;

    tokio::task::block_in_place(|| kafka.lose());
    // The relay's client has time to notice that its topic is gone, and then refuses what it is given.
    tokio::time::sleep(Duration::from_secs(5)).await;
    load(&running, 500, 100).await;
    eventually(
        "the topic is made anew",
        Duration::from_secs(90),
        || async { reads_all(&topics, &ledger).await.len() >= all_rows(&ledger).await.len() },
    )
    .await;
    assert_complete(&topics, &ledger).await;
    crate::nodes::projected(&ledger).await;
    running.stop().await;
}

/// A partition whose topic is ahead of the ledger is not relayed: the ledger lost rows, and other rows must not take
/// their offsets in the topic. The others go on.
///
/// Failed when the comparison of tail and head was left out (the partition's rows came after the strange one).
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_ahead_of_the_ledger_stops_its_partition_alone() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let mut lost = ledger.range(3, 0, 1).await.unwrap().remove(0);
    lost.offset = 1_000;
    publish(&topics, &lost, &ledger.info().id).await;
    let running = Running::start(&database, &topics, &[Role::Relay]).await;
    load(&running, 0, 200).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.stop().await;
    let records = read_topic(&topics, &topics.ledger(), |_| false).await;
    let found = offsets(&records);
    for (partition, head) in (0_i32..).zip(ledger.heads().await.unwrap()) {
        let expected = if partition == 3 {
            vec![1_000]
        } else {
            (0..=head.offset).collect()
        };
        assert_eq!(found[&partition], expected, "partition {partition}");
    }
}

async fn publish(topics: &Topics, row: &Row, ledger: &[u8; 16]) {
    let record = to_record(row, ledger, 0);
    let headers = record
        .headers()
        .fold(Headers::with_capacity(16), |headers, (name, value)| {
            headers.add(name, value)
        });
    let outgoing = Outgoing {
        topic: &topics.ledger(),
        partition: Some(i32::try_from(row.partition).unwrap()),
        key: Some(record.key()),
        payload: Some(record.value()),
        headers: Some(headers),
    };
    let publisher = Publisher::open(topics.settings(), &PublisherOptions::default()).unwrap();
    publisher.send(vec![outgoing]).await.unwrap();
}

/// Two nodes append and relay at once: the topic stays in order, and each node's cache sees the other's rows within
/// about a second.
///
/// Failed when heads were read every ten seconds and the topic was not followed.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_see_each_others_rows_within_about_a_second() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let one = Running::start(&database, &topics, &[Role::Relay]).await;
    let two = Running::start(&database, &topics, &[Role::Relay]).await;
    for n in 0..20 {
        let (from, to) = if n % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let subject = format!("s{n}");
        let Answer::Recorded { position, .. } = from
            .submit(&subject, Wish::Record(fact(usage("units", 1))))
            .await
        else {
            panic!("a fact was not recorded");
        };
        eventually(
            "the other node knows of it",
            Duration::from_millis(1_500),
            || async { to.node.cache.head_offset(position.partition) >= position.offset },
        )
        .await;
    }
    futures::future::join(load(&one, 0, 100), load(&two, 1_000, 100)).await;
    assert_complete(&topics, &ledger).await;
    one.stop().await;
    two.stop().await;
}

/// Of two nodes one relays, so that the topic has each row once; when it stands still, holding its claims, the other
/// takes over within seconds.
///
/// Failed when nothing was claimed (rows twice), and when claims ended with their connection alone (no take-over).
#[tokio::test(flavor = "multi_thread")]
async fn one_node_relays_and_another_takes_over() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    // A relay that took its claims and was stopped on the spot, its connection standing.
    let mut still = Claims::open(&ledger).await.unwrap();
    let all: Vec<u32> = (0..PARTITIONS).collect();
    assert_eq!(still.take(&all).await.unwrap().len(), all.len());
    let one = Running::start(&database, &topics, &[Role::Relay]).await;
    let two = Running::start(&database, &topics, &[Role::Relay]).await;
    load(&one, 0, 100).await;
    load(&two, 100, 100).await;
    // A reading ends after some silence, and nothing comes while the claims stand.
    eventually("a take-over", Duration::from_secs(90), || async {
        reads_all(&topics, &ledger).await.len() >= all_rows(&ledger).await.len()
    })
    .await;
    let records = reads_all(&topics, &ledger).await;
    assert_eq!(
        records.len(),
        all_rows(&ledger).await.len(),
        "each row once"
    );
    assert!(still.take(&all).await.is_err(), "the claims are gone");
    one.stop().await;
    load(&two, 200, 100).await;
    let records = reads_all(&topics, &ledger).await;
    two.stop().await;
    assert_eq!(
        records.len(),
        all_rows(&ledger).await.len(),
        "each row once"
    );
    assert_complete(&topics, &ledger).await;
}
