//! Events through the inbox: published by this process, counted where they are durable.

use crate::ledger::Database;
use crate::{FEATURE, PRODUCT};
use anyhow::ensure;
use quota_kafka::{Headers, Outgoing, Publisher, PublisherOptions, Settings};
use std::time::{Duration, Instant};

const BATCH: u64 = 5_000;
const SUBJECTS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn run(url: String, brokers: String, events: u64) -> anyhow::Result<String> {
    let mut database = Database::connect(&url).await?;
    let settings = Settings::new(brokers, "bench-inbox");
    let name = format!("quota.usage.{PRODUCT}.v1");
    let publisher = Publisher::open(&settings, &PublisherOptions::default())?;
    let run = format!("{}-{:?}", std::process::id(), std::time::SystemTime::now());
    let before = database.rows().await?;
    let begun = Instant::now();
    for first in (0..events).step_by(BATCH as usize) {
        publish(&publisher, &name, &run, first..events.min(first + BATCH)).await?;
    }
    let published = begun.elapsed();
    while database.rows().await? < before + events as i64 {
        ensure!(
            begun.elapsed() < PATIENCE,
            "events of the inbox are missing after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = events as f64 / begun.elapsed().as_secs_f64();
    Ok(format!(
        "events={events} published_seconds={:.2} rate={rate:.1}",
        published.as_secs_f64()
    ))
}

async fn publish(
    publisher: &Publisher,
    topic: &str,
    run: &str,
    numbers: std::ops::Range<u64>,
) -> anyhow::Result<()> {
    let data = format!(r#"{{"feature":"{FEATURE}","amount":1}}"#);
    // Spread; the key keeps a subject's events in one partition.
    let subject = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % SUBJECTS + 1;
    let keys: Vec<String> = numbers
        .clone()
        .map(|n| format!("s{}", subject(n)))
        .collect();
    let records = numbers.zip(&keys).map(|(n, key)| Outgoing {
        topic,
        partition: None,
        key: Some(key.as_bytes()),
        payload: Some(data.as_bytes()),
        headers: Some(
            Headers::with_capacity(6)
                .add("ce_specversion", b"1.0")
                .add("ce_id", format!("{run}-{n}").as_bytes())
                .add("ce_source", b"/bench")
                .add("ce_type", b"quota.usage.recorded.v1")
                .add("ce_subject", key.as_bytes())
                .add("content-type", b"application/json"),
        ),
    });
    Ok(publisher.send(records.collect()).await?)
}
