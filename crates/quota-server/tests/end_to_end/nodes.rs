//! Two nodes of one ledger: what one does, the other knows.

use crate::client::{send, unique};
use crate::program::{Node, until};
use crate::servers::{Database, Kafka, root};
use reqwest::Method;
use serde_json::json;

const PRODUCT: &str = "applyx";

/// Invariant 9: a check that asks for a position gets it at once, on any node, and an answer without one is soon as new;
/// a position that nobody has written yet is an error, never older data. Seen to fail with `at_least` ignored, and without
/// the follower.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_does_the_other_knows() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let (mut node_a, mut node_b) = (
        Node::serve(&database, &kafka).await,
        Node::serve(&database, &kafka).await,
    );
    let (a, b) = (node_a.client(&key), node_b.client(&key));
    for _ in 0..30 {
        let subject = unique("u");
        // Both know the subject before.
        assert_eq!(b.check(PRODUCT, &subject, "resume_edits").await["used"], 0);
        let consumed = a
            .consume(PRODUCT, &subject, "resume_edits", None)
            .await
            .unwrap()
            .expect(200);
        let position = consumed["position"].as_str().unwrap();
        let path = format!(
            "/v1/products/{PRODUCT}/subjects/{subject}/check?feature=resume_edits&at_least="
        );
        let check = b.get(&format!("{path}{position}")).await.expect(200);
        assert_eq!(
            (&check["allowed"], &check["used"], &check["position"]),
            (&json!(false), &json!(1), &json!(position))
        );
        assert!(check["age_ms"].is_u64(), "{check}");
        let (partition, _) = position.split_once(':').unwrap();
        let beyond = b.get(&format!("{path}{partition}:1000000")).await;
        assert_eq!(beyond.expect(409)["code"], "position_not_reached");
    }
    let subject = unique("u");
    assert_eq!(b.check(PRODUCT, &subject, "resume_edits").await["used"], 0);
    a.consume(PRODUCT, &subject, "resume_edits", None)
        .await
        .unwrap()
        .expect(200);
    until("the other node has heard of it", async || {
        b.check(PRODUCT, &subject, "resume_edits").await["used"] == 1
    })
    .await;
    // And the other one never allows what the first has used up.
    assert_eq!(
        b.consume(PRODUCT, &subject, "resume_edits", None)
            .await
            .unwrap()
            .status,
        402
    );
    node_a.stop().await;
    node_b.stop().await;
}

/// A retry at another node gets the first node's outcome (invariant 6), and a catalog that one node publishes is in force
/// on the other: at once for what it writes, soon for what it is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_of_one_node_is_in_force_on_the_other() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let (mut node_a, mut node_b) = (
        Node::serve(&database, &kafka).await,
        Node::serve(&database, &kafka).await,
    );
    let (a, b) = (node_a.client(&key), node_b.client(&key));
    let subject = unique("u");
    let first = a
        .consume(PRODUCT, &subject, "resume_edits", Some("k1"))
        .await
        .unwrap();
    let again = b
        .consume(PRODUCT, &subject, "resume_edits", Some("k1"))
        .await
        .unwrap();
    assert!(
        again.replayed && again.timeless() == first.timeless(),
        "{first:?} {again:?}"
    );
    assert_eq!(
        b.consume(PRODUCT, &subject, "resume_edits", None)
            .await
            .unwrap()
            .status,
        402
    );

    let path = format!("/v1/products/{PRODUCT}/catalog");
    let text =
        std::fs::read_to_string(root().join("crates/quota-core/catalogs/applyx/catalog.toml"))
            .unwrap();
    let text = text.replace(
        "resume_edits = { limit = 1 }",
        "resume_edits = { limit = 2 }",
    );
    let put = |text: String| {
        let request = a
            .request(Method::PUT, &path)
            .header("Content-Type", "application/toml");
        send(request.header("If-Match", "\"1\"").body(text))
    };
    assert_eq!(put(text.clone()).await.unwrap().expect(200)["version"], 2);
    assert_eq!(
        put(text.replace("limit = 2", "limit = 3"))
            .await
            .unwrap()
            .status,
        412,
        "the loser of two"
    );
    let consumed = b
        .consume(PRODUCT, &subject, "resume_edits", None)
        .await
        .unwrap()
        .expect(200);
    assert_eq!(
        (&consumed["limit"], &consumed["catalog_version"]),
        (&json!(2), &json!(2))
    );
    until("checks and pages go by it", async || {
        let check = b.check(PRODUCT, &subject, "resume_edits").await;
        check["limit"] == 2 && b.get(&path).await.text == text
    })
    .await;
    let retried = b
        .consume(PRODUCT, &subject, "resume_edits", Some("k1"))
        .await
        .unwrap();
    assert_eq!(
        retried.timeless(),
        first.timeless(),
        "a first outcome stays as it was"
    );
    node_a.stop().await;
    node_b.stop().await;
    database.verify();
}
