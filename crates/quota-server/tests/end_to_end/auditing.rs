//! Auditing on the command line: what `verify` finds, and what `replay` tells.

use crate::client::{Answer, event, send, unique};
use crate::program::{Node, run};
use crate::servers::{Database, Kafka};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const PRODUCT: &str = "applyx";

/// Invariants 3 and 4: a row that somebody changed behind the service's back is found, and the first such is named. Seen to
/// fail with hashes that were not compared.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_first_bad_position() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let mut node = Node::serve(&database, &kafka).await;
    let client = node.client(&key);
    for number in 0..40 {
        let subject = format!("u{number}");
        assert_eq!(
            client
                .consume(PRODUCT, &subject, "resume_edits", None)
                .await
                .unwrap()
                .status,
            200
        );
    }
    node.stop().await;
    let verified = database.verify();
    assert_eq!(
        verified["events"], 48,
        "40 uses, and the catalog in 8 partitions"
    );
    let refused = std::panic::catch_unwind(|| database.sql("DELETE FROM ledger"));
    assert!(refused.is_err(), "even the owner may not");

    let changed = database.sql(
        "WITH used AS (SELECT partition, \"offset\" FROM ledger WHERE type = 'usage.recorded') \
         SELECT partition, max(\"offset\") FROM used GROUP BY 1 ORDER BY 1",
    );
    let places: Vec<(&str, &str)> = changed
        .lines()
        .map(|line| line.split_once('|').unwrap())
        .collect();
    let (first, last) = (places[1], places[places.len() - 1]);
    let tamper = |(partition, offset): (&str, &str), change: &str| {
        database.sql(&format!(
            "ALTER TABLE ledger DISABLE TRIGGER USER; \
             UPDATE ledger SET {change} WHERE partition = {partition} AND \"offset\" = {offset}; \
             ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_change; \
             ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_truncate"
        ));
    };
    for change in [
        "payload = payload || '\\x20'",
        "occurred_at = occurred_at - 1",
        "subject = subject || 'x'",
    ] {
        tamper(last, change);
        assert_bad(&database, last);
    }
    tamper(first, "payload = '\\x7b7d'");
    assert_bad(&database, first);
    // A row that is gone from the end cannot be told from one that never was; one from the middle can.
    tamper(first, "\"offset\" = \"offset\" + 7");
    assert_bad(&database, first);
}

fn assert_bad(database: &Database, (partition, offset): (&str, &str)) {
    let found = run(&database.url, &["verify"]);
    assert_eq!(found.code, 1, "{found:?}");
    let position = format!("{partition}:{offset}");
    let line: Value = serde_json::from_str(found.out.trim()).unwrap();
    assert_eq!(
        (&line["ok"], &line["position"]),
        (&json!(false), &json!(position)),
        "{found:?}"
    );
    assert!(
        found
            .err
            .contains(&format!("first bad position is {position}")),
        "{found:?}"
    );
}

/// Entitlements as they were at a time, and as they were known at a time: what is told late is in the first, and not yet
/// in the second. Seen to fail with `--known-at` ignored.
#[tokio::test(flavor = "multi_thread")]
async fn replay_knows_what_was_and_what_was_known() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let mut node = Node::serve(&database, &kafka).await;
    let client = node.client(&key);
    let used_at = async |id: &str, time: &str| -> Answer {
        let mut event = event(
            "u1",
            id,
            "usage.recorded",
            json!({"feature": "resume_edits", "amount": 1}),
        );
        event["time"] = json!(time);
        let request = client.request(Method::POST, &format!("/v1/products/{PRODUCT}/events"));
        let request = request
            .header("Content-Type", "application/cloudevents+json")
            .body(event.to_string());
        send(request).await.unwrap()
    };
    used_at(&unique("e"), "2026-01-10T00:00:00Z")
        .await
        .expect(200);
    used_at(&unique("e"), "2026-03-10T00:00:00Z")
        .await
        .expect(200);
    let known = client.ledger(PRODUCT, "u1").await[1]["recorded_at"]
        .as_str()
        .unwrap()
        .to_owned();
    tokio::time::sleep(Duration::from_millis(5)).await;
    used_at(&unique("e"), "2026-02-10T00:00:00Z")
        .await
        .expect(200);
    let now = client
        .get(&format!("/v1/products/{PRODUCT}/subjects/u1/entitlements"))
        .await
        .expect(200);
    node.stop().await;

    let replay = |more: &[&str]| -> Vec<Value> {
        let arguments = [&["replay", "--product", PRODUCT, "--subject", "u1"], more].concat();
        run(&database.url, &arguments).lines()
    };
    let used = |lines: &[Value]| lines[0]["features"]["resume_edits"]["used"].clone();
    let today = replay(&[]);
    assert_eq!(today.len(), 1);
    for member in [
        "plan",
        "features",
        "grants",
        "resources",
        "position",
        "catalog_version",
        "subject",
    ] {
        assert_eq!(
            today[0][member], now[member],
            "{member}: replay and the service must agree"
        );
    }
    assert_eq!(used(&today), 3);
    assert_eq!(used(&replay(&["--as-of", "2026-02-28T00:00:00Z"])), 2);
    assert_eq!(
        used(&replay(&["--as-of", "2026-02-10T00:00:00Z"])),
        2,
        "--as-of includes its instant"
    );
    assert_eq!(
        used(&replay(&[
            "--as-of",
            "2026-02-28T00:00:00Z",
            "--known-at",
            &known
        ])),
        1
    );
    assert_eq!(used(&replay(&["--known-at", &known])), 2);
    assert_eq!(replay(&["--as-of", "2025-12-31T00:00:00Z"]).len(), 0);
    assert_eq!(run(&database.url, &["replay"]).lines().len(), 1);
}
