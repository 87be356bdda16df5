//! Receipts: asked for over HTTP, checked offline by the program, which needs neither a service nor a database for it.

use crate::client::{Answer, Client};
use crate::program::{Ended, Node, program, run, until};
use crate::servers::{Database, Kafka};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const PRODUCT: &str = "applyx";

/// A node that signs every second, with a key of the test's own.
struct Scene {
    database: Database,
    kafka: Kafka,
    folder: TempDir,
    key: String,
}

impl Scene {
    fn new() -> Self {
        let (database, kafka) = (Database::migrated(), Kafka::start());
        database.publish_shipped(PRODUCT);
        let key = database.key();
        Self {
            database,
            kafka,
            folder: tempfile::tempdir().unwrap(),
            key,
        }
    }

    async fn serve(&self) -> Node {
        let mut command = program();
        command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--checkpoint-seconds",
                "1",
            ])
            .arg("--checkpoint-key")
            .arg(self.folder.path().join("key"))
            .arg("--checkpoint-file")
            .arg(self.checkpoints())
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BROKERS", &self.kafka.brokers);
        let node = Node::start(command).await;
        let client = node.client("");
        until("it is ready for writing", async || {
            client.get("/readyz").await.status == 200
        })
        .await;
        node
    }

    fn checkpoints(&self) -> std::path::PathBuf {
        self.folder.path().join("checkpoints.ndjson")
    }

    /// The public key of this ledger's checkpoints.
    fn public_key(&self) -> String {
        let text = fs::read_to_string(self.checkpoints()).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        last["key"].as_str().unwrap().to_owned()
    }

    /// Checks a receipt without any of the servers.
    fn check(&self, receipt: &str, key: &str) -> Ended {
        let file = self.folder.path().join("receipt.json");
        fs::write(&file, receipt).unwrap();
        check(&file, key)
    }
}

fn check(file: &Path, key: &str) -> Ended {
    let file = file.to_str().unwrap();
    run("", &["receipt", "check", file, "--trusted-key", key])
}

fn path(subject: &str, position: &str) -> String {
    format!("/v1/products/{PRODUCT}/subjects/{subject}/ledger/{position}/receipt")
}

/// The receipt, once a checkpoint covers the event.
async fn receipt(client: &Client, subject: &str, position: &str) -> Answer {
    let path = path(subject, position);
    until("a checkpoint covers it", async || {
        let answer = client.get(&path).await;
        if answer.status == 409 {
            assert_eq!(answer.json()["code"], "no_checkpoint_yet", "{answer:?}");
        }
        answer.status != 409
    })
    .await;
    client.get(&path).await
}

async fn use_one(client: &Client, subject: &str) -> String {
    let answer = client.consume(PRODUCT, subject, "resume_edits", None).await;
    let position = answer.unwrap().expect(200)["position"].clone();
    position.as_str().unwrap().to_owned()
}

/// A receipt proves its event to whoever has the ledger's public key, also an old event, by a node that has just started; it
/// shows nobody else's events, and nobody else gets it. Failed with keys that were not compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_proves_an_event_offline() {
    let scene = Scene::new();
    let mut node = scene.serve().await;
    let client = node.client(&scene.key);
    let mine = use_one(&client, "mine").await;
    let mut others = Vec::new();
    for number in 0..40 {
        others.push(use_one(&client, &format!("other-{number}")).await);
    }
    let text = receipt(&client, "mine", &mine).await;
    text.expect(200);
    assert!(
        !text.text.contains("other-"),
        "somebody else's content: {}",
        text.text
    );
    let key = scene.public_key();
    let proved: Value = serde_json::from_str(&scene.check(&text.text, &key).good()).unwrap();
    assert_eq!(
        (&proved["ok"], &proved["subject"], &proved["type"]),
        (&json!(true), &json!("mine"), &json!("usage.recorded"))
    );
    assert_eq!(
        scene.check(&text.text, &"0".repeat(64)).code,
        1,
        "another key"
    );
    assert_eq!(check(Path::new("/nowhere/receipt.json"), &key).code, 2);
    assert_eq!(check(Path::new("/dev/null"), "no key").code, 2);

    refused(&client, &node, &scene, &mine, &others[0]).await;
    node.stop().await;
    // The checkpoints that it made are in the topic.
    let mut node = scene.serve().await;
    let client = node.client(&scene.key);
    let again = receipt(&client, "mine", &mine).await;
    again.expect(200);
    scene.check(&again.text, &key).good();
    let last = others.last().unwrap();
    let answer = receipt(&client, "other-39", last).await;
    answer.expect(200);
    scene.check(&answer.text, &key).good();
    assert_tampered(&scene, &answer.json(), &key);
    node.stop().await;
}

