//! `quota-ledger catalog`: a product's plans and limits.

use super::key::open;
use super::{Verdict, say};
use crate::config::Database;
use crate::publishing::{PublishError, publish_catalog};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Catalogs.
#[derive(Subcommand)]
pub enum Catalog {
    /// Publish a new version of a product's catalog, or its first
    Publish(Publish),
}

/// Publish a new version of a product's catalog, or its first.
///
/// A catalog with faults is not published: each fault is named on stderr, and the exit code is 1.
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
        match self {
            Self::Publish(publish) => publish.run().await,
        }
    }
}

impl Publish {
    async fn run(self) -> anyhow::Result<Verdict> {
        let text = std::fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        let ledger = open(&self.database).await?;
        match publish_catalog(&ledger, &self.product, &text, None).await {
            Ok(published) => {
                let (product, version) = (&self.product, published.version);
                say(&match published.row {
                    Some(_) => format!("{product}: version {version} is in force"),
                    None => format!("{product}: version {version} has this text already"),
                });
                Ok(Verdict::Yes)
            }
            Err(PublishError::Faulty(faults)) => {
                for fault in faults {
                    say(&format!("{}: {fault}", self.file.display()));
                }
                Ok(Verdict::No)
            }
            Err(PublishError::Stale { current }) => bail!("version {current} was published in the same moment"),
            Err(PublishError::Unavailable(why)) => bail!("nothing was published: {why}"),
        }
    }
}
