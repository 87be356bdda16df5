//! What an earlier run may have left behind: a server that outlived a killed parent, or the locks of one that is gone.

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an earlier server gets to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends what still runs in a cluster, and removes the locks of what does not.
///
/// The server looks after its locks itself, but takes a zombie, or another process that has got its number, for one that
/// runs. Every process of a cluster, and no other, has its data folder as working directory.
///
/// # Errors
/// Processes of the cluster go on.
pub fn clear(data: &Path, socket: &Path) -> anyhow::Result<()> {
    if !Path::new("/proc/self/cwd").exists() {
        return Ok(());
    }
    let running = processes(data);
    if !running.is_empty() {
        tracing::warn!(
            "PostgreSQL of an earlier run goes on in {}; it is stopped first",
            data.display()
        );
        if let Some(postmaster) = postmaster(data).filter(|pid| running.contains(pid)) {
            kill(postmaster, Signal::SIGINT).unwrap_or_default();
        }
        let begun = Instant::now();
        while !processes(data).is_empty() {
            if begun.elapsed() > PATIENCE {
                let left: Vec<String> = processes(data).iter().map(ToString::to_string).collect();
                bail!(
                    "processes {} still use {}; end them first",
                    left.join(", "),
                    data.display()
                );
            }
            sleep(Duration::from_millis(50));
        }
    }
    fs::remove_file(data.join("postmaster.pid")).unwrap_or_default();
    for entry in fs::read_dir(socket).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            fs::remove_file(entry.path()).unwrap_or_default();
        }
    }
    Ok(())
}

/// The postmaster's number, by its lock file.
pub fn postmaster(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

fn processes(data: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data)
        {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}
