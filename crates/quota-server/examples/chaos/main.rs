//! The fault harness behind `scripts/chaos`: the real binary on a real PostgreSQL and a real Kafka, several nodes, clients at
//! work, one fault after the other; and a checker that shares no rule with the program.
//!
//! A round: clients work on all nodes, a fault strikes at a random moment, what it took is given back, whatever no client
//! knows is asked for again, and then every new row of the ledger is held against what the clients were told and against a
//! small model. At the end of each row of the table, the topic must be the ledger and the program's own `verify` be content.
//!
//! Exit code 0: nothing found. 1: something was, and is named. 2: it could not run.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a harness says what it does"
)]

mod answers;
mod checker;
mod client;
mod clock;
mod dice;
mod disk;
mod faults;
mod history;
mod ledger;
mod load;
mod model;
mod node;
mod proxy;
mod servers;
mod topic;
mod world;

use anyhow::{Context as _, bail};
use clap::Parser;
use faults::{ROWS, Row};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use world::{Settings, Tally, World};

/// Findings of one row that are printed.
const PRINTED: usize = 5;

/// Faults, in rounds, on a ledger at work.
#[derive(Parser)]
struct Options {
    /// The program to test
    #[arg(long)]
    program: PathBuf,
    /// The folder of a PostgreSQL of `scripts/postgres`
    #[arg(long)]
    postgres: PathBuf,
    /// The folder of a Kafka of `scripts/kafka`
    #[arg(long)]
    kafka: PathBuf,
    /// A folder for logs
    #[arg(long)]
    dir: PathBuf,
    /// Only this row of the table; may be given several times
    #[arg(long = "row")]
    rows: Vec<String>,
    /// Rounds of each row, in place of the table's
    #[arg(long)]
    rounds: Option<u64>,
    /// The table's rounds of a full run; also holds recovery against the promised 5 s
    #[arg(long)]
    full: bool,
    /// What all chance comes from
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let whole = async {
        // What is dropped takes its nodes with it; a process that a signal ends would leave them.
        tokio::select! {
            good = run(options) => good,
            ended = ended() => ended,
        }
    };
    let run = tokio::runtime::Runtime::new().map(|runtime| runtime.block_on(whole));
    match run {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::from(1),
        Ok(Err(error)) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

/// Waits for a signal to end.
async fn ended() -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    bail!("ended by a signal")
}

/// Runs the rows that are asked for; whether nothing was found.
async fn run(options: Options) -> anyhow::Result<bool> {
    let rows = chosen(&options)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    eprintln!("chaos: seed {seed}");
    let settings = Settings {
        program: options.program.clone(),
        postgres: options.postgres.clone(),
        kafka: options.kafka.clone(),
        dir: options.dir.clone(),
        seed,
        timed: options.full,
    };
    let mut world = World::open(&settings)
        .await
        .context("the ledger does not start")?;
    let mut lines = Vec::new();
    let mut good = true;
    for (row, rounds) in rows {
        if let Some(why) = row.fault.missing(&options.dir) {
            eprintln!("chaos: {row}: not run: {why}");
            lines.push(format!(
                "| {} | {row} | 0 | | | | | | | not run |",
                row.number
            ));
            continue;
        }
        let begun = Instant::now();
        good = strike(&mut world, row, rounds).await;
        lines.push(line(row, &world, begun));
        if !good {
            eprintln!("chaos: logs are in {}", options.dir.display());
            break;
        }
    }
    println!(
        "| # | row | rounds | operations | acknowledged | refused | unknown at first | slowest recovery | took | found |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---|");
    for line in lines {
        println!("{line}");
    }
    println!("\nseed {seed}, {} rows in the ledger", world.checker.rows());
    Ok(good)
}

/// The rows to run, and how often.
fn chosen(options: &Options) -> anyhow::Result<Vec<(&'static Row, u64)>> {
    for name in &options.rows {
        if !ROWS.iter().any(|row| row.name == name) {
            let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
            bail!("there is no row {name}; there are {}", names.join(", "));
        }
    }
    let asked =
        |row: &&Row| options.rows.is_empty() || options.rows.iter().any(|name| name == row.name);
    let rounds = |row: &Row| {
        let table = if options.full { row.full } else { row.short };
        // A row that is named is run, however short the run.
        let least = u64::from(!options.rows.is_empty());
        options.rounds.unwrap_or_else(|| table.max(least))
    };
    let rows = ROWS.iter().filter(asked).map(|row| (row, rounds(row)));
    Ok(rows.filter(|(_, rounds)| *rounds > 0).collect())
}

/// Runs one row of the table, until something is found.
async fn strike(world: &mut World, row: &Row, rounds: u64) -> bool {
    world.tally = Tally::default();
    for round in 1..=rounds {
        if let Err(error) = world.round(row.fault).await {
            world.checker.found.push(format!("{error:#}"));
        }
        let whole = round == rounds || round.is_multiple_of(row.whole);
        if world.checker.found.is_empty()
            && whole
            && let Err(error) = world.finish().await
        {
            world.checker.found.push(format!("{error:#}"));
        }
        let found = world.checker.found.len();
        if found > 0 {
            eprintln!("chaos: {row}, round {round} of {rounds}: {found} found");
            for what in world.checker.found.iter().take(PRINTED) {
                eprintln!("  {what}");
            }
            return false;
        }
        if round == rounds || round.is_multiple_of(10) {
            let ops = world.tally.ops;
            eprintln!("chaos: {row}, round {round} of {rounds}: {ops} operations, nothing found");
        }
    }
    true
}

fn line(row: &Row, world: &World, begun: Instant) -> String {
    let Tally {
        rounds,
        ops,
        acknowledged,
        refused,
        unknown,
        slowest,
    } = world.tally;
    let found = match world.checker.found.len() {
        0 => "nothing".to_owned(),
        found => format!("**{found}**"),
    };
    format!(
        "| {} | {} | {rounds} | {ops} | {acknowledged} | {refused} | {unknown} | {:.1} s | {:.0} s | {found} |",
        row.number,
        row.name,
        slowest.as_secs_f64(),
        client::since(begun),
    )
}
