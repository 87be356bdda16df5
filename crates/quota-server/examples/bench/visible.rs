//! From ack to visible: how long after a consume was answered its event is in the views, through Kafka. Beside it, in
//! turns, how long Kafka itself takes from produce to consume at the same rate.

use crate::ledger::Database;
use crate::{FEATURE, PRODUCT, Words, percentile};
use anyhow::{Context as _, ensure};
use quota_kafka::{Follower, Outgoing, Publisher, PublisherOptions, Settings, TopicSpec, topic};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// As many as the ledger's topic has.
const PARTITIONS: i32 = 64;
const SUBJECTS: u64 = 10_000;
/// The time between two looks at the checkpoints; what is measured is at most so much too long.
const LOOK: Duration = Duration::from_millis(2);
/// How often both are measured in turns.
const TURNS: usize = 3;
/// How long what was sent may take at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// About as long as an event of the ledger.
const PAYLOAD: usize = 250;

pub async fn run(words: &mut Words) -> anyhow::Result<String> {
    let url: String = words.next("URL")?;
    let key: String = words.next("key")?;
    let mut database = Database::connect(&words.next::<String>("database's URL")?).await?;
    let settings = Settings::new(words.next::<String>("brokers")?, "bench-visible");
    let seconds: u64 = words.next("seconds")?;
    let rate: u64 = words.next("rate")?;
    let count = seconds * rate / TURNS as u64;
    let consumes = Consumes {
        client: reqwest::Client::new(),
        path: format!("{url}/v1/products/{PRODUCT}/subjects/s"),
        key,
        acked: Mutex::default(),
    };
    let consumes = Arc::new(consumes);
    let mut kafka = Kafka::open(&settings).await?;
    // Connections, caches and the like.
    visible(&consumes, &mut database, rate.min(count), rate).await?;
    kafka.measure(rate.min(count), rate).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        theirs.extend(kafka.measure(count, rate).await?);
        ours.extend(visible(&consumes, &mut database, count, rate).await?);
    }
    let (p50, p99) = (percentile(&mut ours, 0.5), percentile(&mut ours, 0.99));
    let (kafka_p50, kafka_p99) = (percentile(&mut theirs, 0.5), percentile(&mut theirs, 0.99));
    Ok(format!(
        "p50_ms={p50:.2} p99_ms={p99:.2} kafka_p50_ms={kafka_p50:.2} kafka_p99_ms={kafka_p99:.2}"
    ))
}

