//! `quota-ledger verify`: every hash, every order, every view, every checkpoint.

use super::{Verdict, known, print, say};
use crate::checkpoints::{Marks, Source, Trust};
use crate::config::Database;
use crate::topics::Topics;
use crate::verifying::{TopicVerified, Verdict as Found, Verified, verify, verify_topic};
use clap::Args;
use quota_core::audit::Broken;
use quota_core::state::FOLD_VERSION;
use quota_kafka::Settings;
use quota_postgres::Ledger;
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Recompute every hash and compare every view.
///
/// Order, density and signed checkpoints are checked too, that every view is the fold of its events, and that the topic has
/// every event as the ledger has it. The first bad position is named, and the exit code is 1 then.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    database: Database,
    /// Compare the views of this product alone; the chain is checked whole
    #[arg(long, value_name = "PRODUCT")]
    product: Option<String>,
    /// Kafka's bootstrap brokers, to compare the ledger's topic and read the checkpoints in theirs
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

/// What is printed where all is good.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    verified: Verified,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<TopicVerified>,
    ok: bool,
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
            Found::Good(verified) => self.and_topic(&ledger, verified).await,
            Found::Bad(broken) => bad(&broken),
        }
    }

    /// The topic as well, where there is one that keeps all.
    async fn and_topic(&self, ledger: &Ledger, verified: Verified) -> anyhow::Result<Verdict> {
        let mut topic = None;
        if let Some(topics) = self.topics() {
            if quota_kafka::topic::forgets(topics.settings()).await? {
                say("the embedded broker forgets: the topic is not compared");
            } else {
                let progress = |done: u32, of: u32| {
                    if done.is_multiple_of(8) || done == of {
                        say(&format!(
                            "{done} of {of} partitions compared with the topic"
                        ));
                    }
                };
                match verify_topic(ledger, &topics, progress).await? {
                    Err(broken) => return bad(&broken),
                    Ok(verified) => topic = Some(verified),
                }
            }
        }
        let line = Line {
            verified,
            topic,
            ok: true,
        };
        print(&serde_json::to_string(&line)?)?;
        if verified.given_up > 0 {
            say("a restore lost what some checkpoints knew, and a later epoch went on without it");
        }
        Ok(Verdict::Yes)
    }

    fn topics(&self) -> Option<Topics> {
        let settings = |brokers: &String| Settings::new(brokers.clone(), "quota-ledger-verify");
        self.kafka_brokers
            .as_ref()
            .map(|brokers| Topics::of_cluster(settings(brokers)))
    }

    /// The checkpoints of the ledger that can be read.
    async fn marks(&self, ledger: &Ledger) -> anyhow::Result<Marks> {
        let trust = Trust::in_keys(&self.trusted_key)?;
        let mut sources: Vec<Source> = Vec::new();
        sources.extend(self.checkpoint_file.clone().map(Source::File));
        sources.extend(self.topics().map(Source::Topic));
        let info = ledger.info();
        Marks::read(&sources, &info.id, &trust).await
    }
}

/// Tells the first bad position.
fn bad(broken: &Broken) -> anyhow::Result<Verdict> {
    let position = broken.position.to_string();
    print(&json!({"ok": false, "position": position, "problem": broken.what}).to_string())?;
    say(&format!("the first bad position is {broken}"));
    Ok(Verdict::No)
}
