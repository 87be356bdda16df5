//! The service is killed under load, again and again; every client keeps its receipts.

use crate::client::{Answer, Client, unique};
use crate::program::{LIMIT, Node};
use crate::servers::{Database, Kafka};
use crate::topics::{assert_topic_is_ledger, rows};
use quota_core::row::Row;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const PRODUCT: &str = "shop";
const CATALOG: &str = r#"
product = "shop"
time_zone = "Asia/Kolkata"
[features.units]
message = "no more units"
[features.scarce]
message = "no more of what is scarce"
[plans.free]
rank = 0
price = 0
currency = "INR"
[plans.free.limits]
units = { limit = 1000000 }
scarce = { limit = 3 }
"#;
const ROUNDS: usize = 5;
const WORKERS: usize = 12;
/// Requests that are answered before the service is killed, at least.
const ANSWERED: usize = 150;
const SUBJECTS: usize = 6;

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// A consume of a plentiful feature, without a key.
    Bare,
    /// The same with a key.
    Keyed,
    /// A consume of a scarce feature with a key: mostly denied.
    Scarce,
    /// An event with an id.
    Event,
}

/// A request, and its receipt where one came.
#[derive(Clone, Debug)]
struct Request {
    kind: Kind,
    subject: String,
    id: String,
    answer: Option<Answer>,
}

impl Request {
    /// The `n`-th request of a worker.
    fn new(n: usize, run: &str) -> Self {
        let id = unique("id");
        let plenty = format!("s{}", n % SUBJECTS);
        let (kind, subject) = match n % 4 {
            0 => (Kind::Bare, plenty),
            1 => (Kind::Keyed, plenty),
            // A new subject every now and then: over 100 denials of one are answered with 429.
            2 => (Kind::Scarce, format!("{run}-{}", n / 80)),
            _ => (Kind::Event, plenty),
        };
        Self {
            kind,
            subject,
            id,
            answer: None,
        }
    }

    async fn send(&self, client: &Client) -> reqwest::Result<Answer> {
        let Self {
            kind, subject, id, ..
        } = self;
        match kind {
            Kind::Bare => client.consume(PRODUCT, subject, "units", None).await,
            Kind::Keyed => client.consume(PRODUCT, subject, "units", Some(id)).await,
            Kind::Scarce => client.consume(PRODUCT, subject, "scarce", Some(id)).await,
            Kind::Event => {
                let data = json!({"feature": "units", "amount": 1});
                client
                    .tell(PRODUCT, subject, id, "usage.recorded", data)
                    .await
            }
        }
    }

    /// The receipt of what was acknowledged.
    fn receipt(&self) -> Option<&Answer> {
        self.answer
            .as_ref()
            .filter(|answer| [200, 403].contains(&answer.status))
    }
}

/// Invariants 1 and 6: what was acknowledged is in the ledger exactly once, through any crash, and a retry gets the first
/// outcome, byte for byte but for `as_of` and `age_ms`. Seen to fail with answers that went out before the commit, and with
/// ids that were not looked up.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_every_crash() {
    let (database, kafka) = (Database::migrated(), Kafka::start());
    database.publish(PRODUCT, CATALOG);
    let key = database.key();
    let mut requests: Vec<Request> = Vec::new();
    let mut node = Node::serve(&database, &kafka).await;
    for round in 0..ROUNDS {
        let mut sent = killed_under_load(&mut node, &key, round).await;
        node = Node::serve(&database, &kafka).await;
        retry_all(&node.client(&key), &mut sent).await;
        requests.append(&mut sent);
    }
    assert_topic_is_ledger(&database, &kafka).await;
    node.stop().await;
    assert_ledger(&database, &requests).await;
    database.verify();
}

