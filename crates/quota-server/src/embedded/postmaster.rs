//! The running server: started, watched, started again when it dies, and stopped with the service.
//!
//! One thread of its own starts the server and waits for it. The kernel sends the server SIGINT, its fast shutdown, when
//! that thread ends, as it does with a process that was killed; so the server does not outlive us.

use crate::embedded::Cluster;
use crate::embedded::leftovers;
use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a start may take; after a crash, it reads up to `max_wal_size`.
const START: Duration = Duration::from_secs(300);
/// How long a stop may take before it is hurried.
const STOP: Duration = Duration::from_secs(60);
/// The time between two looks at a server that starts or stops.
const LOOK: Duration = Duration::from_millis(20);
/// The time before a server that died is started again.
const AGAIN: Duration = Duration::from_secs(1);
/// A log larger than this is begun anew.
const LOG_MAX: u64 = 16 * 1024 * 1024;

/// A server that runs until it is stopped.
pub struct Postgres {
    cluster: Cluster,
    watch: Arc<Watch>,
    watcher: Option<JoinHandle<()>>,
}

/// What the watching thread and its owner tell each other.
#[derive(Default)]
struct Watch {
    stopping: AtomicBool,
    server: Mutex<Option<Pid>>,
}

impl Watch {
    fn set(&self, server: Option<Pid>) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    fn signal(&self, signal: Signal) {
        if let Some(server) = *self.server.lock().unwrap_or_else(PoisonError::into_inner) {
            kill(server, signal).unwrap_or_default();
        }
    }
}

impl Postgres {
    /// Starts the server, and waits until it takes connections. Blocks.
    ///
    /// # Errors
    /// It does not start; the end of its log is in the error.
    pub fn start(cluster: Cluster) -> anyhow::Result<Self> {
        cluster.write_settings()?;
        let watch = Arc::new(Watch::default());
        let (report, started) = mpsc::channel();
        let (watched, shared) = (cluster.clone(), watch.clone());
        let watcher = thread::Builder::new()
            .name("postgres".into())
            .spawn(move || {
                let Some(mut server) = first(&watched, &shared, &report) else {
                    return;
                };
                loop {
                    server.wait().map_or_else(
                        |error| tracing::error!(%error, "PostgreSQL cannot be waited for"),
                        |status| tracing::info!(%status, "PostgreSQL has ended"),
                    );
                    let Some(next) = again(&watched, &shared) else {
                        return;
                    };
                    server = next;
                }
            })?;
        let postgres = Self {
            cluster,
            watch,
            watcher: Some(watcher),
        };
        started
            .recv()
            .context("the thread that starts PostgreSQL died")??;
        Ok(postgres)
    }

    /// Stops the server: what is committed is kept, connections are closed.
    pub async fn stop(mut self) {
        self.watch.stopping.store(true, Ordering::SeqCst);
        let Some(watcher) = self.watcher.take() else {
            return;
        };
        for (signal, patience) in [(Signal::SIGINT, STOP), (Signal::SIGQUIT, STOP)] {
            self.watch.signal(signal);
            let begun = Instant::now();
            while !watcher.is_finished() && begun.elapsed() < patience {
                tokio::time::sleep(LOOK).await;
            }
            if watcher.is_finished() {
                break;
            }
            tracing::warn!(%signal, "PostgreSQL takes long to stop");
        }
        if self.cluster.socket_elsewhere {
            fs::remove_dir_all(&self.cluster.socket).unwrap_or_default();
        }
    }
}

/// The first start, whose outcome is reported.
fn first(
    cluster: &Cluster,
    watch: &Watch,
    report: &mpsc::Sender<anyhow::Result<()>>,
) -> Option<Child> {
    let (server, outcome) = match launch(cluster, watch) {
        Ok(server) => (Some(server), Ok(())),
        Err(error) => (None, Err(error)),
    };
    report.send(outcome).unwrap_or_default();
    server
}

/// Starts a server again that died; none when it was told to.
fn again(cluster: &Cluster, watch: &Watch) -> Option<Child> {
    watch.set(None);
    while !watch.stopping.load(Ordering::SeqCst) {
        thread::sleep(AGAIN);
        tracing::error!("PostgreSQL ended by itself; it is started again");
        match launch(cluster, watch) {
            Ok(server) => return Some(server),
            Err(error) => tracing::error!("{error:#}"),
        }
    }
    None
}

/// Starts a server and waits until it takes connections.
fn launch(cluster: &Cluster, watch: &Watch) -> anyhow::Result<Child> {
    leftovers::clear(&cluster.data, &cluster.socket)?;
    let log = open_log(&cluster.log)?;
    let from = log.metadata()?.len();
    let mut server = command(cluster)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run postgres")?;
    let pid = Pid::from_raw(i32::try_from(server.id())?);
    watch.set(Some(pid));
    if watch.stopping.load(Ordering::SeqCst) {
        // It was told to stop before there was anybody to tell.
        watch.signal(Signal::SIGINT);
    }
    let begun = Instant::now();
    while !is_ready(&cluster.data, pid) {
        if let Some(status) = server.try_wait()? {
            watch.set(None);
            bail!(
                "PostgreSQL did not start ({status}): {}",
                end_of(&cluster.log, from)
            );
        }
        if begun.elapsed() > START {
            kill(pid, Signal::SIGQUIT).unwrap_or_default();
            server.wait()?;
            watch.set(None);
            bail!(
                "PostgreSQL was not ready within {} s: {}",
                START.as_secs(),
                end_of(&cluster.log, from)
            );
        }
        thread::sleep(LOOK);
    }
    Ok(server)
}

/// The server's command line: in a group of its own, so that Ctrl-C reaches us alone, and bound to our life where the
/// system can do that.
fn command(cluster: &Cluster) -> Command {
    let program = cluster.binaries.program("postgres");
    let setpriv = Path::new("setpriv");
    let help = cluster.owner.command(setpriv).arg("--help").output();
    let binds =
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--pdeathsig"));
    let mut command = if binds {
        let mut command = cluster.owner.command(setpriv);
        command.args(["--pdeathsig", "INT"]).arg("--").arg(program);
        command
    } else {
        cluster.owner.command(&program)
    };
    command.arg("-D").arg(&cluster.data).process_group(0);
    command
}

/// Whether a server takes connections, by the last line of its lock file.
fn is_ready(data: &Path, server: Pid) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    leftovers::postmaster(data) == Some(server)
        && text
            .lines()
            .nth(7)
            .is_some_and(|line| line.trim() == "ready")
}

fn open_log(log: &Path) -> anyhow::Result<File> {
    let long = fs::metadata(log).is_ok_and(|log| log.len() > LOG_MAX);
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    let file = options
        .open(log)
        .with_context(|| log.display().to_string())?;
    if long {
        file.set_len(0)?;
    }
    Ok(file)
}

/// What a log says since a point, its end if that is long.
fn end_of(log: &Path, from: u64) -> String {
    let read = || {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(
            from.max(file.metadata()?.len().saturating_sub(2_000)),
        ))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        std::io::Result::Ok(String::from_utf8_lossy(&text).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("its log cannot be read: {error}"))
}
