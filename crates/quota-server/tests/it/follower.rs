//! Follower: what a node has cached stays true, whoever appends, and whatever becomes of the broker.

use crate::nodes::{
    Database, PARTITIONS, PRODUCT, Running, all_rows, embedded_topics, eventually, load,
};
use quota_core::command::Address;
use quota_core::fold::fold;
use quota_core::lane::WantedSubject;
use quota_core::state::State;
use quota_server::config::Role;
use quota_server::loading::load_one;
use quota_server::shelf::Shelf;
use std::time::Duration;

/// States that a node has cached equal the fold of the ledger, after another node appended, through the topic and,
/// while the broker is away, from the ledger; and they are known to be of the last second.
///
/// Failed when a hole was not read from the ledger, and when heads that were seen were not told to the cache.
#[tokio::test(flavor = "multi_thread")]
async fn cached_states_stay_true() {
    let database = Database::fresh().await;
    let (topics, broker) = embedded_topics().await;
    let ledger = database.ledger().await;
    let writes = Running::start(&database, &topics, &[Role::Relay]).await;
    let reads = Running::start(&database, &topics, &[]).await;
    load(&writes, 0, 100).await;
    for n in 0..60 {
        let address = Address::new(PRODUCT, &format!("s{n}"), PARTITIONS);
        let wanted = WantedSubject {
            partition: address.partition,
            key: address.key,
            things: Vec::new(),
        };
        let node = &reads.node;
        let (state, through) = load_one(&node.ledger, &node.shelf, wanted, true)
            .await
            .unwrap();
        node.cache
            .keep(address.partition, address.key, state, through);
    }
    for round in 1..6 {
        broker.set_reachable(round % 2 == 0).unwrap();
        load(&writes, round * 100, 100).await;
        caught_up(&reads, &ledger).await;
        let known = assert_cached(&reads, &ledger).await;
        assert!(known >= 30, "only {known} of the subjects are still cached");
    }
    let now = reads.node.clock.elapsed();
    for partition in 0..PARTITIONS {
        let view = reads.node.cache.view(partition, &[0; 16], PRODUCT).unwrap();
        assert!(
            now - view.at_head < 2_500_000,
            "partition {partition} is {} µs old",
            now - view.at_head
        );
    }
    writes.stop().await;
    reads.stop().await;
}

async fn caught_up(running: &Running, ledger: &quota_postgres::Ledger) {
    let heads = ledger.heads().await.unwrap();
    eventually(
        "the cache has caught up",
        Duration::from_secs(5),
        || async {
            (0_u32..)
                .zip(&heads)
                .all(|(partition, head)| running.node.cache.head_offset(partition) >= head.offset)
        },
    )
    .await;
}

/// Compares what is cached with the fold; says how many subjects there were.
async fn assert_cached(running: &Running, ledger: &quota_postgres::Ledger) -> usize {
    let rows = all_rows(ledger).await;
    let shelf = Shelf::default();
    for row in &rows {
        shelf.take(row).unwrap();
    }
    let mut known = 0;
    for n in 0..60 {
        let address = Address::new(PRODUCT, &format!("s{n}"), PARTITIONS);
        let Some(cached) = running.node.cache.get(address.partition, &address.key) else {
            continue;
        };
        known += 1;
        let mut state = State::default();
        for row in rows.iter().filter(|row| row.subject_key == address.key) {
            fold(
                &mut state,
                &shelf.get(&row.product, row.catalog_version).unwrap(),
                row,
            )
            .unwrap();
        }
        assert_eq!(cached.subject, state.subject, "s{n}");
        for (key, thing) in cached.things() {
            let expected = state
                .things()
                .find(|(known, _)| *known == key)
                .map(|(_, thing)| thing);
            assert_eq!(Some(thing), expected, "s{n} {key:?}");
        }
    }
    known
}
