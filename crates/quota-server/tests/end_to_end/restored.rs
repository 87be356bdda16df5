//! A database that was restored to an earlier time, while Kafka carries what came after it.

use crate::client::{Answer, Client, unique};
use crate::program::{Ended, Node, run, until};
use crate::servers::{Database, Kafka, Postgres};
use crate::topics::{LEDGER, Reader, assert_topic_is_ledger, header};
use quota_kafka::Record;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PRODUCT: &str = "applyx";
const SUBJECTS: usize = 12;

/// A ledger that lost what came after its backup.
struct Restored {
    postgres: Postgres,
    kafka: Kafka,
    database: Database,
    key: String,
    /// What was acknowledged before the backup, and after it.
    kept: Vec<Told>,
    lost: Vec<Told>,
}

/// A consume, and its answer.
struct Told {
    subject: String,
    id: String,
    answer: Answer,
}

impl Told {
    fn position(&self) -> String {
        self.answer.json()["position"].as_str().unwrap().to_owned()
    }
}

impl Restored {
    /// Uses something, makes a backup, uses more, and restores the backup.
    async fn new() -> Self {
        let (postgres, kafka) = (Postgres::start(), Kafka::start());
        let database = Database::on(&postgres);
        database.publish_shipped(PRODUCT);
        let key = database.key();
        let mut node = Node::serve(&database, &kafka).await;
        let kept = use_some(&node.client(&key), "kept").await;
        assert_topic_is_ledger(&database, &kafka).await;
        node.stop().await;
        postgres.back_up();
        let mut node = Node::serve(&database, &kafka).await;
        let lost = use_some(&node.client(&key), "lost").await;
        assert_topic_is_ledger(&database, &kafka).await;
        node.stop().await;
        postgres.restore();
        Self {
            postgres,
            kafka,
            database,
            key,
            kept,
            lost,
        }
    }

    /// A node that sees that something is missing, says what to do, and does not write.
    async fn refusing(&self) -> Node {
        let node = Node::answering(&self.database, &self.kafka).await;
        let client = node.client(&self.key);
        let before = self.rows();
        let refused = client.consume(PRODUCT, "somebody", "resume_edits", None);
        assert_eq!(refused.await.unwrap().expect(503)["code"], "unavailable");
        let ready = client.get("/readyz").await.expect(503);
        let why = ready["dependencies"]["writer"]["why"].as_str().unwrap();
        assert!(why.contains("recover --from-kafka"), "{why}");
        assert_eq!(self.rows(), before);
        node
    }

    fn rows(&self) -> String {
        self.database.sql("SELECT count(*) FROM ledger")
    }

    fn recover(&self, way: &str) -> Ended {
        let brokers = ["--kafka-brokers", &self.kafka.brokers];
        run(
            &self.database.url,
            &[&["recover", way], &brokers[..]].concat(),
        )
    }

    /// Verifies ledger and topic, once the topic has all.
    async fn verified(&self) -> Value {
        let verify = || {
            let brokers = ["--kafka-brokers", &self.kafka.brokers];
            let arguments = [&["verify"], &brokers[..]].concat();
            run(&self.database.url, &arguments).lines().remove(0)
        };
        until("the topic has everything", async || {
            verify()["topic"]["behind"] == 0
        })
        .await;
        let verified = verify();
        assert_eq!(verified["ok"], true);
        verified
    }
}

/// Each subject uses its one unit, and is refused another.
async fn use_some(client: &Client, run: &str) -> Vec<Told> {
    let mut told = Vec::new();
    for number in 0..SUBJECTS {
        for status in [200, 402] {
            let (subject, id) = (format!("{run}-{number}"), unique("id"));
            let answer = client
                .consume(PRODUCT, &subject, "resume_edits", Some(&id))
                .await
                .unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
            told.push(Told {
                subject,
                id,
                answer,
            });
        }
    }
    told
}

/// A retry gets the first outcome, byte for byte but for `as_of` and `age_ms`.
async fn assert_remembered(client: &Client, told: &[Told]) {
    for Told {
        subject,
        id,
        answer,
    } in told
    {
        let again = client
            .consume(PRODUCT, subject, "resume_edits", Some(id))
            .await
            .unwrap();
        assert!(again.replayed, "{again:?}");
        assert_eq!(again.status, answer.status);
        assert_eq!(again.timeless(), answer.timeless());
    }
}

async fn ready(client: &Client) {
    until("it writes", async || {
        client.get("/readyz").await.status == 200
    })
    .await;
}

async fn check_at_least(client: &Client, subject: &str, position: &str) -> Answer {
    let path = format!("/v1/products/{PRODUCT}/subjects/{subject}/check");
    let query = format!("{path}?feature=resume_edits&at_least={position}");
    client.get(&query).await
}

/// No position, epoch included, ever stands for two events.
async fn assert_positions_are_unique(kafka: &Kafka, events: usize) {
    let mut reader = Reader::open(kafka, LEDGER);
    reader
        .until("every event", |records| records.len() >= events)
        .await;
    let mut seen: BTreeMap<(i32, String, String), String> = BTreeMap::new();
    for record in &reader.records {
        let of = |name| header(record, name).to_owned();
        let place = (record.partition, of("ce_offset"), of("ce_epoch"));
        let hash = of("ce_hash");
        let known = seen.entry(place).or_insert_with(|| hash.clone());
        assert_eq!(*known, hash, "two events at one position: {record:?}");
    }
}

