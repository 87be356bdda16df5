//! A database in trouble: read-only, without an answer, full, or gone with another in its place.

use crate::client::{Answer, Client, send, unique};
use crate::program::{LIMIT, Node, run, until};
use crate::servers::{Database, Kafka, Postgres, psql};
use crate::topics::assert_topic_is_ledger;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixStream};

const PRODUCT: &str = "applyx";

/// A node on a PostgreSQL of its own.
struct Scene {
    postgres: Postgres,
    kafka: Kafka,
    database: Database,
    key: String,
}

impl Scene {
    fn new() -> Self {
        let (postgres, kafka) = (Postgres::start(), Kafka::start());
        let database = Database::on(&postgres);
        database.publish_shipped(PRODUCT);
        let key = database.key();
        Self {
            postgres,
            kafka,
            database,
            key,
        }
    }

    fn rows(&self) -> String {
        self.database.sql("SELECT count(*) FROM ledger")
    }

    /// What is in the ledger is good, and so is the topic.
    async fn finish(&self, mut node: Node) {
        assert_topic_is_ledger(&self.database, &self.kafka).await;
        node.stop().await;
        self.database.verify();
    }
}

/// An answer to somebody new.
async fn consume(client: &Client) -> Answer {
    let subject = unique("u");
    client
        .consume(PRODUCT, &subject, "resume_edits", Some("k"))
        .await
        .unwrap()
}

async fn until_status(client: &Client, status: u16) {
    until(&format!("consumes get {status}"), async || {
        consume(client).await.status == status
    })
    .await;
}

/// Consumes are refused, surely unrecorded, checks go on; afterwards the same process writes. Fails with sessions that
/// set `default_transaction_read_only` off.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_costs_503_and_no_more() {
    let scene = Scene::new();
    let node = Node::serve(&scene.database, &scene.kafka).await;
    let client = node.client(&scene.key);
    until_status(&client, 200).await;
    for read_only in ["on", "off"] {
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {read_only}");
        scene.database.sql(&set);
        scene.database.sql("SELECT pg_reload_conf()");
        if read_only == "off" {
            break;
        }
        until_status(&client, 503).await;
        let before = scene.rows();
        for _ in 0..20 {
            let refused = consume(&client).await.expect(503);
            assert_eq!(refused["code"], "unavailable");
            let check = client.check(PRODUCT, "somebody", "resume_edits").await;
            assert_eq!(check["allowed"], true);
        }
        assert_eq!(scene.rows(), before);
    }
    until_status(&client, 200).await;
    scene.finish(node).await;
}

/// A server that stands still, as behind a disk that does not answer: every caller hears 503 or 504 all the same, and once it
/// goes on, so does the node; what was unknown is found out, and is recorded once. Fails with a lane that waited for
/// its answer for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stands_still_is_waited_out() {
    let scene = Scene::new();
    let node = Node::serve(&scene.database, &scene.kafka).await;
    let client = node.client(&scene.key);
    until_status(&client, 200).await;
    let signal = |signal| {
        for pid in scene.postgres.processes() {
            kill(Pid::from_raw(pid), signal).ok();
        }
    };
    signal(Signal::SIGSTOP);
    for _ in 0..3 {
        let answer = client
            .consume(PRODUCT, "still", "resume_edits", Some("k"))
            .await;
        let answer = answer.unwrap();
        assert!([503, 504].contains(&answer.status), "{answer:?}");
    }
    signal(Signal::SIGCONT);
    until("the retry is told", async || {
        let answer = client
            .consume(PRODUCT, "still", "resume_edits", Some("k"))
            .await;
        answer.unwrap().status == 200
    })
    .await;
    assert_eq!(client.ledger(PRODUCT, "still").await.len(), 1);
    until_status(&client, 200).await;
    scene.finish(node).await;
}