/// Sends requests from all sides and kills the service in the middle of it.
async fn killed_under_load(node: &mut Node, key: &str, round: usize) -> Vec<Request> {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (client, answered) = (node.client(key), Arc::clone(&answered));
        workers.spawn(async move {
            let run = format!("r{round}w{worker}");
            let mut sent = Vec::new();
            for n in worker.. {
                let mut request = Request::new(n, &run);
                request.answer = request.send(&client).await.ok();
                let dead = request.answer.is_none();
                sent.push(request);
                if dead {
                    break;
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            sent
        });
    }
    let started = Instant::now();
    while answered.load(Ordering::Relaxed) < ANSWERED {
        assert!(started.elapsed() < LIMIT, "too few answers");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Each round dies at another moment of the lane's work.
    tokio::time::sleep(Duration::from_millis(37 * round as u64)).await;
    node.kill();
    workers.join_all().await.into_iter().flatten().collect()
}

/// Sends all but the bare ones again: what was acknowledged must come out the same; what was not comes out somehow now.
async fn retry_all(client: &Client, requests: &mut [Request]) {
    let mut retries = JoinSet::new();
    for index in 0..requests.len() {
        let (client, request) = (client.clone(), requests[index].clone());
        if request.kind == Kind::Bare {
            continue;
        }
        retries.spawn(async move { (index, retried(&client, request).await) });
        if retries.len() >= 32 {
            let (index, request) = retries.join_next().await.unwrap().unwrap();
            requests[index] = request;
        }
    }
    for (index, request) in retries.join_all().await {
        requests[index] = request;
    }
}

async fn retried(client: &Client, mut request: Request) -> Request {
    let again = request.send(client).await.unwrap();
    let Some(first) = request.receipt() else {
        assert!([200, 403].contains(&again.status), "{again:?}");
        request.answer = Some(again);
        return request;
    };
    assert_eq!(first.status, again.status, "{request:?} {again:?}");
    if request.kind == Kind::Event {
        let (first, again) = (first.json(), again.json());
        assert_eq!(
            again["results"][0]["status"], "duplicate",
            "{request:?} {again}"
        );
        assert_eq!(
            first["results"][0]["position"], again["results"][0]["position"],
            "{request:?}"
        );
    } else {
        assert!(again.replayed, "{request:?} {again:?}");
        assert_eq!(first.timeless(), again.timeless(), "{request:?}");
    }
    request
}

/// Every receipt names a row of its own, and there is no row that nobody asked for.
async fn assert_ledger(database: &Database, requests: &[Request]) {
    let (partitions, _) = rows(database).await;
    let rows: BTreeMap<String, Row> = partitions
        .into_iter()
        .flatten()
        .map(|row| (row.position(0).to_string(), row))
        .collect();
    let mut receipts = BTreeSet::new();
    for request in requests {
        let Some(answer) = request.receipt() else {
            continue;
        };
        let body = answer.json();
        let position = if request.kind == Kind::Event {
            &body["results"][0]["position"]
        } else {
            &body["position"]
        };
        let position = position.as_str().unwrap();
        let row = rows
            .get(position)
            .unwrap_or_else(|| panic!("acknowledged and gone: {request:?}"));
        assert!(
            receipts.insert(position.to_owned()),
            "two receipts for one row: {request:?}"
        );
        assert_eq!(&*row.subject, request.subject, "{request:?}");
        let kind = if answer.status == 403 {
            "usage.denied"
        } else {
            "usage.recorded"
        };
        assert_eq!(&*row.event_type, kind, "{request:?}");
        assert!(
            request.kind == Kind::Bare || *row.id == *request.id,
            "{request:?}"
        );
    }
    // Without a receipt there may be a row of each bare consume that nobody answered, and no other.
    let unknown = requests
        .iter()
        .filter(|request| request.answer.is_none())
        .count();
    let told = rows.iter().filter(|(_, row)| !row.subject.is_empty());
    let silent: Vec<_> = told
        .filter(|(position, _)| !receipts.contains(*position))
        .collect();
    assert!(silent.len() <= unknown, "{unknown} unknown: {silent:?}");
    assert!(
        silent.iter().all(|(_, row)| !row.id.starts_with("id-")),
        "twice: {silent:?}"
    );
    let mut scarce: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests
        .iter()
        .filter(|request| request.kind == Kind::Scarce)
    {
        *scarce.entry(&request.subject).or_default() +=
            usize::from(request.receipt().unwrap().status == 200);
    }
    assert!(scarce.values().all(|allowed| *allowed <= 3), "{scarce:?}");
    assert_counters(&rows, requests);
}

/// What consumes said was used agrees with the rows.
fn assert_counters(rows: &BTreeMap<String, Row>, requests: &[Request]) {
    for number in 0..SUBJECTS {
        let subject = format!("s{number}");
        let used = rows
            .values()
            .filter(|row| *row.subject == *subject && &*row.event_type == "usage.recorded")
            .count();
        let last = requests
            .iter()
            .filter(|request| request.subject == subject && request.kind != Kind::Event);
        let told: BTreeSet<u64> = last
            .filter_map(|request| {
                request
                    .receipt()?
                    .json()
                    .get("used")
                    .and_then(Value::as_u64)
            })
            .collect();
        assert!(
            told.last().is_none_or(|most| *most <= used as u64),
            "{subject}: {used} rows, {:?}",
            told.last()
        );
        let consumes = requests
            .iter()
            .filter(|r| r.subject == subject && r.kind != Kind::Event && r.receipt().is_some());
        assert_eq!(
            told.len(),
            consumes.count(),
            "two consumes of {subject} were told the same count"
        );
    }
}
