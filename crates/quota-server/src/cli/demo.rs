//! `quota-ledger demo`: one day of three products, played through the real doors, and checked.

mod doors;
mod play;
mod proof;
mod story;
mod tell;

use super::dev::{Dev, Instance};
use super::{Verdict, print, say};
use crate::shutdown;
use anyhow::{Context as _, bail};
use clap::Args;
use doors::Doors;
use play::{Tally, play};
use proof::Proof;
use quota_core::state::FOLD_VERSION;
use quota_postgres::Ledger;
use std::fs;
use std::path::{Path, PathBuf};
use story::{Day, Totals};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Play one day of three products on an instance of its own, and check what came of it.
///
/// All of it goes through the real doors, HTTP and Kafka. It starts an instance of its own, as `dev` does, on a free port
/// and in a temporary folder. The exit code is 0 only if every answer, every count and every view is what it must be.
#[derive(Args)]
pub struct Demo {
    /// A new folder to keep everything in; look at it afterwards with `dev --data DIR`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Demo {
    /// Plays the day.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let stop = shutdown::on_signal()?;
        let (dir, kept) = match self.data {
            Some(dir) => (dir, true),
            None => (temporary(), false),
        };
        if is_used(&dir) {
            bail!(
                "{} is not empty; the demo begins with an empty ledger",
                dir.display()
            );
        }
        say(&format!(
            "The demo has an instance of its own, in {}.",
            dir.display()
        ));
        let outcome = with_instance(&dir, stop).await;
        if kept {
            say(&format!(
                "\nKept. Look at it with: quota-ledger dev --data {}",
                dir.display()
            ));
        } else if let Err(error) = fs::remove_dir_all(&dir) {
            say(&format!("{} could not be removed: {error}", dir.display()));
        }
        outcome
    }
}

/// Runs an instance in this folder for as long as the day lasts.
async fn with_instance(dir: &Path, stop: CancellationToken) -> anyhow::Result<Verdict> {
    let (ready, instance) = oneshot::channel();
    let over = stop.child_token();
    let dev = Dev::private(dir.to_owned());
    let running = tokio::spawn({
        let over = over.clone();
        async move {
            // Where nobody waits for it any more, it is being stopped.
            dev.run_until(over, |instance| ready.send(instance).unwrap_or_default())
                .await
        }
    });
    let outcome = match instance.await {
        Ok(instance) => tokio::select! {
            outcome = a_day(&instance) => outcome,
            () = stop.cancelled() => Err(anyhow::anyhow!("stopped before the day was over")),
        },
        // It says itself why it did not start.
        Err(_) => Ok(Verdict::No),
    };
    over.cancel();
    running.await?.context("the instance of the demo")?;
    outcome
}

async fn a_day(instance: &Instance) -> anyhow::Result<Verdict> {
    let day = Day::shipped()?;
    let ledger = Ledger::connect(&instance.database_url, FOLD_VERSION, 2).await?;
    let mut doors = Doors::open(instance, ledger.info().partitions).await?;
    print(
        "One day of three products. Every line went through a real door: HTTP, or a Kafka topic.",
    )?;
    let tally = play(&day, &mut doors, ledger.clock().await?).await?;
    let proof = Proof::of(&ledger, &mut doors).await?;
    let good = sum_up(&day.totals, &tally, &proof)?;
    ledger.close().await;
    Ok(if good { Verdict::Yes } else { Verdict::No })
}

/// Prints what the day came to; whether that is what it must.
fn sum_up(wanted: &Totals, tally: &Tally, proof: &Proof) -> anyhow::Result<bool> {
    let came = Totals {
        came_in: tally.came_in,
        recorded: u64::try_from(proof.rows.len())?,
        refused: tally.refused,
        deduplicated: tally.deduplicated,
        dead_letters: tally.dead_letters,
        subjects: u64::try_from(proof.subjects().len())?,
        ledger: proof.by_type(),
    };
    print("\nThe day in numbers")?;
    for (what, came, wanted) in [
        (
            "came in, requests and messages",
            came.came_in,
            wanted.came_in,
        ),
        ("refused, with a reason", came.refused, wanted.refused),
        (
            "deduplicated: told or asked before",
            came.deduplicated,
            wanted.deduplicated,
        ),
        (
            "put aside as dead letters",
            came.dead_letters,
            wanted.dead_letters,
        ),
        ("recorded in the ledger", came.recorded, wanted.recorded),
    ] {
        print(&counted(what, came, wanted))?;
    }
    for kind in wanted.ledger.keys().chain(
        came.ledger
            .keys()
            .filter(|kind| !wanted.ledger.contains_key(*kind)),
    ) {
        let count = |ledger: &Totals| ledger.ledger.get(kind).copied().unwrap_or_default();
        print(&counted(
            &format!("    {kind}"),
            count(&came),
            count(wanted),
        ))?;
    }
    let proved = prove(wanted, proof)?;
    let good = proved && tally.failures == 0 && came == *wanted;
    print(if good {
        "\nAll of it came out as written."
    } else {
        "\nNOT all of it came out as written."
    })?;
    Ok(good)
}

fn counted(what: &str, came: u64, wanted: u64) -> String {
    if came == wanted {
        format!("  ok      {what:<44}{came:>4}")
    } else {
        format!("  FAILED  {what:<44}{came:>4}, must be {wanted}")
    }
}

/// Prints what was proved; whether all of it was.
fn prove(wanted: &Totals, proof: &Proof) -> anyhow::Result<bool> {
    print("\nProved")?;
    let rows = proof.rows.len();
    let (chain, views) = match &proof.verified {
        Ok(verified) => (
            Ok(format!(
                "{} events in {} partitions: every hash, every order",
                verified.events, verified.partitions
            )),
            if verified.views == wanted.subjects {
                Ok(format!(
                    "{} views: each is the fold of its events",
                    verified.views
                ))
            } else {
                Err(format!(
                    "{} views, must be {}",
                    verified.views, wanted.subjects
                ))
            },
        ),
        Err(broken) => (
            Err(broken.clone()),
            Err("the views, since the ledger is broken".to_owned()),
        ),
    };
    let topic = format!(
        "{} of {rows} events on the Kafka topic, byte for byte",
        proof.carried
    );
    let topic = if proof.carried == rows {
        Ok(topic)
    } else {
        Err(topic)
    };
    let mut good = true;
    for what in [chain, views, topic] {
        good &= what.is_ok();
        print(&what.map_or_else(
            |bad| format!("  FAILED  {bad}"),
            |good| format!("  ok      {good}"),
        ))?;
    }
    Ok(good)
}

fn temporary() -> PathBuf {
    std::env::temp_dir().join(format!(
        "quota-ledger-demo-{}",
        hex::encode(rand::random::<[u8; 6]>())
    ))
}

/// Whether there is something in it.
fn is_used(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}
