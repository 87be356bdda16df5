//! Servers of a test's own: a database on the run's PostgreSQL, and an Apache Kafka that may be stopped and killed.

use crate::program::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Partitions of the tests' ledgers.
pub const PARTITIONS: &str = "8";

/// A database of the test's own, dropped with it.
pub struct Database {
    pub url: String,
    name: String,
}

impl Database {
    /// One without anything in it.
    pub fn empty() -> Self {
        let name = format!("e2e_{}", uuid::Uuid::new_v4().simple());
        let server = server_url();
        psql(&server, &format!("CREATE DATABASE {name}"));
        let url = with_name(&server, &name);
        Self { url, name }
    }

    /// One with an empty ledger.
    pub fn migrated() -> Self {
        let database = Self::empty();
        run(&database.url, &["migrate", "--partitions", PARTITIONS]).good();
        database
    }

    /// What a statement of the owner prints, columns by `|`, lines by newline.
    pub fn sql(&self, statement: &str) -> String {
        psql(&self.url, statement)
    }

    /// Publishes a catalog that ships with the program.
    pub fn publish_shipped(&self, product: &str) {
        let catalogs = root().join("crates/quota-core/catalogs");
        let file = catalogs.join(product).join("catalog.toml");
        let file = file.to_str().unwrap();
        run(
            &self.url,
            &["catalog", "publish", file, "--product", product],
        )
        .good();
    }

    /// Publishes a catalog.
    pub fn publish(&self, product: &str, text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("catalog.toml");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        run(
            &self.url,
            &["catalog", "publish", file, "--product", product],
        )
        .good();
    }

    /// A key for every product and scope.
    pub fn key(&self) -> String {
        let scopes = "publish,consume,check,read,admin,gateway";
        let made = run(
            &self.url,
            &["key", "create", "--product", "*", "--scope", scopes],
        );
        made.good().trim().to_owned()
    }

    /// Checks the whole ledger and every view: all must be good. What was verified.
    pub fn verify(&self) -> serde_json::Value {
        let printed = run(&self.url, &["verify"]).good();
        let verified: serde_json::Value = serde_json::from_str(printed.trim()).unwrap();
        assert_eq!(verified["ok"], true);
        verified
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        psql(
            &server_url(),
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
        );
    }
}

fn server_url() -> String {
    std::env::var("TEST_DATABASE_URL").expect(
        "TEST_DATABASE_URL is not set: these tests need a real PostgreSQL; run scripts/test, which starts one",
    )
}

/// The server's URL with another database's name in it.
fn with_name(server: &str, name: &str) -> String {
    let (base, query) = server
        .split_once('?')
        .map_or((server, String::new()), |(b, q)| (b, format!("?{q}")));
    let start = base.find("://").unwrap() + 3;
    let host = base[start..].split('/').next().unwrap();
    format!("{}{host}/{name}{query}", &base[..start])
}

/// What a statement prints, columns by `|`, lines by newline.
pub fn psql(url: &str, statement: &str) -> String {
    let mut command = Command::new("psql");
    command.args([
        url,
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        statement,
    ]);
    let output = command
        .output()
        .expect("psql is needed; Debian's postgresql brings it");
    assert!(
        output.status.success(),
        "{statement}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// An Apache Kafka of the test's own, killed at its end.
pub struct Kafka {
    dir: PathBuf,
    pub brokers: String,
    _root: TempDir,
}

impl Kafka {
    /// One that runs.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("kafka");
        let brokers = kafka("start", &dir)
            .trim()
            .rsplit('=')
            .next()
            .unwrap()
            .to_owned();
        Self {
            dir,
            brokers,
            _root: root,
        }
    }

    /// `start`, `stop` or `kill`.
    pub fn run(&self, verb: &str) {
        kafka(verb, &self.dir);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.run("kill");
    }
}

fn kafka(verb: &str, dir: &Path) -> String {
    let output = Command::new(root().join("scripts/kafka"))
        .arg(verb)
        .arg(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "kafka {verb}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
