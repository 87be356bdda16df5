//! PostgreSQL and Kafka as the scripts of this repository run them, and the database of a run.

use crate::clock::Environment;
use anyhow::{Context as _, ensure};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr as _;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Far above what anything takes on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A server that `scripts/postgres` or `scripts/kafka` runs in a folder.
pub struct Server {
    script: PathBuf,
    pub dir: PathBuf,
    /// What it is started with beside what this process has.
    pub environment: Environment,
}

impl Server {
    pub fn new(script: &str, dir: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
        Self {
            script: root.join(script),
            dir: dir.to_owned(),
            environment: Environment::new(),
        }
    }

    /// `start`, `stop` or `kill`; what it printed behind the first `=`.
    pub async fn run(&self, verb: &str) -> anyhow::Result<String> {
        let output = Command::new(&self.script)
            .arg(verb)
            .arg(&self.dir)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{} {verb}: {}",
            self.script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8(output.stdout)?;
        let value = printed.split_once('=').map_or("", |(_, value)| value);
        Ok(value.trim().to_owned())
    }

    /// The process id in this file of the folder, on its first line.
    pub async fn pid(&self, file: &str) -> anyhow::Result<i32> {
        let text = tokio::fs::read_to_string(self.dir.join(file)).await?;
        let line = text.lines().next().context("an empty file")?;
        Ok(line.trim().parse()?)
    }
}

/// The ledger's database, by its owner's login.
#[derive(Clone)]
pub struct Database {
    pub url: String,
}

impl Database {
    /// Makes a new one on the server of this URL.
    pub async fn create(server: &str, name: &str) -> anyhow::Result<Self> {
        let owner = Self {
            url: server.to_owned(),
        };
        owner.run(&format!("CREATE DATABASE {name}")).await?;
        Ok(Self {
            url: renamed(server, name)?,
        })
    }

    /// Connects, as soon as the server takes connections.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::from_str(&self.url)?
            .application_name("chaos")
            .disable_statement_logging();
        let started = Instant::now();
        loop {
            match options.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => ensure!(started.elapsed() < LIMIT, "the database is away: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Carries out a statement.
    pub async fn run(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        connection
            .execute(AssertSqlSafe(statement.to_owned()))
            .await?;
        Ok(())
    }

    /// The one number that a statement tells.
    pub async fn number(&self, statement: &str) -> anyhow::Result<i64> {
        let mut connection = self.connect().await?;
        let query = sqlx::query_scalar(AssertSqlSafe(statement.to_owned()));
        Ok(query.fetch_one(&mut connection).await?)
    }

    /// The same database by TCP and another port: through a proxy.
    pub fn through(&self, port: u16) -> anyhow::Result<String> {
        let (base, _) = self.url.split_once('?').context("a URL with a socket")?;
        let (scheme, rest) = base.split_once("://").context("no URL")?;
        let (authority, name) = rest.split_once('/').context("no database")?;
        let (login, _) = authority.rsplit_once('@').context("no login")?;
        Ok(format!(
            "{scheme}://{login}@127.0.0.1:{port}/{name}?sslmode=disable"
        ))
    }
}

/// The server's URL with another database's name in it.
pub fn renamed(url: &str, name: &str) -> anyhow::Result<String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (rest, _) = base.rsplit_once('/').context("no database")?;
    Ok(format!("{rest}/{name}?{query}"))
}