/// A table that cannot grow: the file system refuses (here by a limit on files' sizes, which takes no rights and works
/// everywhere; PostgreSQL meets it where it would meet a full disk, when it extends the file). 503 and nothing recorded, and
/// when there is room again the same process writes. Fails with an append whose failure ended the lane.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_503_and_no_more() {
    let scene = Scene::new();
    scene.database.sql("ALTER SYSTEM SET autovacuum = off");
    scene.database.sql("SELECT pg_reload_conf()");
    let node = Node::serve(&scene.database, &scene.kafka).await;
    let client = node.client(&scene.key);
    until_status(&client, 200).await;
    // Write-ahead log has files of 16 MB, which must go on: so the table is made larger than those, by rows of a
    // transaction that is undone.
    scene.database.sql(
        "BEGIN;
         INSERT INTO ledger (partition, \"offset\", subject_key, subject_seq, event_key, product, subject, source, id, type,
                             type_version, occurred_at, recorded_at, catalog_version, payload, hash)
         SELECT 0, 1000000 + n, decode(md5(n::text), 'hex'), 1, decode(md5(n::text), 'hex'), 'none', 'none',
                repeat('x', 1800), n::text, 'none', 1, 0, 0, 0, '', sha256(n::text::bytea)
         FROM generate_series(1, 9000) AS n;
         ROLLBACK",
    );
    let size: u64 = scene
        .database
        .sql("SELECT pg_relation_size('ledger')")
        .parse()
        .unwrap();
    assert!(size > 16 << 20, "{size}");
    let owner = std::fs::metadata(scene.postgres.data()).unwrap();
    let limit = |limit: &str| {
        for pid in scene.postgres.processes() {
            // As whom the server runs: that takes no rights. One that has ended meanwhile needs no limit.
            let limited = Command::new("prlimit")
                .args([format!("--pid={pid}"), format!("--fsize={limit}:")])
                .uid(owner.uid())
                .gid(owner.gid())
                .output();
            limited.expect("prlimit is needed; util-linux brings it");
        }
    };
    limit(&size.to_string());
    until("the table's last pages are full", async || {
        let requests: Vec<Value> = (0..200)
            .map(|_| json!({"id": unique("k"), "subject": unique("u"), "feature": "resume_edits", "amount": 1}))
            .collect();
        let path = format!("/v1/products/{PRODUCT}/consume");
        let request = client.request(Method::POST, &path);
        let told = send(request.json(&json!({"requests": requests}))).await.unwrap();
        told.text.contains("\"status\":503")
    })
    .await;
    until_status(&client, 503).await;
    let before = scene.rows();
    let told = consume(&client).await.expect(503);
    assert_eq!(told["code"], "unavailable");
    assert_eq!(scene.rows(), before);
    let check = client.check(PRODUCT, "somebody", "resume_edits").await;
    assert_eq!(check["allowed"], true);
    limit("unlimited");
    until_status(&client, 200).await;
    scene.finish(node).await;
}

/// A port of this machine that leads to whichever server is the primary.
struct Switch {
    port: u16,
    target: Arc<Mutex<PathBuf>>,
}

impl Switch {
    async fn to(server: &Postgres) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(Mutex::new(server.socket()));
        let leads = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = leads.lock().unwrap().clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(socket).await {
                        tokio::io::copy_bidirectional(&mut client, &mut server)
                            .await
                            .ok();
                    }
                });
            }
        });
        Self { port, target }
    }

    fn turn(&self, server: &Postgres) {
        *self.target.lock().unwrap() = server.socket();
    }
}

/// A primary with a standby, and a node that reaches whichever is the primary at one address.
struct Pair {
    scene: Scene,
    standby: Postgres,
    switch: Switch,
    node: Node,
    client: Client,
}

impl Pair {
    async fn new() -> Self {
        let mut scene = Scene::new();
        let standby = scene.postgres.standby();
        let switch = Switch::to(&scene.postgres).await;
        scene.database = Database::at(&scene.postgres.behind(switch.port));
        let node = Node::serve(&scene.database, &scene.kafka).await;
        let client = node.client(&scene.key);
        Self {
            scene,
            standby,
            switch,
            node,
            client,
        }
    }

