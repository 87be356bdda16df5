//! The program: commands that end by themselves, and nodes that serve until they are stopped or killed.

use crate::client::Client;
use crate::servers::{Database, Kafka};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far above what anything here takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What a command came to.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// What it printed; it must have gone well.
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Each line that it printed, as JSON.
    pub fn lines(self) -> Vec<Value> {
        self.good()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// The program, without any setting of whoever runs the tests.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quota-ledger"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("QUOTA_") || text == "DATABASE_URL" || text == "KAFKA_BROKERS" {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command on a database to its end.
pub fn run(database_url: &str, arguments: &[&str]) -> Ended {
    let output = program()
        .args(arguments)
        .env("DATABASE_URL", database_url)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A process that serves. It is killed with its test.
pub struct Node {
    child: Child,
    /// What its ready file says.
    pub ready: Value,
    pub ready_file: PathBuf,
    log: PathBuf,
    _dir: TempDir,
}

impl Node {
    /// Starts `serve` with all roles, and waits until it writes, too.
    pub async fn serve(database: &Database, kafka: &Kafka) -> Self {
        let node = Self::answering(database, kafka).await;
        let client = node.client("");
        until("it is ready for writing", async || {
            client.get("/readyz").await.status == 200
        })
        .await;
        node
    }

    /// Starts `serve` with all roles, and waits until it answers: where Kafka is away or slow, it does not write yet.
    pub async fn answering(database: &Database, kafka: &Kafka) -> Self {
        let mut command = program();
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command
            .env("DATABASE_URL", &database.url)
            .env("KAFKA_BROKERS", &kafka.brokers);
        Self::start(command).await
    }

    /// Starts a command that takes a ready file, and waits until it is ready.
    pub async fn start(mut command: Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ready_file, log) = (dir.path().join("ready.json"), dir.path().join("log"));
        let errors = File::create(&log).unwrap();
        command
            .arg("--ready-file")
            .arg(&ready_file)
            .stdout(Stdio::null())
            .stderr(errors);
        let child = command.spawn().unwrap();
        let mut node = Self {
            child,
            ready: Value::Null,
            ready_file,
            log,
            _dir: dir,
        };
        let started = Instant::now();
        node.ready = loop {
            if let Ok(text) = fs::read_to_string(&node.ready_file) {
                break serde_json::from_str(&text).unwrap();
            }
            assert_eq!(
                node.child.try_wait().unwrap(),
                None,
                "it ended before it was ready"
            );
            assert!(started.elapsed() < LIMIT, "it is not ready in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        node
    }

    pub fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    /// A client of this node.
    pub fn client(&self, key: &str) -> Client {
        Client::new(self.url(), key)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// SIGKILL: what a crash or a power cut leaves behind.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < LIMIT, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM: it must end well.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.ended().await.code(), Some(0), "{}", self.log());
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
            eprintln!("the end of a node's log:\n{}", &log[from..]);
        }
        if let Ok(None) = self.child.try_wait() {
            // Gently first: `dev` has a PostgreSQL to stop.
            self.signal(Signal::SIGTERM);
            let started = Instant::now();
            while let Ok(None) = self.child.try_wait()
                && started.elapsed() < Duration::from_secs(20)
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Waits until something holds; `what` says it for the failure.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
