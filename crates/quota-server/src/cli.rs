//! The command line. Data goes to stdout, everything else to stderr; exit code 0 is good, 1 says that the answer is
//! no, 2 that it could not run.

mod catalog;
mod demo;
mod dev;
mod import;
mod key;
mod migrate;
mod ready;
mod receipt;
mod recover;
mod replay;
mod serve;
mod verify;
mod webhook;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use quota_postgres::Ledger;
use std::io::Write as _;
use std::process::ExitCode;

/// An event-sourced quota ledger: may this user do this now? This user did this.
///
/// Start with `quota-ledger dev`: everything in one process tree, kept in .quota-ledger/. Data goes to stdout, everything
/// else to stderr; exit code 0 is good, 1 says that the answer is no, 2 that it could not run.
#[derive(Parser)]
#[command(name = "quota-ledger", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// What each is for is said once, at its arguments: words here would hide those from its own `--help`.
#[derive(Subcommand)]
enum Command {
    Dev(dev::Dev),
    Demo(demo::Demo),
    Serve(serve::Serve),
    Migrate(migrate::Migrate),
    #[command(subcommand)]
    Key(key::Key),
    #[command(subcommand)]
    Catalog(catalog::Catalog),
    Import(import::Import),
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    Verify(verify::Verify),
    Replay(replay::Replay),
    Recover(recover::Recover),
    #[command(subcommand)]
    Receipt(receipt::Commands),
}

/// What came of a command that could run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Good.
    Yes,
    /// The answer is no; stderr says why.
    No,
}

/// Runs the command line.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unclear(&error),
    };
    match carry_out(cli.command) {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Err(error) => {
            say(&format!("quota-ledger: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Says what is wrong with the command line, or what was asked for about it. What is missing may come from the environment
/// too, which clap does not say.
fn unclear(error: &clap::Error) -> ExitCode {
    // Nobody may be there to read it.
    error.print().unwrap_or_default();
    if error.kind() == ErrorKind::MissingRequiredArgument {
        let text = error.to_string();
        for (flag, name) in [
            ("--database-url", "DATABASE_URL"),
            ("--kafka-brokers", "KAFKA_BROKERS"),
        ] {
            if text.contains(flag) {
                say(&format!(
                    "{flag} may also be set as {name} in the environment."
                ));
            }
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn carry_out(command: Command) -> anyhow::Result<Verdict> {
    crate::telemetry::log();
    allow_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Dev(dev) => dev.run().await,
            Command::Demo(demo) => demo.run().await,
            Command::Serve(serve) => serve.run().await,
            Command::Migrate(migrate) => migrate.run().await,
            Command::Key(key) => key.run().await,
            Command::Catalog(catalog) => catalog.run().await,
            Command::Import(import) => import.run().await,
            Command::Webhook(webhook) => webhook.run().await,
            Command::Verify(verify) => verify.run().await,
            Command::Replay(replay) => replay.run().await,
            Command::Recover(recover) => recover.run().await,
            Command::Receipt(receipt) => receipt.run().await,
        }
    })
}

/// Each connection is an open file, of which processes get few unless they ask for more.
fn allow_connections() {
    let allowed = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = allowed {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Whether the product that was named is one.
async fn known(ledger: &Ledger, product: Option<&str>) -> anyhow::Result<()> {
    if let Some(product) = product
        && ledger.catalog_rows(Some(product)).await?.is_empty()
    {
        anyhow::bail!("there is no product {product:?}; its first catalog makes it one");
    }
    Ok(())
}

/// A line of data, on stdout.
fn print(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A line for people, on stderr.
fn say(line: &str) {
    // Nobody may be there to read it.
    writeln!(std::io::stderr().lock(), "{line}").unwrap_or_default();
}
