//! The ledger's topic, also when its broker is stopped and killed.

use crate::client::{Client, unique};
use crate::program::{Node, until};
use crate::servers::{Database, Kafka};
use crate::topics::assert_topic_is_ledger;
use quota_core::state::FOLD_VERSION;
use quota_postgres::Ledger;
use serde_json::json;

const PRODUCT: &str = "applyx";
const SUBJECTS: usize = 20;

/// Invariant 7: the topic holds every row, in offset order per partition, with headers that a row can be rebuilt from; and
/// invariant 5: views are the fold. Both with a broker that is stopped, and killed, while the service goes on writing and
/// answering, without a restart. Seen to fail with a relay that skipped rows, and with one that published a run backwards.
#[tokio::test(flavor = "multi_thread")]
async fn the_topic_is_the_ledger_whatever_the_broker_does() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    for product in ["applyx", "candidate-chat", "resume-builder"] {
        database.publish_shipped(product);
    }
    let key = database.key();
    let mut node = Node::serve(&database, &kafka).await;
    let client = node.client(&key);
    use_some(&client, "before").await;
    assert_topic_is_ledger(&database, &kafka).await;
    for fault in ["stop", "kill"] {
        kafka.run(fault);
        use_some(&client, fault).await;
        assert_checks(&client, fault).await;
        kafka.run("start");
        use_some(&client, &format!("after-{fault}")).await;
        assert_topic_is_ledger(&database, &kafka).await;
        views_catch_up(&database).await;
    }
    let verified = database.verify();
    assert_eq!(
        verified["views"],
        5 * SUBJECTS,
        "each subject has a view: {verified}"
    );
    node.stop().await;
    assert_topic_is_ledger(&database, &kafka).await;
}

/// One allowed use, one denied, and an event of each of some subjects.
async fn use_some(client: &Client, run: &str) {
    for number in 0..SUBJECTS {
        let subject = format!("{run}-{number}");
        for status in [200, 402] {
            let answer = client
                .consume(PRODUCT, &subject, "resume_edits", None)
                .await
                .unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
        }
        let data = json!({"feature": "interviews", "amount": 1});
        client
            .tell(PRODUCT, &subject, &unique("e"), "usage.recorded", data)
            .await
            .unwrap()
            .expect(200);
    }
}

/// Checks know what was consumed during the outage.
async fn assert_checks(client: &Client, run: &str) {
    for number in 0..SUBJECTS {
        let check = client
            .check(PRODUCT, &format!("{run}-{number}"), "resume_edits")
            .await;
        assert_eq!(
            (&check["allowed"], &check["used"]),
            (&json!(false), &json!(1)),
            "{check}"
        );
    }
}

/// The projector reaches the ledger's heads.
async fn views_catch_up(database: &Database) {
    let ledger = Ledger::connect(&database.url, FOLD_VERSION, 1)
        .await
        .unwrap();
    until("views are at the heads", async || {
        let heads: Vec<i64> = ledger
            .heads()
            .await
            .unwrap()
            .iter()
            .map(|head| head.offset + 1)
            .collect();
        ledger.checkpoints().await.unwrap() == heads
    })
    .await;
}

/// Invariant 11, and the way it ends: a node that has not reached the topic since its start answers checks but does not
/// write, says so, and writes once the broker is there. Seen to fail with a gate that was always open.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_broker_waits_for_it_before_it_writes() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    kafka.run("stop");
    let mut node = Node::answering(&database, &kafka).await;
    let client = node.client(&key);
    let refused = client
        .consume(PRODUCT, "u1", "resume_edits", None)
        .await
        .unwrap();
    assert_eq!(refused.expect(503)["code"], "unavailable");
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(
        client.check(PRODUCT, "u1", "resume_edits").await["allowed"],
        true
    );
    assert_eq!(
        database.sql("SELECT count(*) FROM ledger WHERE subject <> ''"),
        "0"
    );
    kafka.run("start");
    until("it writes", async || {
        client
            .consume(PRODUCT, "u1", "resume_edits", Some("k"))
            .await
            .unwrap()
            .status
            == 200
    })
    .await;
    until("it is ready", async || {
        client.get("/readyz").await.status == 200
    })
    .await;
    assert_topic_is_ledger(&database, &kafka).await;
    node.stop().await;
}
