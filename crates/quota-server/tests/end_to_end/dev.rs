//! `dev`: everything in one process tree, and a folder that keeps it.

use crate::client::Client;
use crate::program::{Node, program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const PRODUCTS: [&str; 3] = ["applyx", "candidate-chat", "resume-builder"];

async fn dev(data: &Path) -> Node {
    let mut command = program();
    command
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data);
    Node::start(command).await
}

fn client(node: &Node) -> Client {
    node.client(node.ready["admin_key"].as_str().unwrap())
}

/// Invariant 1, on the embedded servers: data, keys and secrets come back with the folder after a stop and after SIGKILL,
/// which leaves a PostgreSQL behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_everything() {
    let root = tempfile::tempdir().unwrap();
    // The server's user has to pass, when this runs as root.
    fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
    let data = root.path().join("data");
    let mut node = dev(&data).await;
    let first = node.ready.clone();
    assert_ready_file(&first, &node);
    let receipt = client(&node)
        .consume("applyx", "u1", "resume_edits", Some("k1"))
        .await
        .unwrap();
    assert_eq!(receipt.status, 200);
    // Ctrl-C; a terminal sends it to all that it started, PostgreSQL's own session is not among them.
    node.signal(Signal::SIGINT);
    assert_eq!(node.ended().await.code(), Some(0), "{}", node.log());

    let mut node = dev(&data).await;
    assert_same(&first, &node.ready);
    assert_kept(&node, &receipt.timeless()).await;
    assert_eq!(
        client(&node)
            .consume("applyx", "u2", "resume_edits", Some("k2"))
            .await
            .unwrap()
            .status,
        200
    );
    let refused = program()
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "two of them had one folder");

    node.signal(Signal::SIGKILL);
    node.ended().await;
    let mut node = dev(&data).await;
    assert_same(&first, &node.ready);
    assert_kept(&node, &receipt.timeless()).await;
    assert_eq!(client(&node).ledger("applyx", "u2").await.len(), 1);
    let catalog = client(&node).get("/v1/products/applyx/catalog").await;
    assert_eq!(catalog.status, 200, "{catalog:?}");
    node.stop().await;
    assert!(nothing_runs_in(&data), "a server was left behind");
}

/// What a fresh `dev` tells a program that starts it.
fn assert_ready_file(ready: &Value, node: &Node) {
    let members: Vec<&str> = ready
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        members,
        [
            "url",
            "admin_key",
            "database_url",
            "kafka_brokers",
            "pid",
            "products"
        ]
    );
    let products: Vec<&str> = ready["products"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(products, PRODUCTS);
    for product in PRODUCTS {
        let secrets = &ready["products"][product];
        assert!(
            secrets["jwt_hs256"]
                .as_str()
                .is_some_and(|secret| secret.len() >= 32),
            "{secrets}"
        );
        assert!(
            !secrets["razorpay_secrets"].as_array().unwrap().is_empty(),
            "{secrets}"
        );
    }
    assert_eq!(
        fs::metadata(&node.ready_file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

fn assert_same(first: &Value, later: &Value) {
    for member in ["admin_key", "products"] {
        assert_eq!(first[member], later[member], "{member}");
    }
    // Its port is the same unless another process has taken it meanwhile, which no test can rule out.
    let password = |ready: &Value| {
        ready["database_url"]
            .as_str()
            .unwrap()
            .split('@')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(password(first), password(later));
}

/// The first outcome is told again, and counts once.
async fn assert_kept(node: &Node, receipt: &str) {
    let client = client(node);
    let again = client
        .consume("applyx", "u1", "resume_edits", Some("k1"))
        .await
        .unwrap();
    assert!(again.replayed, "{again:?}");
    assert_eq!(again.timeless(), receipt);
    let check = client.check("applyx", "u1", "resume_edits").await;
    assert_eq!(
        (&check["allowed"], &check["used"]),
        (&json!(false), &json!(1))
    );
}

/// Every process of a cluster has a folder of its data as working directory.
fn nothing_runs_in(data: &Path) -> bool {
    let data = fs::canonicalize(data).unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut folders =
        processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    !folders.any(|folder| folder.starts_with(&data))
}
