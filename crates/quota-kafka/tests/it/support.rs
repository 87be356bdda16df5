//! Brokers to test against, and small helpers.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quota_kafka::{
    EmbeddedBroker, Follower, GroupMember, Outgoing, Publisher, PublisherOptions, Record, Settings,
    TopicSpec, topic,
};

/// A broker under test. Topic names are unique, so that tests can share a real one.
pub enum Broker {
    Embedded(EmbeddedBroker),
    Real(String),
}

/// The brokers that this run has.
pub fn brokers() -> anyhow::Result<Vec<Broker>> {
    let mut brokers = vec![Broker::Embedded(EmbeddedBroker::start(&[])?)];
    brokers.extend(real()?);
    Ok(brokers)
}

/// Runs a check on all brokers of this run at once: for those that wait more than they work.
pub async fn on_each(check: impl AsyncFn(&Broker) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let embedded = Broker::Embedded(EmbeddedBroker::start(&[])?);
    let real = real()?;
    let on_real = async {
        match &real {
            Some(broker) => check(broker).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(check(&embedded), on_real)?;
    Ok(())
}

/// The real broker, if this run has one.
pub fn real() -> anyhow::Result<Option<Broker>> {
    match std::env::var("TEST_KAFKA_BROKERS") {
        Ok(brokers) => Ok(Some(Broker::Real(brokers))),
        Err(_) if std::env::var("QUOTA_TEST_REQUIRE_REAL").is_ok_and(|value| value == "1") => {
            anyhow::bail!("QUOTA_TEST_REQUIRE_REAL=1, but TEST_KAFKA_BROKERS is not set")
        }
        Err(_) => Ok(None),
    }
}

impl Broker {
    pub fn settings(&self) -> Settings {
        match self {
            Self::Embedded(broker) => broker.settings("test"),
            Self::Real(brokers) => Settings::new(brokers, "test"),
        }
    }

    /// A new topic with a name of its own.
    pub async fn topic(&self, partitions: i32) -> anyhow::Result<String> {
        let name = unique("topic");
        self.create(&name, partitions).await?;
        Ok(name)
    }

    pub async fn create(&self, name: &str, partitions: i32) -> anyhow::Result<()> {
        let spec = TopicSpec::new(name, partitions).kept_forever();
        match self {
            Self::Embedded(broker) => broker.create_topic(&spec)?,
            Self::Real(_) => topic::ensure(&self.settings(), &[spec]).await?,
        }
        Ok(())
    }

    pub fn publisher(&self) -> anyhow::Result<Publisher> {
        Ok(Publisher::open(
            &self.settings(),
            &PublisherOptions::default(),
        )?)
    }
}

/// A real broker of one test's own, stopped at the end.
pub struct OwnKafka {
    dir: PathBuf,
    _root: tempfile::TempDir,
}

impl OwnKafka {
    /// One that runs; none in runs without real brokers.
    pub fn start() -> anyhow::Result<Option<(Self, Broker)>> {
        if real()?.is_none() {
            return Ok(None);
        }
        let root = tempfile::tempdir()?;
        let own = Self {
            dir: root.path().join("kafka"),
            _root: root,
        };
        let brokers = own.run("start")?;
        Ok(Some((own, Broker::Real(brokers))))
    }

    /// `start`, `stop` or `kill`; what `start` prints after the equals sign.
    pub fn run(&self, verb: &str) -> anyhow::Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka");
        let output = Command::new(script).arg(verb).arg(&self.dir).output()?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8(output.stdout)?;
        Ok(printed
            .trim()
            .rsplit('=')
            .next()
            .unwrap_or_default()
            .to_owned())
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        let _ = self.run("kill");
    }
}

/// A name that no other test and no other run has used.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    format!("{what}-{micros}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A record whose payload is `text`.
pub fn outgoing<'a>(topic: &'a str, partition: i32, text: &'a str) -> Outgoing<'a> {
    Outgoing {
        topic,
        partition: Some(partition),
        key: Some(b"key"),
        payload: Some(text.as_bytes()),
        headers: None,
    }
}

/// Publishes the numbers of `range` as text, number n to partition n mod `partitions`.
pub async fn publish_numbers(
    publisher: &Publisher,
    topic: &str,
    partitions: i32,
    range: Range<i32>,
) -> anyhow::Result<()> {
    let numbers: Vec<(i32, String)> = range.map(|number| (number, number.to_string())).collect();
    let batch = numbers
        .iter()
        .map(|(number, text)| outgoing(topic, number % partitions, text));
    Ok(publisher.send(batch.collect()).await?)
}

pub fn number(record: &Record) -> anyhow::Result<i32> {
    Ok(std::str::from_utf8(record.payload().unwrap_or_default())?.parse()?)
}

/// Checks that the records are the numbers of `range`, each once, ascending in each partition.
pub fn assert_numbers(records: &[Record], range: Range<i32>) -> anyhow::Result<()> {
    let mut numbers = Vec::with_capacity(records.len());
    let mut last = std::collections::HashMap::new();
    for record in records {
        let number = number(record)?;
        let before = last.insert(record.partition, (number, record.offset));
        if let Some((smaller, offset)) = before {
            anyhow::ensure!(
                smaller < number && offset < record.offset,
                "disorder at {record:?}"
            );
        }
        numbers.push(number);
    }
    numbers.sort_unstable();
    anyhow::ensure!(
        numbers.iter().copied().eq(range.clone()),
        "{} records from {:?} to {:?} instead of {range:?}",
        numbers.len(),
        numbers.first(),
        numbers.last()
    );
    Ok(())
}

/// At least `count` records; whether more come shows in the next read.
pub async fn follow(follower: &mut Follower, count: usize) -> anyhow::Result<Vec<Record>> {
    let (start, mut records) = (Instant::now(), Vec::new());
    while records.len() < count {
        anyhow::ensure!(
            start.elapsed() < LIMIT,
            "only {} of {count} records",
            records.len()
        );
        records.extend(
            follower
                .next_batch(1_000, Duration::from_millis(500))
                .await?,
        );
    }
    Ok(records)
}

/// At least `count` records of a member.
pub async fn read(member: &mut GroupMember, count: usize) -> anyhow::Result<Vec<Record>> {
    let (start, mut records) = (Instant::now(), Vec::new());
    while records.len() < count {
        anyhow::ensure!(
            start.elapsed() < LIMIT,
            "only {} of {count} records",
            records.len()
        );
        records.extend(member.next_batch(1_000, Duration::from_millis(500)).await?);
    }
    Ok(records)
}

/// Waits until `done`.
pub async fn until(mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !done() {
        anyhow::ensure!(start.elapsed() < LIMIT, "not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Far more than anything here takes on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);
