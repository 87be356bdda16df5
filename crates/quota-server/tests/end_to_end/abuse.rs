//! Clients that mean harm, all at once: those who do not are answered all the same, and nothing grows without end.

use crate::client::{Client, unique};
use crate::program::{LIMIT, Node};
use crate::servers::{Database, Kafka};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PRODUCT: &str = "applyx";
/// Connections that are held open, if this process may open so many.
const SILENT: u64 = 3_000;
/// Clients of each other kind.
const EACH: usize = 25;
/// Others, who only want to be served.
const OTHERS: usize = 200;
/// What the node may take of memory while all this goes on, in KiB: far above what it needs, far below what is sent to it.
const MEMORY: u64 = 1024 * 1024;

/// The connections that this process may hold, beside what else it opens.
fn allowed() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    SILENT.min(most.saturating_sub(500))
}

/// What the clients who mean harm have in common.
#[derive(Clone)]
struct Harm {
    client: Client,
    address: String,
    /// How often each kind has done it.
    done: Arc<[AtomicUsize; 4]>,
}

impl Harm {
    fn count(&self, kind: usize) {
        self.done[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Sends a request a byte at a time, and never the last one.
    async fn drip(self) {
        loop {
            let Ok(mut socket) = TcpStream::connect(&self.address).await else {
                continue;
            };
            let head = format!(
                "POST /v1/products/{PRODUCT}/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{{"
            );
            for byte in head.as_bytes() {
                if socket.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.count(0);
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                if socket.write_all(b" ").await.is_err() {
                    break;
                }
            }
        }
    }

    /// Sends heads that are too large, in one header and in many, and bodies that are.
    async fn swell(self) {
        let wide = "x".repeat(300_000);
        let many: String = (0..20_000).map(|n| format!("x-{n}: y\r\n")).collect();
        loop {
            for text in [
                format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-wide: {wide}\r\n\r\n"),
                format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
                format!(
                    "POST /v1/products/{PRODUCT}/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{}",
                    format!("{:x}\r\n{wide}\r\n", wide.len()).repeat(60)
                ),
            ] {
                let Ok(mut socket) = TcpStream::connect(&self.address).await else {
                    continue;
                };
                let sent = socket.write_all(text.as_bytes()).await;
                let mut answer = Vec::new();
                let read = socket.read_to_end(&mut answer).await;
                if sent.is_ok() && read.is_ok() {
                    let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default());
                    assert!(["413", "431"].contains(&&*status), "{status}");
                }
                self.count(1);
            }
        }
    }

    /// Uses up what one subject has, and goes on asking: everybody's subject is the same.
    async fn crowd(self) {
        loop {
            let asked = self.client.consume(PRODUCT, "hot", "resume_edits", None);
            if let Ok(answer) = asked.await {
                assert!([200, 402].contains(&answer.status), "{answer:?}");
                self.count(2);
            }
        }
    }

    /// Is denied, with a key of its own each time.
    async fn hammer(self) {
        loop {
            let key = unique("key");
            let asked = self
                .client
                .consume(PRODUCT, "hammer", "resume_edits", Some(&key));
            if let Ok(answer) = asked.await {
                assert!([200, 402, 429].contains(&answer.status), "{answer:?}");
                self.count(3);
            }
        }
    }
}

/// While thousands of connections say nothing, some drip, some send too much, and some hammer at one subject or at a limit,
/// everybody else gets every answer. What was allowed stays within the limit, the denials do not fill the ledger, and the
/// node's memory stays within bounds.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_means_harm_keeps_nobody_out() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish_shipped(PRODUCT);
    let key = database.key();
    let mut node = Node::serve(&database, &kafka).await;
    let address = node.url().trim_start_matches("http://").to_owned();
    node.client(&key).purchase(PRODUCT, "hot", "basic").await;
    let mut silent = Vec::new();
    for _ in 0..allowed() {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let harm = Harm {
        client: node.client(&key),
        address,
        done: Arc::default(),
    };
    let mut tasks = JoinSet::new();
    for _ in 0..EACH {
        tasks.spawn(harm.clone().drip());
        tasks.spawn(harm.clone().crowd());
        tasks.spawn(harm.clone().hammer());
    }
    // Two are enough to send more than a network carries.
    for _ in 0..2 {
        tasks.spawn(harm.clone().swell());
    }
    let served = async {
        loop {
            serve_others(&node.client(&key)).await;
            while let Some(ended) = tasks.try_join_next() {
                ended.expect("a client who means harm was not answered as it should be");
            }
            let each: Vec<usize> = harm
                .done
                .iter()
                .map(|done| done.load(Ordering::Relaxed))
                .collect();
            // It proves nothing before each kind has done its worst.
            if each
                .iter()
                .zip([EACH, 6, 500, 150])
                .all(|(done, least)| *done >= least)
            {
                break;
            }
        }
    };
    let served = tokio::time::timeout(3 * LIMIT, served).await;
    assert!(served.is_ok(), "not all were served: {:?}", harm.done);
    let memory = peak_memory(&node);
    assert!(memory < MEMORY, "the node took {memory} KiB");
    tasks.shutdown().await;
    drop(silent);

    let used = "SELECT coalesce(sum((data ->> 'amount')::bigint), 0) FROM ledger_events WHERE subject = 'hot' AND type = 'usage.recorded'";
    assert_eq!(database.sql(used), "10", "the hot subject's limit");
    let denials = |subject: &str| {
        let count = format!(
            "SELECT count(*) FROM ledger_events WHERE subject = '{subject}' AND type = 'usage.denied'"
        );
        database.sql(&count).parse::<u64>().unwrap()
    };
    assert_eq!(denials("hot"), 1, "without a key, one denial is recorded");
    assert!(
        (1..=200).contains(&denials("hammer")),
        "at most 100 an hour"
    );
    node.stop().await;
    database.verify();
}

/// Each of them uses, is told and asks; all of it must be answered.
async fn serve_others(client: &Client) {
    let mut others = JoinSet::new();
    for number in 0..OTHERS {
        let client = client.clone();
        others.spawn(async move {
            let subject = unique("other");
            let used = client
                .consume(PRODUCT, &subject, "resume_edits", Some("k"))
                .await;
            assert_eq!(used.unwrap().status, 200, "{number}");
            let data = json!({"feature": "interviews", "amount": 1});
            let told = client
                .tell(PRODUCT, &subject, "e", "usage.recorded", data)
                .await;
            assert_eq!(told.unwrap().status, 200, "{number}");
            let check = client.check(PRODUCT, &subject, "interviews").await;
            assert_eq!(check["allowed"], false, "{number}: {check}");
        });
        // Not all in the same instant: they are users, and mean no harm.
        if number % 20 == 19 {
            while let Some(ended) = others.join_next().await {
                ended.unwrap();
            }
        }
    }
}

/// The most memory that the node ever had, in KiB.
fn peak_memory(node: &Node) -> u64 {
    let pid = node.ready["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse().unwrap()
}