    /// The primary dies, and the standby takes over.
    fn fail_over(&self) {
        self.scene.postgres.run("kill");
        psql(&self.standby.url, "SELECT pg_promote(true, 120)");
        self.switch.turn(&self.standby);
    }
}

/// Uses one unit of each of these subjects; what was answered.
async fn use_some(client: &Client, run: &str) -> Vec<(String, Answer)> {
    let mut told = Vec::new();
    for number in 0..20 {
        let subject = format!("{run}-{number}");
        let answer = client
            .consume(PRODUCT, &subject, "resume_edits", Some("k"))
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        told.push((subject, answer));
    }
    told
}

async fn assert_remembered(client: &Client, told: &[(String, Answer)]) {
    for (subject, first) in told {
        let again = retried(client, subject).await;
        assert!(again.replayed, "{again:?}");
        assert_eq!(again.timeless(), first.timeless());
    }
}

/// What a retry is told. A lane that was idle finds its connection gone only now, and answers 503 first: nothing was recorded.
async fn retried(client: &Client, subject: &str) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = client
            .consume(PRODUCT, subject, "resume_edits", Some("k"))
            .await
            .unwrap();
        if answer.status != 503 || begun.elapsed() > LIMIT {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// With `synchronous_standby_names`, what was acknowledged outlives the primary: the node goes on at the standby by itself, and
/// every retry gets its first outcome. Fails without that setting, and a standby that was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_nothing() {
    let pair = Pair::new().await;
    psql(
        &pair.scene.postgres.url,
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
    );
    psql(&pair.scene.postgres.url, "SELECT pg_reload_conf()");
    until("the standby is synchronous", async || {
        let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        psql(&pair.scene.postgres.url, sync) == "1"
    })
    .await;
    let told = use_some(&pair.client, "synchronous").await;
    pair.fail_over();
    psql(
        &pair.standby.url,
        "ALTER SYSTEM SET synchronous_standby_names = ''",
    );
    psql(&pair.standby.url, "SELECT pg_reload_conf()");
    until_status(&pair.client, 200).await;
    assert_remembered(&pair.client, &told).await;
    pair.scene.finish(pair.node).await;
}

/// A standby that lagged: what it lacks is found missing, nothing is written on top of it, and the topic brings it back; the
/// same process goes on. Fails with heads that were not compared while a node runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_a_tail_is_noticed_and_mended() {
    let pair = Pair::new().await;
    let kept = use_some(&pair.client, "kept").await;
    until("the standby has all of it", async || {
        let all = psql(&pair.scene.postgres.url, "SELECT count(*) FROM ledger");
        psql(&pair.standby.url, "SELECT count(*) FROM ledger") == all
    })
    .await;
    pair.standby.run("stop");
    let lost = use_some(&pair.client, "lost").await;
    assert_topic_is_ledger(&pair.scene.database, &pair.scene.kafka).await;
    // In this order: it must not hear of what it missed.
    pair.scene.postgres.run("kill");
    pair.standby.run("start");
    psql(&pair.standby.url, "SELECT pg_promote(true, 120)");
    pair.switch.turn(&pair.standby);
    until("it is noticed", async || {
        let ready = pair.client.get("/readyz").await;
        ready.status == 503 && ready.text.contains("recover --from-kafka")
    })
    .await;
    let before = pair.scene.rows();
    assert_eq!(consume(&pair.client).await.status, 503);
    assert_eq!(pair.scene.rows(), before);
    let arguments = [
        "recover",
        "--from-kafka",
        "--kafka-brokers",
        &pair.scene.kafka.brokers,
    ];
    let recovered = run(&pair.scene.database.url, &arguments).lines().remove(0);
    assert_eq!(recovered["ok"], json!(true), "{recovered}");
    until_status(&pair.client, 200).await;
    assert_remembered(&pair.client, &kept).await;
    assert_remembered(&pair.client, &lost).await;
    pair.scene.finish(pair.node).await;
}
