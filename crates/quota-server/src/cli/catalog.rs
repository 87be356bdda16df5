//! `quota-ledger catalog`: a product's plans and limits.

use super::Verdict;
use crate::config::Database;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Catalogs.
#[derive(Subcommand)]
pub enum Catalog {
    /// Publish a new version of a product's catalog, or its first
    Publish(Publish),
}

/// Publish a catalog.
#[derive(Args)]
pub struct Publish {
    #[command(flatten)]
    database: Database,
    /// The catalog, in TOML
    file: PathBuf,
    /// The product
    #[arg(long)]
    product: String,
}

impl Catalog {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        Ok(Verdict::No)
    }
}