/// Whose it is not gets none, and learns nothing.
async fn refused(client: &Client, node: &Node, scene: &Scene, mine: &str, others: &str) {
    let code = async |subject: &str, position: &str, status: u16| {
        let answer = client.get(&path(subject, position)).await;
        answer.expect(status)["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code("mine", others, 404).await, "unknown_event");
    assert_eq!(code("nobody", mine, 404).await, "unknown_event");
    let (partition, _) = mine.split_once(':').unwrap();
    for unknown in [
        format!("{partition}:999999"),
        format!("{partition}:-1"),
        format!("{mine}@7"),
        "4000000000:0".to_owned(),
        format!("{partition}:9223372036854775807"),
    ] {
        assert_eq!(
            code("mine", &unknown, 404).await,
            "unknown_event",
            "{unknown}"
        );
    }
    for wrong in ["x", "1", ":", "1:x", "1:2@"] {
        assert_eq!(
            code("mine", wrong, 422).await,
            "invalid_position",
            "{wrong}"
        );
    }
    let scopes = ["--scope", "publish,consume,check,admin,gateway"];
    let arguments = [&["key", "create", "--product", "*"], &scopes[..]].concat();
    let other = run(&scene.database.url, &arguments).good();
    let without = node.client(other.trim());
    until("the key is known", async || {
        without.get(&path("mine", mine)).await.status != 401
    })
    .await;
    assert_eq!(without.get(&path("mine", mine)).await.status, 403);
    assert_eq!(
        node.client("nonsense")
            .get(&path("mine", mine))
            .await
            .status,
        401
    );
}

/// Whatever is changed in a receipt, it proves nothing any more.
fn assert_tampered(scene: &Scene, receipt: &Value, key: &str) {
    scene.check(&receipt.to_string(), key).good();
    let flip = |text: &str| {
        let first = if text.starts_with('0') { "1" } else { "0" };
        format!("{first}{}", &text[1..])
    };
    let changes: Vec<(&str, Value)> = vec![
        ("/row/payload", json!("{\"amount\":1}")),
        ("/row/subject", json!("somebody-else")),
        ("/row/id", json!("another")),
        ("/row/recorded_at", json!("2026-01-01T00:00:00.000000Z")),
        ("/row/offset", json!(0)),
        ("/row/partition", json!(7)),
        (
            "/row/hash",
            json!(flip(receipt["row"]["hash"].as_str().unwrap())),
        ),
        (
            "/previous_hash",
            json!(flip(receipt["previous_hash"].as_str().unwrap())),
        ),
        ("/digests", json!(["00".repeat(32)])),
        ("/checkpoint/at", json!("2026-01-01T00:00:00.000000Z")),
        ("/checkpoint/epoch", json!(1)),
        ("/checkpoint/ledger", json!("00".repeat(16))),
        ("/checkpoint/heads", json!([])),
        ("/checkpoint/key", json!("00".repeat(32))),
        ("/checkpoint/signature", json!("00".repeat(64))),
        ("/checkpoint", Value::Null),
    ];
    for (place, value) in changes {
        let mut tampered = receipt.clone();
        let member = tampered.pointer_mut(place).unwrap();
        if *member == value {
            continue;
        }
        *member = value;
        let checked = scene.check(&tampered.to_string(), key);
        assert_eq!(checked.code, 1, "{place}: {checked:?}");
        let line: Value = serde_json::from_str(checked.out.trim()).unwrap();
        assert_eq!(line["ok"], false, "{place}");
    }
    assert_eq!(scene.check("", key).code, 1);
    assert_eq!(scene.check("[]", key).code, 1);
}
