//! Disks that are full: PostgreSQL's under its write-ahead log, and Kafka's.

use super::broker::goes_on;
use crate::disk::Disk;
use crate::servers::LIMIT;
use crate::world::World;
use anyhow::ensure;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Room for three files of the write-ahead log; and for more than Kafka is told in a round.
const ROOM: u64 = 48 << 20;
const FULL: &str = "No space left on device";
/// How long a server has to end by itself, or to answer.
const MOMENT: Duration = Duration::from_secs(5);

/// PostgreSQL finds no room for its write-ahead log, and ends in a panic. It has everything that was acknowledged once it has
/// room again.
pub async fn under_the_wal(world: &mut World) -> anyhow::Result<()> {
    let (dir, log) = (world.postgres.dir.clone(), world.postgres.dir.join("log"));
    world.postgres.run("stop").await?;
    let disk = Disk::under(&dir, dir.join("data/pg_wal"), ROOM)?;
    world.postgres.run("start").await?;
    world.recover(None).await?;
    world.answers(20).await;
    let log = Log::now(log)?;
    let started = Instant::now();
    while !log.says(&["PANIC", FULL])? {
        ensure!(started.elapsed() < LIMIT, "PostgreSQL missed no room");
        disk.fill()?;
        // What it has made of these files beforehand is used up sooner so. Often it cannot answer any more.
        let switch = world.plan.database.run("SELECT pg_switch_wal()");
        tokio::time::timeout(MOMENT, switch).await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It starts again by itself, where that takes no room, and ends in the next panic.
    let more = world.dice.moment(Duration::from_secs(3));
    tokio::time::sleep(more).await;
    disk.free()?;
    started_again(world).await?;
    world.recover(Some(Instant::now())).await?;
    world.answers(20).await;
    world.postgres.run("stop").await?;
    disk.back()?;
    world.postgres.run("start").await?;
    world.recover(None).await
}

/// Starts PostgreSQL, which may still be about to end.
async fn started_again(world: &World) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let ran = world.postgres.run("start").await;
        let connected = tokio::time::timeout(MOMENT, world.plan.database.connect()).await;
        match (ran, connected) {
            (Ok(_), Ok(Ok(_))) => return Ok(()),
            (Err(error), _) if begun.elapsed() > LIMIT => return Err(error),
            _ => ensure!(begun.elapsed() < LIMIT, "PostgreSQL does not come back"),
        }
    }
}

/// Kafka finds no room for its log, and gives up. Consumes go on, and the topic is the ledger once there is room again.
pub async fn under_the_broker(world: &mut World) -> anyhow::Result<()> {
    let (dir, log) = (world.kafka.dir.clone(), world.kafka.dir.join("log"));
    world.kafka.run("stop").await?;
    let disk = Disk::under(&dir, dir.join("data"), ROOM)?;
    world.kafka.run("start").await?;
    world.recover(None).await?;
    world.caught_up().await?;
    let log = Log::now(log)?;
    disk.fill()?;
    let started = Instant::now();
    while !log.says(&[FULL])? {
        ensure!(started.elapsed() < LIMIT, "Kafka missed no room");
        goes_on(world).await?;
    }
    let more = world.dice.moment(Duration::from_secs(3));
    tokio::time::sleep(more).await;
    goes_on(world).await?;
    disk.free()?;
    // A broker that has given its only folder up does not take it again, whether it has ended by itself or not.
    world.kafka.run("kill").await?;
    world.kafka.run("start").await?;
    world.recover(Some(Instant::now())).await?;
    world.caught_up().await?;
    world.kafka.run("stop").await?;
    disk.back()?;
    world.kafka.run("start").await?;
    world.recover(None).await
}

/// What a server writes into its log from now on.
struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    fn now(path: PathBuf) -> anyhow::Result<Self> {
        let from = Path::metadata(&path)?.len();
        Ok(Self { path, from })
    }

    /// Whether one of its lines has all of these words.
    fn says(&self, words: &[&str]) -> anyhow::Result<bool> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        Ok(lines.any(|line| words.iter().all(|word| line.contains(word))))
    }
}
