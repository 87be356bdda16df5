//! Nodes that die, and nodes that stand still.

use crate::client::PRODUCT;
use crate::ledger::{COLUMNS, Row, event_key, partition_of, subject_key};
use crate::proxy::{Release, Stage, Work};
use crate::world::{PARTITIONS, World};
use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use sqlx::{Connection as _, FromRow as _};
use std::time::{Duration, Instant};

/// How long a trap may take to spring, with clients at work all the time.
const TRAP: Duration = Duration::from_secs(10);
/// By then what was sent has landed.
const LANDED: Duration = Duration::from_millis(300);
const WRITES: &[Work] = &[Work::Append, Work::Commit];

/// SIGKILL: at any moment, or just before an append is sent, just after it was, or just before its answer.
pub async fn killed(world: &mut World) -> anyhow::Result<()> {
    let number = world.any();
    let stages = [Stage::Before, Stage::Sent, Stage::Answered];
    let stage = match world.dice.below(4) {
        0 => None,
        n => stages.get(usize::try_from(n - 1)?).copied(),
    };
    let node = world.node(number)?;
    if let Some(stage) = stage {
        // Where it does not spring, the node dies at any moment.
        let held = tokio::time::timeout(TRAP, node.proxy.trap(WRITES, stage)).await;
        node.kill()?;
        drop(held);
    } else {
        node.kill()?;
    }
    // The others go on for a while.
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.recover(Some(Instant::now())).await
}

/// Every node at once, and with them every relay and projector.
pub async fn all_killed(world: &mut World) -> anyhow::Result<()> {
    for node in &mut world.nodes {
        node.kill()?;
    }
    world.recover(Some(Instant::now())).await
}

/// A node that has its partitions' locks stands still: the others go on within 5 s.
pub async fn stopped_with_locks(world: &mut World) -> anyhow::Result<()> {
    let number = world.any();
    let node = world.node(number)?;
    let held = tokio::time::timeout(TRAP, node.proxy.trap(&[Work::Lock], Stage::Answered)).await;
    node.signal(Signal::SIGSTOP)?;
    let since = Instant::now();
    if let Ok(Ok(held)) = held {
        held.release(Release::GoOn);
    } else {
        // It met no rival: it stands still without locks.
        node.proxy.disarm();
    }
    let subjects = world.subjects();
    for (other, node) in world
        .nodes
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number)
    {
        for subject in &subjects {
            while !node.client.serves(subject).await {
                ensure!(
                    since.elapsed() < crate::servers::LIMIT,
                    "node {other} does not go on"
                );
            }
        }
    }
    world.promised("the others go on", since);
    world.node(number)?.signal(Signal::SIGCONT)?;
    world.recover(Some(Instant::now())).await
}

/// What a restore to an earlier time, and others' work after it, come to for a node that slept through both: the last row
/// is another than the one that it builds on. It must not append behind it.
pub async fn replaced_behind_a_sleeper(world: &mut World) -> anyhow::Result<()> {
    // The sleeper writes the last row of a partition itself, so that it knows it.
    let number = world.any();
    for (_, node) in world
        .nodes
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number)
    {
        node.signal(Signal::SIGSTOP)?;
    }
    tokio::time::sleep(LANDED).await;
    let subjects = world.subjects();
    let subject = subjects.first().context("no partition")?;
    let sleeper = world.node(number)?;
    sleeper.serving(std::slice::from_ref(subject)).await?;
    sleeper.signal(Signal::SIGSTOP)?;
    let client = sleeper.client.clone();
    tokio::time::sleep(LANDED).await;
    let replaced = replace_last(world, subject).await?;
    world.node(number)?.signal(Signal::SIGCONT)?;
    let Some((original, other)) = replaced else {
        // Something landed behind it after all: the sleeper does not know the last row.
        return world.recover(None).await;
    };
    let mut refused = false;
    for _ in 0..3 {
        refused |= !client.serves(subject).await;
    }
    let next = format!(
        r#"SELECT count(*) FROM ledger WHERE partition = {} AND "offset" > {}"#,
        original.partition, original.offset
    );
    let behind = world.plan.database.number(&next).await?;
    if behind > 0 || !refused {
        let at = original.at();
        let wrong = format!(
            "{behind} rows were appended behind {at}, which was another row than the node knew"
        );
        world.checker.found.push(wrong);
        // What stands behind it cannot be taken back: the run ends here.
        anyhow::bail!("the ledger is broken now");
    }
    change(world, &other, &original).await?;
    world.recover(None).await
}

/// Puts another row in the place of a subject's, which is the last one of its partition, as good as that one but for its
/// id; none where another subject's is the last.
async fn replace_last(world: &World, subject: &str) -> anyhow::Result<Option<(Row, Row)>> {
    let partition = partition_of(&subject_key(PRODUCT, subject), PARTITIONS);
    let text = format!(
        r#"SELECT {COLUMNS} FROM ledger l WHERE l.partition = {partition} ORDER BY l."offset" DESC LIMIT 2"#
    );
    let mut connection = world.plan.database.connect().await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .fetch_all(&mut connection)
        .await?;
    let mut rows = rows.iter().map(Row::from_row);
    let original = rows.next().context("an empty partition")??;
    let before = rows.next().context("a partition with one row")??;
    if original.subject != subject {
        return Ok(None);
    }
    let mut other = original.clone();
    other.id = format!("{}-replaced", original.id);
    other.event_key = event_key(PRODUCT, &other.subject, &other.source, &other.id);
    other.hash = other.hash_after(&before.hash).to_vec();
    change(world, &original, &other).await?;
    Ok(Some((original, other)))
}

/// As the owner, who may switch triggers off.
async fn change(world: &World, from: &Row, to: &Row) -> anyhow::Result<()> {
    let mut connection = world.plan.database.connect().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query("ALTER TABLE ledger DISABLE TRIGGER ledger_no_change")
        .execute(&mut *transaction)
        .await?;
    let changed = sqlx::query(
        r#"UPDATE ledger SET id = $3, event_key = $4, hash = $5 WHERE partition = $1 AND "offset" = $2"#,
    )
    .bind(from.partition)
    .bind(from.offset)
    .bind(&to.id)
    .bind(&to.event_key)
    .bind(&to.hash)
    .execute(&mut *transaction)
    .await?;
    ensure!(changed.rows_affected() == 1, "no row to change");
    sqlx::query("ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_change")
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}
