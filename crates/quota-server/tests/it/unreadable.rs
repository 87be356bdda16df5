//! What cannot be read or recorded of one subject does no harm to the others.

use crate::nodes::{
    CATALOG, Database, PARTITIONS, PRODUCT, Running, consume, embedded_topics, fact, projected,
    usage,
};
use quota_core::command::{Address, Answer, Command, Wish};
use quota_core::judge::Question;
use quota_server::admission::Gate;
use quota_server::config::Role;
use quota_server::node::Node;
use quota_server::publishing::publish_catalog;
use std::sync::Arc;

fn record(subject: &str, id: &str) -> Command {
    let mut fact = fact(usage("units", 1));
    fact.id = id.to_owned();
    Command {
        address: Address::new(PRODUCT, subject, PARTITIONS),
        wish: Wish::Record(fact),
    }
}

/// A subject whose stored view cannot be read is refused, and whoever came with it in one batch is served.
///
/// Failed when one subject that could not be folded sent its whole batch round and round (503 for all of it).
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_subject_is_refused_alone() {
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let (topics, _broker) = embedded_topics().await;
    let running = Running::start(&database, &topics, &[Role::Projector]).await;
    for subject in ["a", "bad", "c"] {
        running
            .submit(subject, Wish::Record(fact(usage("units", 1))))
            .await;
    }
    projected(&ledger).await;
    running.stop().await;
    let version = quota_core::state::FOLD_VERSION;
    database.psql(&format!(
        "UPDATE entitlement_views_v{version} SET state = 'no state' WHERE subject = 'bad'"
    ));

    let running = Running::start(&database, &topics, &[]).await;
    let commands = ["a", "bad", "c"].map(|subject| record(subject, &format!("of-{subject}")));
    let answers = running.node.writer.submit_all(commands.into()).await;
    assert!(
        matches!(
            &answers[..],
            [
                Answer::Recorded { .. },
                Answer::Refused(refusal),
                Answer::Recorded { .. }
            ] if refusal.status == 503
        ),
        "{answers:?}"
    );
    running.stop().await;
}

/// What the table cannot hold is refused for good, and whoever came with it in one batch is served, in order.
///
/// Failed when an append that the database called invalid was taken for a ledger that is away (503 for all of it).
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_refused_alone() {
    let database = Database::fresh().await;
    let (topics, _broker) = embedded_topics().await;
    let running = Running::start(&database, &topics, &[]).await;
    let ids = ["1", "2", "no\0text", "4", "5"];
    let commands = ids.map(|id| record("one", id));
    let answers = running.node.writer.submit_all(commands.into()).await;
    let offsets: Vec<Option<i64>> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Recorded { position, .. } => Some(position.offset),
            Answer::Refused(refusal) => {
                assert_eq!((refusal.status, refusal.code), (422, "not_recordable"));
                None
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let first = offsets[0].unwrap();
    let expected = [
        Some(first),
        Some(first + 1),
        None,
        Some(first + 2),
        Some(first + 3),
    ];
    assert_eq!(offsets, expected);
    running.stop().await;
}

/// A state that was loaded from beyond a catalog's switch is judged by that catalog, also where the node had not read it.
///
/// Failed when the catalog was chosen before the state was loaded (version 1, and an event that it knows nothing of).
#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_judged_by_the_catalog_of_what_it_loaded() {
    let database = Database::fresh().await;
    // Nothing reads on for this node.
    let (node, _queue) = Node::open(&database.url, Arc::new(Gate::open()))
        .await
        .unwrap();
    let less = CATALOG.replace("limit = 1000000,", "limit = 2,");
    publish_catalog(&database.ledger().await, PRODUCT, &less, None)
        .await
        .unwrap();
    let (topics, _broker) = embedded_topics().await;
    let other = Running::start(&database, &topics, &[]).await;
    for _ in 0..2 {
        other
            .submit("u", Wish::Consume(consume("units", None)))
            .await;
    }
    other.stop().await;
    let question = Question {
        feature: "units".into(),
        amount: 1,
        resource: None,
    };
    let address = Address::new(PRODUCT, "u", PARTITIONS);
    let (decision, _) = node.check(&address, &question, None).await.unwrap();
    assert_eq!(
        (
            decision.catalog_version,
            decision.outcome.used,
            decision.outcome.limit
        ),
        (2, 2, Some(2))
    );
}
