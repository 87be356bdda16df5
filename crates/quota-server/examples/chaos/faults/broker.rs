//! Kafka that dies, falls silent, loses records, and tells them twice.

use crate::topic::Topic;
use crate::world::{PARTITIONS, World};
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// SIGKILL; consumes go on while it is away, and the topic is filled when it is back.
pub async fn killed(world: &mut World) -> anyhow::Result<()> {
    world.kafka.run("kill").await?;
    goes_on(world).await?;
    world.kafka.run("start").await?;
    world.recover(Some(Instant::now())).await?;
    world.caught_up().await
}

/// It takes every connection and answers none, for a while.
pub async fn silent(world: &mut World) -> anyhow::Result<()> {
    let broker = Pid::from_raw(world.kafka.pid("pid").await?);
    kill(broker, Signal::SIGSTOP)?;
    let went_on = goes_on(world).await;
    let time = world.dice.moment(Duration::from_secs(3));
    tokio::time::sleep(time).await;
    kill(broker, Signal::SIGCONT)?;
    went_on
}

/// Every node carries out consumes, in every partition.
pub(super) async fn goes_on(world: &mut World) -> anyhow::Result<()> {
    let subjects = world.subjects();
    let serving = world.nodes.iter_mut().map(|node| node.serving(&subjects));
    let served = futures::future::try_join_all(serving).await;
    served.map(drop).context("without Kafka")
}

/// Old records come again, in any order.
pub async fn repeated(world: &mut World) -> anyhow::Result<()> {
    world.caught_up().await?;
    let salt = world.dice.next();
    let order = |number: usize| (number as u64 ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let count = world.topic.repeat(order).await?;
    ensure!(count > 0, "there was nothing to repeat");
    Ok(())
}

/// The broker's disk forgets the ends of some partitions: what a power cut does to records that were never synced.
pub async fn tail_lost(world: &mut World) -> anyhow::Result<()> {
    world.caught_up().await?;
    world.kafka.run("kill").await?;
    for partition in 0..PARTITIONS {
        if let Some((segment, size)) = newest_segment(world, partition)? {
            let lost = world.dice.below(size / 2 + 1);
            File::options()
                .write(true)
                .open(segment)?
                .set_len(size - lost)?;
        }
    }
    world.kafka.run("start").await?;
    world.topic = Topic::open(&world.plan.brokers, PARTITIONS, true)?;
    world.recover(Some(Instant::now())).await
}

/// The file that a partition's newest records are in, and its size.
fn newest_segment(world: &World, partition: usize) -> anyhow::Result<Option<(PathBuf, u64)>> {
    let folder = world
        .kafka
        .dir
        .join(format!("data/quota.ledger.v1-{partition}"));
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let size = path.metadata()?.len();
            segments.push((path, size));
        }
    }
    segments.sort();
    Ok(segments.pop())
}
