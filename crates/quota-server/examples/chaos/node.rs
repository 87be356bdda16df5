//! A node: the real binary, with a proxy of its own before PostgreSQL.

use crate::client::Client;
use crate::clock::{Clock, For};
use crate::proxy::Proxy;
use crate::servers::{Database, LIMIT};
use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a node is started.
#[derive(Clone)]
pub struct Plan {
    pub program: PathBuf,
    pub database: Database,
    /// The socket of its server.
    pub socket: PathBuf,
    pub brokers: String,
    pub dir: PathBuf,
    pub key: String,
}

/// A node, running or not.
pub struct Node {
    pub name: String,
    plan: Plan,
    roles: &'static str,
    child: Option<Child>,
    /// Its own clock; none where it has the machine's.
    clock: Option<Clock>,
    pub proxy: Proxy,
    pub client: Client,
}

/// All that a node can be.
pub const EVERYTHING: &str = "api,writer,relay,projector,inbox,sweeper";

impl Node {
    /// One that has not been started yet.
    pub async fn new(plan: &Plan, name: &str, roles: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            plan: plan.clone(),
            roles,
            child: None,
            clock: None,
            proxy: Proxy::start(&plan.socket).await?,
            client: Client::new(&plan.key)?,
        })
    }

    fn ready_file(&self) -> PathBuf {
        self.plan.dir.join(format!("{}.ready", self.name))
    }

    pub fn log(&self) -> PathBuf {
        self.plan.dir.join(format!("{}.log", self.name))
    }

    /// Starts it; it does not serve yet.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        std::fs::remove_file(self.ready_file()).ok();
        let log = File::options().create(true).append(true).open(self.log())?;
        let clock = self.clock.as_ref().map(Clock::environment).transpose()?;
        let child = program(&self.plan.program)
            .envs(clock.unwrap_or_default())
            .args(["serve", "--listen", "127.0.0.1:0", "--roles", self.roles])
            .arg("--ready-file")
            .arg(self.ready_file())
            .env("DATABASE_URL", self.plan.database.through(self.proxy.port)?)
            .env("KAFKA_BROKERS", &self.plan.brokers)
            .env("RUST_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the program cannot be started")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it listens.
    pub async fn listening(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.ready_file()).unwrap_or_default();
            if let Ok(ready) = serde_json::from_str::<Value>(&text) {
                let url = ready.get("url").and_then(Value::as_str);
                self.client
                    .moved(url.context("a ready file without a URL")?);
                return Ok(());
            }
            let child = self.child.as_mut().context("it was not started")?;
            if let Some(status) = child.try_wait()? {
                bail!("{} ended by itself: {status}", self.name);
            }
            ensure!(started.elapsed() < LIMIT, "{} is not ready", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it carries out a consume of each of these subjects.
    pub async fn serving(&mut self, subjects: &[String]) -> anyhow::Result<()> {
        self.listening().await?;
        let started = Instant::now();
        for subject in subjects {
            while !self.client.serves(subject).await {
                ensure!(started.elapsed() < LIMIT, "{} does not serve", self.name);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Gives it a clock that can be turned, from its next start on.
    pub fn wind_up(&mut self) -> anyhow::Result<()> {
        let file = self.plan.dir.join(format!("{}.clock", self.name));
        self.clock = Some(Clock::new(For::Many, file)?);
        Ok(())
    }

    /// Turns its clock by so many seconds.
    pub fn turn(&mut self, seconds: i64) -> anyhow::Result<()> {
        let clock = self.clock.as_mut();
        clock
            .context("a node with the machine's clock")?
            .turn(seconds)
    }

    /// Sees that it goes by the clock that it was started with, which every answer of its HTTP server tells. (One whose clock is
    /// turned back later goes on telling what it told, until that has come.)
    pub async fn shows_its_clock(&self) -> anyhow::Result<()> {
        let ahead = self.clock.as_ref().map_or(0, Clock::ahead);
        // The server makes that header anew about once a second.
        let expected = |early: u64| {
            let now = SystemTime::now() - Duration::from_secs(early);
            let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            (seconds.cast_signed() + ahead)
                .div_euclid(3_600)
                .rem_euclid(24)
        };
        let before = expected(5);
        let date = self
            .client
            .date()
            .await
            .context("an answer without a date")?;
        let hour: i64 = date.get(17..19).context("no date")?.parse()?;
        ensure!(
            [before, expected(0)].contains(&hour),
            "{} says that it is {date}, and its clock is {ahead} s ahead",
            self.name
        );
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("it was not started")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// SIGKILL: what a crash leaves behind. Harmless where it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
            if self.clock.is_some() {
                Clock::clear(child.id());
            }
        }
        // What is left of its connections is the kernel's to close, at once.
        self.proxy.disarm();
        self.proxy.cut();
        Ok(())
    }

    pub const fn runs(&self) -> bool {
        self.child.is_some()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

/// The program, without any setting of whoever runs this.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("QUOTA_") || text == "DATABASE_URL" || text == "KAFKA_BROKERS" {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a command of the program to its end; what it printed.
pub fn run(plan: &Plan, arguments: &[&str]) -> anyhow::Result<String> {
    let output = program(&plan.program)
        .args(arguments)
        .env("DATABASE_URL", &plan.database.url)
        .env("KAFKA_BROKERS", &plan.brokers)
        .output()?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
