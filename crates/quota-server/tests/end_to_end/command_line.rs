//! The command line: what it prints, and its exit codes.

use crate::client::{Answer, event, unique};
use crate::program::{Ended, Node, program, run, until};
use crate::servers::{Database, Kafka, PARTITIONS, root};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;

const PRODUCT: &str = "applyx";

/// `migrate` may be repeated, and never changes the number of partitions.
#[test]
fn migrate_may_be_repeated() {
    let database = Database::migrated();
    let before = database.sql("SELECT ledger_id, partitions, epoch FROM ledger_meta");
    run(&database.url, &["migrate"]).good();
    run(&database.url, &["migrate", "--partitions", PARTITIONS]).good();
    let more = run(&database.url, &["migrate", "--partitions", "16"]);
    assert_eq!(more.code, 2, "{more:?}");
    assert_eq!(
        database.sql("SELECT ledger_id, partitions, epoch FROM ledger_meta"),
        before
    );
    assert_eq!(database.verify()["events"], 0);
}

/// Exit code 2 says that it could not run; nothing goes to stdout then.
#[test]
fn what_cannot_run_is_exit_code_2() {
    let database = Database::migrated();
    for arguments in [
        &["nonsense"][..],
        &[],
        &["serve"],
        &["migrate", "--partitions", "many"],
        &[
            "key",
            "create",
            "--product",
            "applyx",
            "--scope",
            "everything",
        ],
        &["key", "create", "--product", " ", "--scope", "read"],
        &["replay", "--as-of", "yesterday"],
        &[
            "catalog",
            "publish",
            "there-is-no-such-file.toml",
            "--product",
            "applyx",
        ],
        &["catalog", "test", "there-is-no-such-folder"],
    ] {
        let ended = run(&database.url, arguments);
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert_eq!(ended.out, "", "{arguments:?}");
        assert!(!ended.err.is_empty(), "{arguments:?}");
    }
    let nowhere = run("postgres://nobody@127.0.0.1:1/nothing", &["verify"]);
    assert_eq!(nowhere.code, 2, "{nowhere:?}");
    let without = program().arg("verify").output().unwrap();
    assert_eq!(without.status.code(), Some(2));
    assert!(
        String::from_utf8(without.stderr)
            .unwrap()
            .contains("--database-url")
    );
    let help = run(&database.url, &["serve", "--help"]).good();
    for name in [
        "DATABASE_URL",
        "KAFKA_BROKERS",
        "QUOTA_LISTEN",
        "QUOTA_CHECKPOINT_SECONDS",
    ] {
        assert!(help.contains(name), "{name} is not in --help");
    }
}

/// A catalog with faults is not published, and each fault is named; the same text again changes nothing.
#[test]
fn a_catalog_is_published_whole_or_not_at_all() {
    let database = Database::migrated();
    let publish = |text: &str| -> Ended {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("catalog.toml");
        fs::write(&file, text).unwrap();
        run(
            &database.url,
            &[
                "catalog",
                "publish",
                file.to_str().unwrap(),
                "--product",
                PRODUCT,
            ],
        )
    };
    let good =
        fs::read_to_string(root().join("crates/quota-core/catalogs/applyx/catalog.toml")).unwrap();
    let bad = good.replace("rank = 2", "rank = 1").replace(
        "resume_edits = { limit = 1 }",
        "resume_edit = { limit = 1 }",
    );
    let refused = publish(&bad);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    let faults: Vec<&str> = refused
        .err
        .lines()
        .filter(|line| line.contains("catalog.toml: "))
        .collect();
    assert!(faults.len() >= 2, "{faults:?}");
    assert!(
        faults.iter().any(|fault| fault.contains("resume_edit")),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.contains("rank")),
        "{faults:?}"
    );
    assert_eq!(database.sql("SELECT count(*) FROM ledger"), "0");

    publish(&good).good();
    publish(&good).good();
    let versions = "SELECT DISTINCT catalog_version FROM ledger WHERE type = 'catalog.published'";
    assert_eq!(database.sql(versions), "1");
    publish(&good.replace("rank = 3", "rank = 4")).good();
    let partitions = "SELECT catalog_version, count(*) FROM ledger GROUP BY 1 ORDER BY 1";
    assert_eq!(
        database.sql(partitions),
        "1|8\n2|8",
        "each version is in every partition"
    );
    database.verify();
}

/// The shipped scenarios come out as written; a scenario that expects something else is exit code 1.
#[test]
fn scenarios_prove_a_catalog() {
    let catalogs = root().join("crates/quota-core/catalogs");
    let test = |folder: &std::path::Path| run("", &["catalog", "test", folder.to_str().unwrap()]);
    assert!(
        test(&catalogs)
            .good()
            .lines()
            .all(|line| line.starts_with("ok"))
    );
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("scenarios");
    fs::create_dir(&copy).unwrap();
    let catalog = fs::read_to_string(catalogs.join("applyx/catalog.toml")).unwrap();
    fs::write(
        dir.path().join("catalog.toml"),
        catalog.replace(
            "resume_edits = { limit = 1 }",
            "resume_edits = { limit = 2 }",
        ),
    )
    .unwrap();
    fs::copy(
        catalogs.join("applyx/scenarios/free-taste.toml"),
        copy.join("free-taste.toml"),
    )
    .unwrap();
    let failed = test(dir.path());
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.out.starts_with("FAILED"), "{failed:?}");
}

/// A key works or dies on a running node soon after it was made or revoked, and is listed without itself.
#[tokio::test(flavor = "multi_thread")]
async fn keys_work_and_die_on_a_running_node() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let mut node = Node::serve(&database, &kafka).await;
    let made = run(
        &database.url,
        &[
            "key",
            "create",
            "--product",
            PRODUCT,
            "--scope",
            "check,read",
        ],
    )
    .good();
    let key = made.trim();
    assert_eq!(made.lines().count(), 1, "the key stands alone on stdout");
    let client = node.client(key);
    let path = format!("/v1/products/{PRODUCT}/subjects/u1/check?feature=resume_edits");
    until("the key works", async || {
        client.get(&path).await.status == 200
    })
    .await;
    let consumed = client
        .consume(PRODUCT, "u1", "resume_edits", None)
        .await
        .unwrap();
    assert_eq!(
        consumed.status, 403,
        "a scope that it has not: {consumed:?}"
    );

    let listed = run(&database.url, &["key", "list"]).lines();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["product"], &listed[0]["revoked_at"]),
        (&json!(PRODUCT), &Value::Null)
    );
    assert!(
        !listed[0].to_string().contains(key),
        "a listed key must not show itself"
    );
    let id = listed[0]["id"].as_str().unwrap();
    run(&database.url, &["key", "revoke", id]).good();
    until("the key is dead", async || {
        client.get(&path).await.status == 401
    })
    .await;
    assert!(run(&database.url, &["key", "list"]).lines()[0]["revoked_at"].is_string());
    assert_eq!(
        run(&database.url, &["key", "revoke", "key_unknown"]).code,
        1
    );
    node.stop().await;
}

/// Invariants 3 and 4: a row that somebody changed behind the service's back is found, and the first such is named.
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
/// in the second.
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
        crate::client::send(request).await.unwrap()
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
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
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