/// Calls `send` so often a second, as evenly as the clock allows, whatever becomes of it.
async fn paced(count: u64, rate: u64, mut send: impl FnMut(u64)) {
    let begun = Instant::now();
    let mut sent = 0;
    while sent < count {
        let due = (begun.elapsed().as_micros() as u64 * rate / 1_000_000).min(count);
        (sent..due).for_each(&mut send);
        sent = due;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Consumes on their way.
struct Consumes {
    client: reqwest::Client,
    path: String,
    key: String,
    /// What was answered and not yet seen in the views: partition, offset, when.
    acked: Mutex<Vec<(u32, i64, Instant)>>,
}

impl Consumes {
    async fn send(self: Arc<Self>, subject: u64) -> anyhow::Result<()> {
        let path = format!("{}{subject}/consume", self.path);
        let body = json!({"feature": FEATURE, "amount": 1});
        let answer = self
            .client
            .post(path)
            .bearer_auth(&self.key)
            .json(&body)
            .send()
            .await?
            .error_for_status()?;
        let text = answer.bytes().await?;
        let acked = Instant::now();
        let answer: serde_json::Value = serde_json::from_slice(&text)?;
        let position = answer
            .get("position")
            .and_then(serde_json::Value::as_str)
            .context("no position")?;
        let (partition, offset) = position.split_once(':').context("no position")?;
        let place = (partition.parse()?, offset.parse()?, acked);
        self.acked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(place);
        Ok(())
    }

    /// Takes out what is in the views now, in milliseconds since its ack.
    fn seen(&self, checkpoints: &HashMap<u32, i64>, at: Instant) -> Vec<f64> {
        let mut seen = Vec::new();
        let mut acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        acked.retain(|(partition, offset, since)| {
            let visible = checkpoints.get(partition).is_some_and(|next| next > offset);
            if visible {
                seen.push(at.saturating_duration_since(*since).as_secs_f64() * 1e3);
            }
            !visible
        });
        seen
    }
}

async fn visible(
    consumes: &Arc<Consumes>,
    database: &mut Database,
    count: u64,
    rate: u64,
) -> anyhow::Result<Vec<f64>> {
    let sender = Arc::clone(consumes);
    let sending = tokio::spawn(async move {
        let mut sent = JoinSet::new();
        paced(count, rate, |n| {
            sent.spawn(
                Arc::clone(&sender).send(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % SUBJECTS + 1),
            );
        })
        .await;
        while let Some(outcome) = sent.join_next().await {
            outcome??;
        }
        anyhow::Ok(())
    });
    let begun = Instant::now();
    let limit = PATIENCE + Duration::from_secs(count / rate);
    let mut seen = Vec::new();
    while seen.len() < count as usize {
        ensure!(
            begun.elapsed() < limit,
            "only {} of {count} consumes are visible",
            seen.len()
        );
        let checkpoints = database.checkpoints().await?;
        seen.extend(consumes.seen(&checkpoints, Instant::now()));
        if sending.is_finished() && seen.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    sending.await??;
    Ok(seen)
}

/// Kafka alone: a topic like the ledger's, a publisher and a reader like the relay's and the projector's.
struct Kafka {
    publisher: Arc<Publisher>,
    follower: Follower,
    topic: Arc<str>,
}

impl Kafka {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let topic = format!("bench-scratch-{}", std::process::id());
        topic::ensure(settings, &[TopicSpec::new(&topic, PARTITIONS)]).await?;
        let partitions: Vec<i32> = (0..PARTITIONS).collect();
        let follower = Follower::open(settings, &topic, &partitions).await?;
        let publisher = Arc::new(Publisher::open(settings, &PublisherOptions::default())?);
        Ok(Self {
            publisher,
            follower,
            topic: topic.into(),
        })
    }

    /// The milliseconds that each of these records took from produce to consume.
    async fn measure(&mut self, count: u64, rate: u64) -> anyhow::Result<Vec<f64>> {
        let begun = Instant::now();
        let (publisher, topic) = (Arc::clone(&self.publisher), Arc::clone(&self.topic));
        let sending = tokio::spawn(async move {
            let mut sent = JoinSet::new();
            paced(count, rate, |n| {
                sent.spawn(produce(
                    Arc::clone(&publisher),
                    Arc::clone(&topic),
                    n,
                    begun,
                ));
            })
            .await;
            while let Some(outcome) = sent.join_next().await {
                outcome??;
            }
            anyhow::Ok(())
        });
        let mut took = Vec::new();
        while took.len() < count as usize {
            let records = self.follower.next_batch(5_000, PATIENCE).await?;
            let now = begun.elapsed().as_micros() as u64;
            ensure!(
                !records.is_empty(),
                "only {} of {count} records came back",
                took.len()
            );
            for record in records {
                let since = record
                    .payload()
                    .and_then(|bytes| bytes.first_chunk())
                    .context("a record of somebody else")?;
                took.push(now.saturating_sub(u64::from_le_bytes(*since)) as f64 / 1e3);
            }
        }
        sending.await??;
        Ok(took)
    }
}

async fn produce(
    publisher: Arc<Publisher>,
    topic: Arc<str>,
    n: u64,
    begun: Instant,
) -> anyhow::Result<()> {
    let mut payload = (begun.elapsed().as_micros() as u64).to_le_bytes().to_vec();
    payload.resize(PAYLOAD, b'.');
    let partition = Some(i32::try_from(
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % PARTITIONS as u64,
    )?);
    let record = Outgoing {
        topic: &topic,
        partition,
        key: None,
        payload: Some(&payload),
        headers: None,
    };
    Ok(publisher.send(vec![record]).await?)
}
