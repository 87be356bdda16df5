//! The command line: what it prints, and its exit codes.

use crate::program::{Ended, Node, program, run, until};
use crate::servers::{Database, Kafka, PARTITIONS, root};
use serde_json::{Value, json};
use std::fs;

const PRODUCT: &str = "applyx";

/// `migrate` may be repeated, and never changes the number of partitions. Seen to fail when it asked for 64 of any ledger.
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

/// What is missing on the command line may stand in the environment, and the message says under which name.
#[test]
fn what_is_missing_is_named_with_its_setting() {
    let output = program().arg("serve").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for name in ["--database-url", "DATABASE_URL", "KAFKA_BROKERS"] {
        assert!(said.contains(name), "{said}");
    }
    let output = program().arg("--help").output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

/// Where stderr is no terminal, every line that `serve` says is JSON; and the address that it tells can be connected to.
#[tokio::test(flavor = "multi_thread")]
async fn serve_speaks_json_and_tells_an_address_that_answers() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    let mut command = program();
    command
        .args(["serve", "--listen", "0.0.0.0:0"])
        .env("DATABASE_URL", &database.url)
        .env("KAFKA_BROKERS", &kafka.brokers);
    let mut node = Node::start(command).await;
    assert!(
        node.url().starts_with("http://127.0.0.1:"),
        "{}",
        node.url()
    );
    assert_eq!(node.client("").get("/healthz").await.status, 200);
    node.stop().await;
    let log = node.log();
    assert!(log.contains(node.url()), "{log}");
    for line in log.lines() {
        assert!(
            serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()),
            "{line}"
        );
    }
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
    assert!(nowhere.err.contains("127.0.0.1, port 1"), "{nowhere:?}");
    let no_url = run("db:5432", &["verify"]);
    assert_eq!(no_url.code, 2, "{no_url:?}");
    assert!(no_url.err.contains("postgres://"), "{no_url:?}");
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
    // What is said at a command's arguments is not hidden by what is said where the commands are listed.
    for (command, words) in [
        ("import", "CSV with a header"),
        ("migrate", "CREATEROLE"),
        ("dev", "Ctrl-C stops"),
    ] {
        let help = run(&database.url, &[command, "--help"]).good();
        assert!(help.contains(words), "{command}: {help}");
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

/// A key works or dies on a running node soon after it was made or revoked, and is listed without itself. Seen to fail with
/// keys that were read at the start alone.
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
