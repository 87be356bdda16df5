//! How a node starts and stops: its ready file, a taken address, and SIGTERM with requests in flight.

use crate::client::unique;
use crate::program::{Node, program, until};
use crate::servers::{Database, Kafka, psql};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use tokio::task::JoinSet;

const PRODUCT: &str = "applyx";
const IN_FLIGHT: usize = 32;

/// Invariant 1, and the promise that SIGTERM drops no request that got in: each is answered, and exactly what was
/// answered with 200 is in the ledger (and of what was answered with 504, some may be). Seen to fail with a node that ends at
/// the signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_got_in() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let mut node = Node::serve(&database, &kafka).await;
    let client = node.client(&key);
    let subject = unique("drained");
    client.purchase(PRODUCT, &subject, "pro").await;

    // Somebody holds the partitions' locks, so that the lane has to wait with requests in its hands.
    let mut holder = Holder::take(&database).await;
    let mut requests = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, subject) = (client.clone(), subject.clone());
        requests.spawn(async move {
            client
                .consume(PRODUCT, &subject, "resume_edits", None)
                .await
        });
    }
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                   WHERE NOT l.granted AND l.locktype = 'advisory' AND d.datname = current_database()";
    until("the lane waits", async || database.sql(waiting) != "0").await;
    // One request is in for sure; the others have a moment to follow.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    node.signal(Signal::SIGTERM);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    holder.release();

    let (mut recorded, mut answered, mut unknown) = (BTreeSet::new(), 0, 0);
    while let Some(answer) = requests.join_next().await {
        let answer = match answer.unwrap() {
            Err(error) if error.is_connect() => continue,
            answer => answer.expect("a request that got in was dropped"),
        };
        answered += 1;
        match answer.status {
            200 => assert!(
                recorded.insert(answer.json()["position"].as_str().unwrap().to_owned()),
                "{answer:?}"
            ),
            // The lane waits for locks so long and no longer, and a caller for the lane; on a machine that is slow enough,
            // that is over.
            503 if !answer.text.contains("stopping") => {}
            504 => unknown += 1,
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(node.ended().await.code(), Some(0), "{}", node.log());
    assert!(answered > 0, "nobody got in");
    let rows = "SELECT partition || ':' || \"offset\" FROM ledger WHERE type = 'usage.recorded'";
    let rows: BTreeSet<String> = database.sql(rows).lines().map(str::to_owned).collect();
    assert!(
        recorded.is_subset(&rows),
        "{recorded:?} are not all in {rows:?}"
    );
    assert!(
        rows.len() - recorded.len() <= unknown,
        "{rows:?} have more than {recorded:?}"
    );
    database.verify();
}

/// Operators rely on these: `url` and `pid` are in the ready file, which its owner alone may read, and a taken address is
/// exit code 2, with nothing begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_when_it_is_ready_and_what_it_lacks() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    let mut node = Node::serve(&database, &kafka).await;
    let pid = node.ready["pid"].as_u64().unwrap();
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(),
        std::fs::canonicalize(env!("CARGO_BIN_EXE_quota-ledger")).unwrap()
    );
    assert_eq!(node.ready.as_object().unwrap().len(), 2, "{}", node.ready);
    assert_eq!(
        std::fs::metadata(&node.ready_file)
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let client = node.client("");
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 200);

    let address = node.url().strip_prefix("http://").unwrap().to_owned();
    let serve = |database: &Database, address: &str| {
        let mut command = program();
        command.args(["serve", "--listen", address]);
        command
            .env("DATABASE_URL", &database.url)
            .env("KAFKA_BROKERS", &kafka.brokers);
        let ended = command.output().unwrap();
        (
            ended.status.code(),
            String::from_utf8(ended.stderr).unwrap(),
        )
    };
    let (code, words) = serve(&database, &address);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains(&address), "{words}");
    // A database without a ledger is refused in words, too.
    let (code, words) = serve(&Database::empty(), "127.0.0.1:0");
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("migrate"), "{words}");
    node.stop().await;
}

/// Holds the append locks of all partitions, as another node's slow transaction would.
struct Holder {
    name: String,
    url: String,
    session: std::process::Child,
}

impl Holder {
    async fn take(database: &Database) -> Self {
        let name = unique("holder");
        let hold = format!(
            "SET application_name = '{name}'; BEGIN; \
             SELECT ledger_lock(array(SELECT generate_series(0, partitions - 1) FROM ledger_meta)); SELECT pg_sleep(600)"
        );
        let mut session = Command::new("psql");
        session
            .args([&database.url, "-X", "-q", "-c", &hold])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let session = session.spawn().unwrap();
        let holder = Self {
            name,
            url: database.url.clone(),
            session,
        };
        until("the locks are held", async || {
            let sleeping = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND wait_event = 'PgSleep'",
                holder.name
            );
            database.sql(&sleeping) == "1"
        })
        .await;
        holder
    }

    fn release(&mut self) {
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            self.name
        );
        psql(&self.url, &end);
        self.session.wait().unwrap();
    }
}
