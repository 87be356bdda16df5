//! `quota-ledger verify`: every hash, every order, every view, every checkpoint.

use super::{Verdict, known, print, say};
use crate::checkpoints::{Marks, Source, Trust};
use crate::config::Database;
use crate::topics::Topics;
use crate::verifying::{Verdict as Found, verify};
use clap::Args;
use quota_core::state::FOLD_VERSION;
use quota_kafka::Settings;
use quota_postgres::Ledger;
use serde_json::json;
use std::path::PathBuf;

/// Recompute every hash and compare every view.
///
/// Order, density and signed checkpoints are checked too, and that every view is the fold of its events. The first bad
/// position is named, and the exit code is 1 then.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    database: Database,
    /// Compare the views of this product alone; the chain is checked whole
    #[arg(long, value_name = "PRODUCT")]
    product: Option<String>,
    /// Kafka's bootstrap brokers, to read the checkpoints in their topic
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS")]
    kafka_brokers: Option<String>,
    /// The file that checkpoints were appended to
    #[arg(long, env = "QUOTA_CHECKPOINT_FILE", value_name = "FILE")]
    checkpoint_file: Option<PathBuf>,
    /// A public key whose checkpoints count, in hexadecimal; several with commas, and without any, every key's count
    #[arg(
        long,
        env = "QUOTA_CHECKPOINT_TRUSTED",
        value_name = "KEYS",
        value_delimiter = ','
    )]
    trusted_key: Vec<String>,
}

impl Verify {
    /// Prints what was verified, or the first bad position.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let ledger = Ledger::connect(&self.database.database_url, FOLD_VERSION, 2).await?;
        known(&ledger, self.product.as_deref()).await?;
        let marks = self.marks(&ledger).await?;
        if let Some(fault) = marks.faults.first() {
            print(&json!({"ok": false, "position": null, "problem": fault}).to_string())?;
            say(fault);
            return Ok(Verdict::No);
        }
        let progress = |done: u32, of: u32| {
            if done.is_multiple_of(8) || done == of {
                say(&format!("{done} of {of} partitions verified"));
            }
        };
        match verify(&ledger, self.product.as_deref(), &marks, progress).await? {
            Found::Good(verified) => {
                let mut line = serde_json::to_value(verified)?;
                if let Some(members) = line.as_object_mut() {
                    members.insert("ok".to_owned(), json!(true));
                }
                print(&line.to_string())?;
                Ok(Verdict::Yes)
            }
            Found::Bad(broken) => {
                let position = broken.position.to_string();
                print(
                    &json!({"ok": false, "position": position, "problem": broken.what}).to_string(),
                )?;
                say(&format!("the first bad position is {broken}"));
                Ok(Verdict::No)
            }
        }
    }

    /// The checkpoints of the ledger that can be read.
    async fn marks(&self, ledger: &Ledger) -> anyhow::Result<Marks> {
        let trust = Trust::in_keys(&self.trusted_key)?;
        let mut sources: Vec<Source> = Vec::new();
        sources.extend(self.checkpoint_file.clone().map(Source::File));
        let topics = self.kafka_brokers.as_ref().map(|brokers| {
            Topics::of_cluster(Settings::new(brokers.clone(), "quota-ledger-verify"))
        });
        sources.extend(topics.map(Source::Topic));
        let info = ledger.info();
        Marks::read(&sources, &info.id, info.epoch, &trust).await
    }
}
