//! Measures publisher, follower and group member against a broker, with records like the ledger's.
//!
//! `cargo run --release -p quota-kafka --example throughput -- [BROKERS] [RECORDS] [BATCH]`;
//! without BROKERS (or with `embedded`) it takes the embedded broker.
#![allow(clippy::print_stdout, reason = "a measurement prints")]

use std::time::{Duration, Instant};

use quota_kafka::{
    EmbeddedBroker, Follower, GroupMember, GroupOptions, Headers, Outgoing, Publisher,
    PublisherOptions, Settings, StartAt, TopicSpec, topic,
};

const PARTITIONS: i32 = 64;
const PAYLOAD: usize = 250;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "embedded".into());
    let records: usize = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let batch: usize = arguments.next().map_or(Ok(1_000), |text| text.parse())?;
    let name = format!("throughput-{}", std::process::id());
    let spec = TopicSpec::new(&name, PARTITIONS).kept_forever();
    let embedded = (brokers == "embedded")
        .then(|| EmbeddedBroker::start(&[]))
        .transpose()?;
    let settings = match &embedded {
        Some(broker) => broker.settings("throughput"),
        None => Settings::new(brokers, "throughput"),
    };
    match &embedded {
        Some(broker) => broker.create_topic(&spec)?,
        None => topic::ensure(&settings, &[spec]).await?,
    }

    let partitions: Vec<i32> = (0..PARTITIONS).collect();
    let mut follower = Follower::open(&settings, &name, &partitions).await?;
    let publisher = Publisher::open(&settings, &PublisherOptions::default())?;
    let start = Instant::now();
    let reading = tokio::spawn(async move {
        let mut read = 0;
        let start = Instant::now();
        while read < records && start.elapsed() < Duration::from_secs(120) {
            read += follower
                .next_batch(5_000, Duration::from_secs(1))
                .await?
                .len();
        }
        anyhow::Ok((read, start.elapsed()))
    });
    let mut slowest = Duration::ZERO;
    for first in (0..records).step_by(batch) {
        let began = Instant::now();
        publish(&publisher, &name, first..records.min(first + batch)).await?;
        slowest = slowest.max(began.elapsed());
    }
    rate(
        "published, each batch acknowledged before the next",
        records,
        start.elapsed(),
    );
    println!("  slowest batch {slowest:?}");
    let (read, took) = reading.await??;
    rate("followed meanwhile", read, took);

    let options = GroupOptions {
        group: name.clone(),
        topics: vec![name.clone()],
        start: StartAt::Committed { or_beginning: true },
    };
    let mut member = GroupMember::open(&settings, &options)?;
    let (mut read, mut start) = (0, Instant::now());
    while read < records && start.elapsed() < Duration::from_secs(60) {
        let batch = member.next_batch(5_000, Duration::from_secs(1)).await?;
        if read == 0 {
            start = Instant::now();
        }
        read += batch.len();
    }
    rate(
        "read by a group member, from the first record on",
        read,
        start.elapsed(),
    );
    let start = Instant::now();
    let tails = topic::tails(&settings, &name, PARTITIONS).await?;
    println!(
        "tails of {} partitions: {:?}",
        tails.iter().flatten().count(),
        start.elapsed()
    );
    Ok(())
}

async fn publish(
    publisher: &Publisher,
    topic: &str,
    numbers: std::ops::Range<usize>,
) -> anyhow::Result<()> {
    let payload = [b'x'; PAYLOAD];
    let mut batch = Vec::with_capacity(numbers.len());
    for number in numbers {
        let text = number.to_string();
        let mut headers = Headers::with_capacity(12);
        for name in [
            "ce_id",
            "ce_source",
            "ce_specversion",
            "ce_type",
            "ce_time",
            "ce_subject",
        ] {
            headers = headers.add(name, b"2026-01-01T00:00:00.000000Z");
        }
        for name in [
            "ce_ledger",
            "ce_epoch",
            "ce_offset",
            "ce_seq",
            "ce_hash",
            "ce_catalog",
        ] {
            headers = headers.add(name, text.as_bytes());
        }
        batch.push(Outgoing {
            topic,
            partition: i32::try_from(number).ok().map(|number| number % PARTITIONS),
            key: Some(b"resume/0123456789abcdef"),
            payload: Some(&payload),
            headers: Some(headers),
        });
    }
    Ok(publisher.send(batch).await?)
}

fn rate(what: &str, records: usize, took: Duration) {
    println!(
        "{what}: {records} in {took:.2?}, {:.0}/s",
        records as f64 / took.as_secs_f64()
    );
}
