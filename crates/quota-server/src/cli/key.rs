//! `quota-ledger key`: the keys of services.

use super::Verdict;
use crate::config::Database;
use clap::{Args, Subcommand};

/// Keys of services.
#[derive(Subcommand)]
pub enum Key {
    /// Make a key and print it, once, alone on stdout
    Create(Create),
    /// List all keys as NDJSON; never the keys themselves
    List(List),
    /// Revoke a key; it dies within 5 s
    Revoke(Revoke),
}

/// Make a key and print it, once, alone on stdout.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    database: Database,
    /// The product that it is for, or '*' for all
    #[arg(long)]
    product: String,
    /// What it may do: publish, consume, check, read, admin, gateway
    #[arg(long, value_delimiter = ',', required = true)]
    scope: Vec<String>,
}

/// List all keys as NDJSON.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    database: Database,
}

/// Revoke a key.
#[derive(Args)]
pub struct Revoke {
    #[command(flatten)]
    database: Database,
    /// Its id, as `key list` shows it
    id: String,
}

impl Key {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        Ok(Verdict::No)
    }
}
