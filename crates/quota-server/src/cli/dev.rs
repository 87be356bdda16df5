//! `quota-ledger dev`: everything in one process tree.

use super::Verdict;
use crate::config::{Checkpoints, Listening};
use clap::Args;
use std::path::PathBuf;

/// Run everything here: PostgreSQL, Kafka and the service, for trying and developing.
#[derive(Args)]
pub struct Dev {
    /// Where everything is kept
    #[arg(long, default_value = ".quota-ledger", value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    checkpoints: Checkpoints,
}

impl Dev {
    /// Runs until it is told to stop.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        Ok(Verdict::No)
    }
}
