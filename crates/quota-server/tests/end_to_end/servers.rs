//! Servers of a test's own: a database on the run's PostgreSQL, and an Apache Kafka that may be stopped and killed.

use crate::program::run;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Partitions of the tests' ledgers.
pub const PARTITIONS: &str = "8";

/// A database of the test's own, dropped with it.
pub struct Database {
    pub url: String,
    /// Its name on the run's server; none on a server of the test's own.
    name: Option<String>,
}

impl Database {
    /// One without anything in it.
    pub fn empty() -> Self {
        let name = format!("e2e_{}", uuid::Uuid::new_v4().simple());
        let server = server_url();
        psql(&server, &format!("CREATE DATABASE {name}"));
        let url = with_name(&server, &name);
        Self {
            url,
            name: Some(name),
        }
    }

    /// One with an empty ledger, on a server of the test's own.
    pub fn on(postgres: &Postgres) -> Self {
        let database = Self::at(&postgres.url);
        run(&database.url, &["migrate", "--partitions", PARTITIONS]).good();
        database
    }

    /// What is at this address already.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            name: None,
        }
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
        if let Some(name) = &self.name {
            psql(
                &server_url(),
                &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            );
        }
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

/// A PostgreSQL of the test's own, for what would disturb others; killed at its end.
pub struct Postgres {
    dir: PathBuf,
    pub url: String,
    root: TempDir,
}

impl Postgres {
    /// One that runs.
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        // As root, the server's own user has to get through.
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        let dir = root.path().join("pg");
        let url = started(&dir);
        Self { dir, url, root }
    }

    /// `start`, `stop` or `kill`.
    pub fn run(&self, verb: &str) {
        script("postgres", verb, &self.dir);
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its processes: every one of them works in its data folder, and no other process does.
    pub fn processes(&self) -> Vec<i32> {
        let data = fs::canonicalize(self.data()).unwrap();
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            (cwd == data).then_some(pid)
        });
        processes.collect()
    }

    /// Copies its data, as a backup does; it is stopped for that.
    pub fn back_up(&self) {
        self.run("stop");
        copy(&self.data(), &self.backup());
        self.run("start");
    }

    /// Puts the copy in the place of its data.
    pub fn restore(&self) {
        self.run("stop");
        fs::remove_dir_all(self.data()).unwrap();
        copy(&self.backup(), &self.data());
        self.run("start");
    }

    /// A standby that follows this one.
    pub fn standby(&self) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        let dir = root.path().join("pg");
        fs::create_dir(&dir).unwrap();
        let data = dir.join("data");
        let backup = Command::new("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--pgdata"])
            .arg(&data)
            .arg(format!("--dbname={}", self.url))
            .output()
            .expect("pg_basebackup is needed; Debian's postgresql brings it");
        assert!(
            backup.status.success(),
            "{}",
            String::from_utf8_lossy(&backup.stderr)
        );
        let socket = dir.join("socket");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        fs::write(dir.join("port"), port.to_string()).unwrap();
        fs::write(dir.join("socket-dir"), socket.to_str().unwrap()).unwrap();
        fs::copy(self.dir.join("password"), dir.join("password")).unwrap();
        fs::create_dir(&socket).unwrap();
        // Whoever owns the one runs the other.
        let reference = format!("--reference={}", self.data().display());
        let owned = Command::new("chown")
            .args(["-R", &reference])
            .arg(&dir)
            .status();
        assert!(owned.unwrap().success());
        let url = started(&dir);
        Self { dir, url, root }
    }

    /// Its address over TCP, behind another port.
    pub fn behind(&self, port: u16) -> String {
        let (start, _) = self.url.split_once("@localhost:").unwrap();
        format!("{start}@127.0.0.1:{port}/postgres")
    }

    /// Its socket in the file system, where it asks for no password: that costs seconds in a build without optimisation.
    pub fn socket(&self) -> PathBuf {
        let told = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap();
        let folder = PathBuf::from(told("socket-dir").trim());
        folder.join(format!(".s.PGSQL.{}", told("port").trim()))
    }

    fn backup(&self) -> PathBuf {
        self.root.path().join("backup")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run("kill");
    }
}

fn started(dir: &Path) -> String {
    let printed = script("postgres", "start", dir);
    let url = printed.trim().strip_prefix("DATABASE_URL=");
    url.unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
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
    script("kafka", verb, dir)
}

/// Runs a script of the repository on a folder; what it prints.
fn script(name: &str, verb: &str, dir: &Path) -> String {
    let output = Command::new(root().join("scripts").join(name))
        .arg(verb)
        .arg(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name} {verb}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
