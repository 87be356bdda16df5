//! Clocks that jump: PostgreSQL's, which all decisions go by, and a node's own, which none does.

use crate::client::Outcome;
use crate::clock::{Clock, For};
use crate::servers::LIMIT;
use crate::world::{PARTITIONS, World};
use anyhow::{Context as _, ensure};
use std::time::{Duration, Instant};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600;
/// What a clock may be off by in a reading, on a machine that has other things to do; in seconds.
const SLACK: i64 = 60;
/// So far behind the ledger the database's clock may be, in seconds, before nothing is decided any more.
const BEHIND_MAX: i64 = 5;
/// By then a node has read the database's clock anew.
const NOTICED: Duration = Duration::from_millis(1_500);

/// One of the clocks jumps; the ledger's time does not go back.
pub async fn jump(world: &mut World) -> anyhow::Result<()> {
    wind_up(world).await?;
    match world.dice.below(5) {
        0 => ahead(world).await,
        1 => slightly_back(world).await,
        2 => back_until_caught_up(world).await,
        3 => back_until_set_right(world).await,
        _ => of_a_node(world).await,
    }
}

/// Gives PostgreSQL and all nodes clocks that can be turned, which they keep.
async fn wind_up(world: &mut World) -> anyhow::Result<()> {
    if world.clock.is_some() {
        return Ok(());
    }
    let clock = Clock::new(For::One, world.postgres.dir.join("clock"))?;
    world.postgres.run("stop").await?;
    let variables = clock.environment()?.into_iter();
    let lines: Vec<String> = variables
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    world.postgres.environment = vec![("POSTGRES_ENVIRONMENT", lines.join("\n"))];
    world.postgres.run("start").await?;
    world.clock = Some(clock);
    for node in &mut world.nodes {
        node.kill()?;
        node.wind_up()?;
    }
    world.recover(Some(Instant::now())).await
}

/// What the database's clock shows, in microseconds.
async fn now(world: &World) -> anyhow::Result<i64> {
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    world.plan.database.number(clock).await
}

/// Turns PostgreSQL's clock, and sees that it was turned.
async fn turn(world: &mut World, seconds: i64) -> anyhow::Result<()> {
    let before = now(world).await?;
    let clock = world.clock.as_mut().context("it was not wound up")?;
    clock.turn(seconds)?;
    let went = (now(world).await? - before).div_euclid(SECOND);
    ensure!(
        (seconds..seconds + SLACK).contains(&went),
        "PostgreSQL's clock was turned by {seconds} s, and went by {went} s"
    );
    Ok(())
}

/// An hour ahead, where it stays: holds have ended, and now and then a day has.
async fn ahead(world: &mut World) -> anyhow::Result<()> {
    turn(world, HOUR).await?;
    world.recover(Some(Instant::now())).await
}

/// Back by less than matters: nobody notices.
async fn slightly_back(world: &mut World) -> anyhow::Result<()> {
    let seconds = 1 + i64::try_from(world.dice.below(2))?;
    turn(world, -seconds).await?;
    world.recover(Some(Instant::now())).await?;
    world.answers(40).await;
    world.rest().await;
    let attempts = world.history.ops.iter().flat_map(|op| &op.attempts);
    let mut outcomes = attempts.map(|attempt| &attempt.outcome);
    if outcomes.any(is_clock_behind) {
        let wrong = format!("refused since the database's clock went back by {seconds} s");
        world.checker.found.push(wrong);
    }
    caught_up(world).await
}

/// Back by more, for a few seconds: then it has caught up by itself.
async fn back_until_caught_up(world: &mut World) -> anyhow::Result<()> {
    let seconds = BEHIND_MAX + 2 + i64::try_from(world.dice.below(4))?;
    turn(world, -seconds).await?;
    let served = Instant::now() + Duration::from_secs(u64::try_from(seconds - BEHIND_MAX)?);
    world.recover(Some(served)).await?;
    caught_up(world).await
}

/// Back by an hour: everything is refused, and nothing recorded, until it is set right.
async fn back_until_set_right(world: &mut World) -> anyhow::Result<()> {
    turn(world, -HOUR).await?;
    all_refused(world).await?;
    // What somebody had read of the clock before it was turned, and had not looked at yet, is gone by then.
    tokio::time::sleep(NOTICED).await;
    all_refused(world).await?;
    let rows = "SELECT count(*) FROM ledger";
    let before = world.plan.database.number(rows).await?;
    world.answers(40).await;
    let after = world.plan.database.number(rows).await?;
    if after != before {
        let wrong = format!(
            "{} rows were recorded while the database's clock was an hour behind",
            after - before
        );
        world.checker.found.push(wrong);
    }
    turn(world, HOUR).await?;
    world.recover(Some(Instant::now())).await
}

/// Waits until every node refuses what is asked for, in every partition, because of the clock.
async fn all_refused(world: &mut World) -> anyhow::Result<()> {
    let started = Instant::now();
    let subjects = world.subjects();
    for node in &world.nodes {
        for subject in &subjects {
            while !is_clock_behind(&node.client.consume(subject, "open", 1, None, None).await) {
                ensure!(
                    started.elapsed() < LIMIT,
                    "{} does not refuse, and the database's clock is an hour behind",
                    node.name
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    Ok(())
}

fn is_clock_behind(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answer(answer) if answer.status == 503 && answer.text.contains("clock went back"))
}

/// Waits until the database's clock is no longer behind the ledger.
async fn caught_up(world: &World) -> anyhow::Result<()> {
    let started = Instant::now();
    let newest = "SELECT max(recorded_at) FROM ledger";
    while world.plan.database.number(newest).await? > now(world).await? {
        ensure!(started.elapsed() < LIMIT, "the clock does not catch up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A node's own clock jumps while it runs, or is wrong when it starts: what it records is of PostgreSQL's time, and what it
/// carries to Kafka arrives.
async fn of_a_node(world: &mut World) -> anyhow::Result<()> {
    let (number, anew) = (world.any(), world.dice.percent(50));
    let hours = world.dice.pick(&[-3, -1, 1, 3]).copied().unwrap_or(1);
    let begun = now(world).await?;
    let node = world.node(number)?;
    if anew {
        node.kill()?;
    }
    node.turn(hours * HOUR)?;
    world.recover(None).await?;
    let subjects = world.subjects();
    let node = world.node(number)?;
    if anew {
        node.shows_its_clock().await?;
    }
    node.serving(&subjects).await?;
    let (client, name) = (node.client.clone(), node.name.clone());
    for subject in &subjects {
        let told = || client.tell(subject, "open", 1, "told");
        while !matches!(told().await, Outcome::Answer(answer) if answer.status == 200) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let ended = now(world).await?;
    let all = format!(
        "SELECT count(*) FROM ledger WHERE subject IN ('{}')",
        subjects.join("', '")
    );
    let (from, to) = (begun - SLACK * SECOND, ended + SLACK * SECOND);
    let right = format!(
        "{all} AND recorded_at BETWEEN {from} AND {to} AND occurred_at BETWEEN {from} AND {to}"
    );
    let all = world.plan.database.number(&all).await?;
    let wrong = all - world.plan.database.number(&right).await?;
    ensure!(all >= 2 * PARTITIONS as i64, "what was asked for is gone");
    if wrong > 0 {
        let wrong = format!("{wrong} rows of {name} are of another time than PostgreSQL's");
        world.checker.found.push(wrong);
    }
    world.caught_up().await?;
    world.node(number)?.turn(-hours * HOUR)?;
    world.recover(None).await
}
