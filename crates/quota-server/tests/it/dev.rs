//! The folder of `dev` and the server in it, when things go wrong. (What it keeps and tells: `tests/end_to_end`.)

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A `dev` that runs; killed where a test forgets it.
struct Dev {
    process: Child,
    ready: Value,
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().unwrap();
    }
}

/// The binary, without the settings of whoever runs the tests.
fn quota_ledger() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quota-ledger"));
    for name in ["DATABASE_URL", "KAFKA_BROKERS", "QUOTA_LISTEN"] {
        command.env_remove(name);
    }
    command
}

/// A folder that PostgreSQL's user gets to, whoever that is.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new()
        .prefix("quota-dev")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Dev {
    fn start(data: &Path) -> Self {
        let ready = data.with_extension("ready");
        fs::remove_file(&ready).unwrap_or_default();
        let log = fs::File::create(data.with_extension("log")).unwrap();
        let mut command = quota_ledger();
        command
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready);
        let mut process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let ready = until("ready", || {
            let said = || fs::read_to_string(data.with_extension("log")).unwrap();
            assert!(
                process.try_wait().unwrap().is_none(),
                "it ended: {}",
                said()
            );
            serde_json::from_str(&fs::read_to_string(&ready).ok()?).ok()
        });
        Self { process, ready }
    }

    fn member(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }

    async fn call(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        let client = reqwest::Client::new();
        let url = format!(
            "{}/v1/products/applyx/subjects/u1/{path}",
            self.member("url")
        );
        let request = match body {
            Some(body) => client.post(url).json(&body),
            None => client.get(url),
        };
        let response = request
            .bearer_auth(self.member("admin_key"))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn end(mut self) -> std::process::ExitStatus {
        until("its end", || self.process.try_wait().unwrap())
    }
}

/// Processes whose working directory is the cluster's: its servers.
fn servers(data: &Path) -> Vec<PathBuf> {
    let cluster = data.join("postgres");
    let entries = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|entry| fs::read_link(entry.join("cwd")).is_ok_and(|cwd| cwd == cluster))
        .collect()
}

#[tokio::test]
async fn its_server_ends_with_it_and_a_kill_loses_nothing() {
    let folder = folder();
    // Too deep for a socket, and with a space in it.
    let data = folder
        .path()
        .join("a folder")
        .join("x".repeat(80))
        .join("data");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    let dev = Dev::start(&data);
    let (_, first) = dev
        .call("consume", Some(json!({"feature": "interviews"})))
        .await;
    assert_eq!(first["allowed"], true, "{first}");
    dev.signal(Signal::SIGKILL);
    drop(dev);
    until("no server outlives it", || {
        servers(&data).is_empty().then_some(())
    });
    let dev = Dev::start(&data);
    let (_, page) = dev.call("ledger", None).await;
    assert_eq!(page["events"][0]["data"]["feature"], "interviews", "{page}");
    let other = quota_ledger()
        .args(["dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(
        String::from_utf8(other.stderr)
            .unwrap()
            .contains("in use by another"),
        "one at a time"
    );

    // The server itself is killed: it comes back, and so do answers.
    let postmaster = fs::read_to_string(data.join("postgres/postmaster.pid")).unwrap();
    let postmaster = Pid::from_raw(postmaster.lines().next().unwrap().parse().unwrap());
    kill(postmaster, Signal::SIGKILL).unwrap();
    let begun = Instant::now();
    while dev
        .call("consume", Some(json!({"feature": "resume_analyses"})))
        .await
        .0
        != 200
    {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.end().code(), Some(0));
}

#[test]
fn a_folder_that_cannot_serve_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let start = |data: &Path, listen: &str| {
        let output = quota_ledger()
            .args(["dev", "--listen", listen, "--data"])
            .arg(data)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let folder = folder();
    let (code, err) = start(&folder.path().join("data"), "0.0.0.0:0");
    assert_eq!(code, Some(2));
    assert!(err.contains("loopback only"), "{err}");
    if Uid::effective().is_root() {
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let (code, err) = start(&closed.join("data"), "127.0.0.1:0");
        assert_eq!(code, Some(2));
        assert!(
            err.contains(&format!("may not enter {}", closed.display())),
            "{err}"
        );
    }
}
