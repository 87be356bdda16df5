//! Many clients at once at a limit, on one node and on two.

use crate::client::{Answer, Client, unique};
use crate::program::Node;
use crate::servers::{Database, Kafka};
use crate::topics::assert_topic_is_ledger;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const PRODUCT: &str = "applyx";
const CLIENTS: usize = 64;
const ROUNDS: usize = 3;

/// Invariant 2: what consume allowed never exceeds a hard limit, whatever the concurrency and the number of nodes; and
/// invariant 4: the ledger stays dense. Seen to fail with a node whose cached states did not learn of the other node's
/// events: two were allowed one use.
#[tokio::test(flavor = "multi_thread")]
async fn a_race_gets_the_limit_and_not_one_more() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let nodes = [
        Node::serve(&database, &kafka).await,
        Node::serve(&database, &kafka).await,
    ];
    let both = nodes.each_ref().map(|node| node.client(&key));
    for clients in [&both[..1], &both[..]] {
        for (plan, feature, message, limit) in [
            ("free", "resume_edits", "Resume limit reached", 1),
            ("basic", "interviews", "Interview limit reached", 3),
            ("basic", "resume_edits", "Resume limit reached", 10),
        ] {
            for _ in 0..ROUNDS {
                let subject = unique("racer");
                if plan != "free" {
                    both[1].purchase(PRODUCT, &subject, plan).await;
                }
                let answers = race(clients, &subject, feature).await;
                let denied = all_but_the_limit_denied(&answers, limit);
                for denial in denied {
                    assert_own_denial(&denial, plan, feature, message, limit);
                }
                assert_ledger(&both[0], &subject, &answers, limit).await;
            }
        }
    }
    assert_topic_is_ledger(&database, &kafka).await;
    database.verify();
}

/// All clients consume at the same moment, every other one with a key of its own.
async fn race(clients: &[Client], subject: &str, feature: &'static str) -> Vec<Answer> {
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut racers = JoinSet::new();
    for number in 0..CLIENTS {
        let client = clients[number % clients.len()].clone();
        let (start, subject) = (Arc::clone(&start), subject.to_owned());
        racers.spawn(async move {
            let key = (number % 4 < 2).then(|| format!("key-{number}"));
            start.wait().await;
            client
                .consume(PRODUCT, &subject, feature, key.as_deref())
                .await
                .unwrap()
        });
    }
    racers.join_all().await
}

/// Exactly the limit was allowed; those that were not.
fn all_but_the_limit_denied(answers: &[Answer], limit: usize) -> Vec<Value> {
    let (allowed, denied): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(
        (allowed.len(), denied.len()),
        (limit, CLIENTS - limit),
        "{answers:?}"
    );
    let used: BTreeSet<i64> = allowed
        .iter()
        .map(|answer| answer.json()["used"].as_i64().unwrap())
        .collect();
    assert_eq!(
        used,
        (1..=i64::try_from(limit).unwrap()).collect(),
        "each allowed use has a number of its own"
    );
    denied.iter().map(|answer| answer.expect(402)).collect()
}

/// The product's own words for it, and the events that used it up.
fn assert_own_denial(denial: &Value, plan: &str, feature: &str, message: &str, limit: usize) {
    assert_eq!(denial["allowed"], false);
    assert_eq!(
        (&denial["reason"], &denial["code"]),
        (&"limit_reached".into(), &"UPGRADE_REQUIRED".into())
    );
    assert_eq!(denial["denial"]["status"], 402);
    let error = &denial["denial"]["body"]["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&"LIMIT_REACHED".into(), &message.into()),
        "{denial}"
    );
    assert_eq!(
        (&error["feature"], &error["plan"]),
        (&feature.into(), &plan.into()),
        "{denial}"
    );
    assert_eq!(
        (&error["used"], &error["limit"]),
        (&limit.into(), &limit.into()),
        "{denial}"
    );
    assert!(
        !error["upgrade_plans"].as_array().unwrap().is_empty(),
        "{denial}"
    );
    assert_eq!(
        denial["evidence"].as_array().unwrap().len(),
        limit,
        "{denial}"
    );
}

/// The subject's events are numbered without a gap, and every allowed use is one of them, at the place that it names.
async fn assert_ledger(client: &Client, subject: &str, answers: &[Answer], limit: usize) {
    let events = client.ledger(PRODUCT, subject).await;
    for (number, event) in (1_u64..).zip(&events) {
        assert_eq!(event["subject_seq"], number, "{event}");
    }
    let used = events
        .iter()
        .filter(|event| event["type"] == "usage.recorded");
    let used: BTreeSet<&str> = used
        .map(|event| event["position"].as_str().unwrap())
        .collect();
    let bodies: Vec<Value> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .map(Answer::json)
        .collect();
    let told: BTreeSet<&str> = bodies
        .iter()
        .map(|body| body["position"].as_str().unwrap())
        .collect();
    assert_eq!(used, told);
    assert_eq!(used.len(), limit);
}
