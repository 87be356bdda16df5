//! Nodes to test: a database of the test's own, a broker, and nodes with a lane and whichever workers a test wants.

use quota_core::command::{Address, Answer, Command, Consume, Fact, Wish};
use quota_core::event::{Event, Purchase, ResourceEvent, Usage};
use quota_core::row::Row;
use quota_core::state::FOLD_VERSION;
use quota_kafka::{EmbeddedBroker, Settings};
use quota_postgres::Ledger;
use quota_server::admission::Gate;
use quota_server::checkpoints::{Plan, Signer};
use quota_server::config::Role;
use quota_server::node::Node;
use quota_server::publishing::publish_catalog;
use quota_server::topics::Topics;
use quota_server::workers::Workers;
use quota_server::writer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Partitions of the tests' ledgers.
pub const PARTITIONS: u32 = 8;
/// The tests' product.
pub const PRODUCT: &str = "shop";
/// Its catalog: something of everything that leaves a trace in a view.
pub const CATALOG: &str = r#"
product = "shop"
time_zone = "Asia/Kolkata"
[features.units]
message = "no more units"
[features.resumes]
message = "no more resumes"
resource = "makes"
[features.downloads]
message = "no more downloads"
resource = "on"
[plans.free]
rank = 0
price = 0
currency = "INR"
[plans.free.limits]
units = { limit = 1000000, window = "day" }
resumes = { limit = 3 }
downloads = { limit = 5, window = "month" }
[plans.pro]
rank = 1
price = 4900
currency = "INR"
period = "month"
grace_days = 0
[plans.pro.limits]
units = { unlimited = true, window = "period" }
resumes = { limit = 10, window = "period" }
downloads = { limit = 50, window = "period" }
"#;

/// A database of the test's own, dropped with it.
pub struct Database {
    pub url: String,
    name: String,
}

impl Database {
    /// A migrated one, with the tests' catalog published.
    pub async fn fresh() -> Self {
        // What the nodes say: RUST_LOG chooses, and a test that fails shows it.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .try_init()
            .ok();
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let server = server_url();
        psql(&server, &format!("CREATE DATABASE {name}"));
        let database = Self {
            url: with_name(&server, &name),
            name,
        };
        quota_postgres::migrate(&database.url, PARTITIONS, FOLD_VERSION)
            .await
            .unwrap();
        publish_catalog(&database.ledger().await, PRODUCT, CATALOG, None)
            .await
            .unwrap();
        database
    }

    pub async fn ledger(&self) -> Ledger {
        Ledger::connect(&self.url, FOLD_VERSION, 2).await.unwrap()
    }

    /// Does what only a superuser may.
    pub fn psql(&self, text: &str) {
        psql(&with_name(&server_url(), &self.name), text);
    }

