//! Kafka as tests need it: a broker that can be stopped and lose its disk, and topics read from their beginning.

use quota_kafka::{GroupMember, GroupOptions, Record, StartAt};
use quota_server::topics::Topics;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A real broker of one test's own, ended with it.
pub struct OwnKafka {
    dir: PathBuf,
    pub brokers: String,
    _root: tempfile::TempDir,
}

impl OwnKafka {
    /// One that runs; none in runs without real brokers.
    pub fn start() -> Option<Self> {
        crate::nodes::real_brokers()?;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("kafka");
        let mut own = Self {
            dir,
            brokers: String::new(),
            _root: root,
        };
        let printed = own.run("start");
        own.brokers = printed.rsplit('=').next().unwrap().to_owned();
        Some(own)
    }

    /// `start`, `stop` or `kill`.
    pub fn run(&self, verb: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka");
        let output = Command::new(script)
            .arg(verb)
            .arg(&self.dir)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Kills it and takes its topics away, and what it knew of them: it comes back as a new one.
    pub fn lose(&self) {
        self.run("kill");
        for entry in std::fs::read_dir(self.dir.join("data")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        self.run("start");
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        if self.dir.join("server.properties").exists() {
            self.run("kill");
        }
    }
}

/// A topic's records from its beginning, until `enough` says so of all that came, or nothing came for ten seconds.
pub async fn read_topic(
    topics: &Topics,
    topic: &str,
    enough: impl Fn(&[Record]) -> bool,
) -> Vec<Record> {
    let options = GroupOptions {
        group: crate::nodes::unique("reader"),
        topics: vec![topic.to_owned()],
        start: StartAt::Committed { or_beginning: true },
    };
    let mut member = GroupMember::open(topics.settings(), &options).unwrap();
    let mut records = Vec::new();
    let mut came = Instant::now();
    while !enough(&records) && came.elapsed() < Duration::from_secs(10) {
        let batch = member
            .next_batch(10_000, Duration::from_millis(200))
            .await
            .unwrap();
        if !batch.is_empty() {
            came = Instant::now();
        }
        records.extend(batch);
    }
    member.close().await;
    records
}