fn epoch(record: &Record) -> &str {
    header(record, "ce_epoch")
}

/// Refused at the start, with what to do; after `recover --from-kafka` the same process writes, nothing is missing, nothing is
/// twice, and what was acknowledged gets its first outcome. Failed with a `recover` that left out the last row of each
/// partition; fails with an admission that compared nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_tail_comes_back_from_the_topic() {
    let scene = Restored::new().await;
    let mut node = scene.refusing().await;
    let client = node.client(&scene.key);
    let pid = node.ready["pid"].clone();
    let recovered = scene.recover("--from-kafka").lines().remove(0);
    assert_eq!(recovered["events"], scene.lost.len(), "{recovered}");
    assert_eq!(recovered["ok"], true);
    ready(&client).await;
    assert_eq!(node.ready["pid"], pid);
    assert_remembered(&client, &scene.kept).await;
    assert_remembered(&client, &scene.lost).await;
    let last = scene.lost.last().unwrap();
    check_at_least(&client, &last.subject, &last.position())
        .await
        .expect(200);
    let again = scene.recover("--from-kafka").lines().remove(0);
    assert_eq!((&again["events"], &again["ok"]), (&json!(0), &json!(true)));
    let none = scene.recover("--accept-loss").lines().remove(0);
    assert_eq!(none["begun"], false, "nothing is lost: {none}");
    use_some(&client, "after").await;
    assert_topic_is_ledger(&scene.database, &scene.kafka).await;
    let verified = scene.verified().await;
    assert_eq!(
        verified["topic"]["records"], verified["events"],
        "nothing twice"
    );
    node.stop().await;
    scene.postgres.run("stop");
}

/// `recover --accept-loss` begins an epoch: the same process begins anew by itself, what was lost is in no answer and no view,
/// what was kept keeps its positions and first outcomes, and no position is ever given out twice. Fails with nodes that
/// kept what they knew, with a relay that published the new epoch under the old one's number, and with views of the lost tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_is_accepted_begins_an_epoch() {
    let scene = Restored::new().await;
    let mut node = scene.refusing().await;
    let client = node.client(&scene.key);
    let begun = scene.recover("--accept-loss").lines().remove(0);
    assert_eq!(
        (&begun["begun"], &begun["epoch"]),
        (&json!(true), &json!(1))
    );
    ready(&client).await;
    assert_remembered(&client, &scene.kept).await;
    for told in &scene.lost {
        let check = client.check(PRODUCT, &told.subject, "resume_edits").await;
        assert_eq!(
            (&check["used"], &check["allowed"]),
            (&json!(0), &json!(true)),
            "{check}"
        );
        let refused = check_at_least(&client, &told.subject, &told.position()).await;
        let problem = refused.expect(409);
        assert_eq!(problem["code"], "position_not_reached");
        assert!(
            problem["detail"].as_str().unwrap().contains("lost"),
            "{problem}"
        );
        let path = format!("/v1/products/{PRODUCT}/subjects/{}/ledger", told.subject);
        let page = format!("{path}?after={}", told.position());
        client.get(&page).await.expect(409);
    }
    for told in &scene.kept {
        check_at_least(&client, &told.subject, &told.position())
            .await
            .expect(200);
        let events = client.ledger(PRODUCT, &told.subject).await;
        assert!(
            events
                .iter()
                .any(|event| event["position"] == told.position()),
            "{events:?}"
        );
    }
    let after = use_some(&client, "lost").await;
    for told in &after {
        assert!(told.position().ends_with("@1"), "{}", told.position());
        check_at_least(&client, &told.subject, &told.position())
            .await
            .expect(200);
    }
    assert_remembered(&client, &after).await;
    let again = scene.recover("--accept-loss").lines().remove(0);
    assert_eq!(again["begun"], false, "{again}");
    let nothing = scene.recover("--from-kafka").lines().remove(0);
    assert_eq!(
        (&nothing["events"], &nothing["ok"]),
        (&json!(0), &json!(true))
    );
    let verified = scene.verified().await;
    assert_eq!(
        verified["topic"]["given_up"],
        scene.lost.len(),
        "{verified}"
    );
    let events = usize::try_from(verified["events"].as_u64().unwrap()).unwrap();
    assert_positions_are_unique(&scene.kafka, events + scene.lost.len()).await;
    node.stop().await;
    assert_next_start(&scene, &after).await;
}

/// A process that is started later knows the epoch, too, and external consumers can tell the two histories apart.
async fn assert_next_start(scene: &Restored, after: &[Told]) {
    let mut node = Node::serve(&scene.database, &scene.kafka).await;
    let client = node.client(&scene.key);
    assert_remembered(&client, &scene.kept).await;
    assert_remembered(&client, after).await;
    let mut reader = Reader::open(&scene.kafka, LEDGER);
    reader
        .until("the new epoch", |records| {
            records.iter().any(|record| epoch(record) == "1")
        })
        .await;
    let path = format!("/v1/products/{PRODUCT}/subjects/lost-0/ledger");
    let request = client.request(Method::GET, &path);
    let page = crate::client::send(request).await.unwrap().expect(200);
    assert_eq!(page["events"].as_array().unwrap().len(), 2, "{page}");
    node.stop().await;
    scene.verified().await;
}