    /// Cuts everybody off, or lets them in again.
    pub fn set_reachable(&self, reachable: bool) {
        let Self { name, .. } = self;
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        psql(
            &server_url(),
            &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {reachable}"),
        );
        if !reachable {
            psql(&server_url(), &cut);
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        psql(
            &server_url(),
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
        );
    }
}

fn server_url() -> String {
    std::env::var("TEST_DATABASE_URL").expect(
        "TEST_DATABASE_URL is not set: these tests need a real PostgreSQL; run scripts/test, which starts one",
    )
}

/// The server's URL with another database's name in it.
fn with_name(server: &str, name: &str) -> String {
    let (base, query) = server
        .split_once('?')
        .map_or((server, String::new()), |(base, q)| (base, format!("?{q}")));
    let start = base.find("://").unwrap() + 3;
    let host = base[start..].split('/').next().unwrap();
    format!("{}{host}/{name}{query}", &base[..start])
}

fn psql(url: &str, text: &str) -> String {
    let output = std::process::Command::new("psql")
        .args([
            url,
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            text,
        ])
        .output()
        .expect("psql is needed; Debian's postgresql brings it");
    assert!(
        output.status.success(),
        "{text}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// The run's real broker; none where it has none.
pub fn real_brokers() -> Option<String> {
    match std::env::var("TEST_KAFKA_BROKERS") {
        Ok(brokers) => Some(brokers),
        Err(_) if std::env::var("QUOTA_TEST_REQUIRE_REAL").is_ok_and(|value| value == "1") => {
            panic!("QUOTA_TEST_REQUIRE_REAL=1, but TEST_KAFKA_BROKERS is not set")
        }
        Err(_) => None,
    }
}

/// The topics of the run's real broker, under a prefix of the test's own, made; none where the run has no broker.
pub async fn real_topics() -> Option<Topics> {
    Some(topics_of(&real_brokers()?).await)
}

/// The topics of a broker, under a prefix of the test's own, made.
pub async fn topics_of(brokers: &str) -> Topics {
    let prefix = format!("t{}.", uuid::Uuid::new_v4().simple());
    let topics = Topics::of_cluster(Settings::new(brokers, "test")).with_prefix(&prefix);
    topics.ensure(PARTITIONS).await.unwrap();
    topics
}

/// The topics of a broker in this process.
pub async fn embedded_topics() -> (Topics, Arc<EmbeddedBroker>) {
    let broker = Arc::new(EmbeddedBroker::start(&[]).unwrap());
    let topics = Topics::of_embedded(Arc::clone(&broker), "test");
    topics.ensure(PARTITIONS).await.unwrap();
    (topics, broker)
}

/// Every role of a worker.
pub const WORKERS: [Role; 4] = [Role::Relay, Role::Projector, Role::Inbox, Role::Sweeper];

/// A node that runs.
pub struct Running {
    pub node: Node,
    workers: Workers,
    lane: JoinHandle<()>,
    stop_lane: CancellationToken,
}

impl Running {
    pub async fn start(database: &Database, topics: &Topics, roles: &[Role]) -> Self {
        Self::start_behind(Gate::open(), database, topics, roles).await
    }

    /// The same behind a gate.
    pub async fn start_behind(
        gate: Gate,
        database: &Database,
        topics: &Topics,
        roles: &[Role],
    ) -> Self {
        let (node, queue) = Node::open(&database.url, Arc::new(gate)).await.unwrap();
        let stop_lane = CancellationToken::new();
        let lane = writer::run(node.lane_context(), queue, stop_lane.clone());
        let roles = roles.iter().copied().collect();
        Self {
            lane: tokio::spawn(lane),
            workers: Workers::start(&node, topics, &roles, plan(None)),
            node,
            stop_lane,
        }
    }

    /// Stops it in good order.
    pub async fn stop(mut self) {
        self.workers.stop_intake().await;
        self.stop_lane.cancel();
        self.lane.await.unwrap();
        self.workers.stop().await;
    }

    /// Ends it on the spot, whatever it is at, as a crash would.
    pub async fn cut_off(self) {
        let Self { lane, workers, .. } = self;
        lane.abort();
        lane.await.ok();
        drop(workers);
    }

    /// Carries out a wish that cannot fail for good; what a fault made unsure is tried again.
    pub async fn submit(&self, subject: &str, wish: Wish) -> Answer {
        let address = Address::new(PRODUCT, subject, PARTITIONS);
        loop {
            let command = Command {
                address: address.clone(),
                wish: wish.clone(),
            };
            match self.node.writer.submit(command).await {
                Answer::Refused(refusal) if matches!(refusal.status, 503 | 504) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Carries out the `n`-th of a reproducible mixture of wishes, about one of `subjects`.
    pub async fn mixed(&self, n: u64, subjects: u64) -> Answer {
        let (subject, wish) = mixture(n, subjects);
        self.submit(&subject, wish).await
    }
}

/// Carries out `count` of the mixture at once, from the `from`-th on.
pub async fn load(running: &Running, from: u64, count: u64) {
    let all = (from..from + count).map(|n| running.mixed(n, 60));
    futures::future::join_all(all).await;
}

/// The `n`-th of a reproducible mixture of wishes.
pub fn mixture(n: u64, subjects: u64) -> (String, Wish) {
    let mut seed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66;
    let mut dice = |sides: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % sides
    };
    dice(2);
    let subject = format!("s{}", dice(subjects));
    let resource = format!("r{}", dice(6));
    let event = match dice(10) {
        0 => {
            return (subject, Wish::Consume(consume("resumes", Some(resource))));
        }
        1 | 2 => return (subject, Wish::Consume(consume("downloads", Some(resource)))),
        3..=5 => return (subject, Wish::Consume(consume("units", None))),
        6 => Event::ResourceCreated(resource_event(&resource)),
        7 => Event::SubscriptionPurchased(purchase(&format!("pay-{}", dice(1_000_000)))),
        8 => Event::ResourceDeleted(resource_event(&resource)),
        _ => usage("units", 1),
    };
    (subject, Wish::Record(fact(event)))
}

pub fn purchase(payment: &str) -> Purchase {
    Purchase {
        plan: "pro".into(),
        payment_id: payment.into(),
        amount: 4900,
        currency: "INR".into(),
        resource: None,
        subscription: None,
        starts_at: None,
        ends_at: None,
    }
}

pub fn fact(event: Event) -> Fact {
    Fact {
        source: "/test".into(),
        id: unique("e"),
        time: None,
        event,
    }
}

pub fn usage(feature: &str, amount: i64) -> Event {
    Event::UsageRecorded(Usage {
        feature: feature.into(),
        amount,
        resource: None,
        hold: None,
        bypassed: false,
        outcome: None,
    })
}

fn resource_event(resource: &str) -> ResourceEvent {
    ResourceEvent {
        resource: resource.into(),
        source: None,
        feature: None,
        hold: None,
        bypassed: false,
        outcome: None,
    }
}

pub fn consume(feature: &str, resource: Option<String>) -> Consume {
    let key = Some(unique("c"));
    Consume {
        feature: feature.into(),
        amount: 1,
        resource,
        hold_seconds: None,
        key,
        fresh_id: unique("c"),
    }
}

/// An id that nobody else in this run has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{what}{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Every row of the ledger, by partition and offset.
pub async fn all_rows(ledger: &Ledger) -> Vec<Row> {
    let mut rows = Vec::new();
    for partition in 0..PARTITIONS {
        rows.extend(ledger.range(partition, 0, 1_000_000).await.unwrap());
    }
    rows
}

/// Waits until something holds, and fails with `what` when it takes too long.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> F,
) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < patience, "it takes too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until every checkpoint is at its partition's head.
pub async fn projected(ledger: &Ledger) {
    eventually("all is projected", Duration::from_secs(60), || async {
        let (Ok(heads), Ok(checkpoints)) = (ledger.heads().await, ledger.checkpoints().await)
        else {
            return false;
        };
        heads
            .iter()
            .zip(checkpoints)
            .all(|(head, next)| head.offset + 1 == next)
    })
    .await;
}

/// Checkpoints once a minute, signed by a key of this call's own.
pub fn plan(file: Option<PathBuf>) -> Plan {
    Plan {
        interval: Duration::from_secs(60),
        file,
        signer: Arc::new(Signer::fresh().unwrap()),
    }
}
