//! PostgreSQL that dies, and the way to it that is cut, blocked or slow.

use crate::proxy::{Flow, Release, Stage, Work};
use crate::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection as _, Executor as _};
use std::time::{Duration, Instant};

const TRAP: Duration = Duration::from_secs(10);

/// SIGKILL to all of it.
pub async fn killed(world: &mut World) -> anyhow::Result<()> {
    world.postgres.run("kill").await?;
    world.postgres.run("start").await?;
    world.recover(Some(Instant::now())).await
}

/// One backend that appends: ended by another session, or killed (which makes PostgreSQL end all others, and recover).
pub async fn backend_killed(world: &mut World) -> anyhow::Result<()> {
    let gently = world.dice.percent(60);
    let database = world.plan.database.clone();
    let lanes = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'quota-ledger lane'";
    let mut connection = database.connect().await?;
    let pids: Vec<i32> = sqlx::query_scalar(lanes).fetch_all(&mut connection).await?;
    if let Some(pid) = world.dice.pick(&pids) {
        if gently {
            sqlx::query("SELECT pg_terminate_backend($1)")
                .bind(pid)
                .execute(&mut connection)
                .await?;
        } else {
            kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
        }
    }
    drop(connection);
    // It takes connections again when this returns.
    let connection = database.connect().await?;
    connection.close().await.ok();
    world.recover(Some(Instant::now())).await
}

/// The connection goes while a commit is under way, a few times in a row: its outcome is not known.
pub async fn cut_at_commit(world: &mut World) -> anyhow::Result<()> {
    for _ in 0..3 {
        let number = world.any();
        let stage = if world.dice.percent(50) {
            Stage::Sent
        } else {
            Stage::Answered
        };
        let node = world.node(number)?;
        let trap = node.proxy.trap(&[Work::Append, Work::Commit], stage);
        match tokio::time::timeout(TRAP, trap).await {
            Ok(Ok(held)) => held.release(Release::Cut),
            _ => node.proxy.disarm(),
        }
    }
    world.recover(Some(Instant::now())).await
}

/// Nothing passes between a node and PostgreSQL, and nobody is told; then all of it does, or the connections are gone.
pub async fn partition(world: &mut World, most: u64) -> anyhow::Result<()> {
    let number = world.any();
    let (time, cut) = (
        most / 4 + world.dice.below(most * 3 / 4),
        world.dice.percent(50),
    );
    let proxy = &world.node(number)?.proxy;
    proxy.flow(Flow::Paused);
    tokio::time::sleep(Duration::from_millis(time)).await;
    if cut {
        proxy.cut();
    }
    proxy.flow(Flow::Open);
    world.recover(Some(Instant::now())).await
}

/// Every piece takes longer, both ways, for every node.
pub async fn slow_link(world: &mut World) -> anyhow::Result<()> {
    let delay = Duration::from_millis(2 + world.dice.below(30));
    for node in &world.nodes {
        node.proxy.flow(Flow::Slow(delay));
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    for node in &world.nodes {
        node.proxy.flow(Flow::Open);
    }
    Ok(())
}

/// Somebody else's transaction, in another database of the same server, has written and stays open: relay and projectors
/// go on all the same.
pub async fn idle_transaction(world: &mut World) -> anyhow::Result<()> {
    let other = crate::servers::Database {
        url: crate::servers::renamed(&world.plan.database.url, "postgres")?,
    };
    let mut connection = other.connect().await?;
    let mut open = connection.begin().await?;
    (&mut *open)
        .execute("CREATE TABLE chaos_idle (x int)")
        .await?;
    (&mut *open)
        .execute("INSERT INTO chaos_idle VALUES (1)")
        .await?;
    // It got its number before these rows.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.caught_up().await?;
    open.rollback().await?;
    Ok(())
}
