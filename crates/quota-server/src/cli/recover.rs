//! `quota-ledger recover`: after a restore that left the ledger behind its topic.

use super::{Verdict, print, say};
use crate::comparing::Difference;
use crate::config::Database;
use crate::recovering::{Accepted, accept_loss, bring_back, left};
use crate::topics::Topics;
use clap::Args;
use quota_core::state::FOLD_VERSION;
use quota_kafka::Settings;
use quota_postgres::Ledger;
use serde_json::json;
use std::path::PathBuf;

/// Recover a ledger that was restored to an earlier time.
///
/// The topic carries what was recorded after the backup. Nodes refuse to write until one of the two is done; they may run
/// meanwhile, and go on by themselves. The exit code is 1 where it cannot be done; doing it again goes on.
#[derive(Args)]
pub struct Recover {
    #[command(flatten)]
    database: Database,
    /// Kafka's bootstrap brokers
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS")]
    kafka_brokers: String,
    /// The file that checkpoints were appended to
    #[arg(long, env = "QUOTA_CHECKPOINT_FILE", value_name = "FILE")]
    checkpoint_file: Option<PathBuf>,
    #[command(flatten)]
    way: Way,
    /// Why the loss is accepted; it stands in the ledger
    #[arg(long, value_name = "TEXT", requires = "accept_loss")]
    reason: Option<String>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Way {
    /// Append what the topic has and the ledger lacks: the same bytes, every hash checked
    #[arg(long)]
    from_kafka: bool,
    /// Go on without what is lost, in a new epoch. Needs the login that migrates
    #[arg(long)]
    accept_loss: bool,
}

/// Rows between two lines of progress.
const STRIDE: u64 = 10_000;
/// What an epoch that was begun without a reason says.
const NO_REASON: &str = "restored; what was recorded after it was not recovered";
/// What is told of what was given up, one by one.
const TOLD: usize = 8;

impl Recover {
    /// Recovers.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let settings = Settings::new(self.kafka_brokers.clone(), "quota-ledger-recover");
        let topics = Topics::of_cluster(settings);
        if self.way.from_kafka {
            self.bring_back(&topics).await
        } else {
            self.accept_loss(&topics).await
        }
    }

    async fn bring_back(self, topics: &Topics) -> anyhow::Result<Verdict> {
        let (url, file) = (&self.database.database_url, self.checkpoint_file.as_deref());
        let mut told = 0;
        let progress = |rows: u64| {
            if rows / STRIDE > told {
                told = rows / STRIDE;
                say(&format!("{rows} events brought back"));
            }
        };
        let (recovered, stopped) = bring_back(url, topics, file, progress).await?;
        let (events, partitions) = (recovered.rows, recovered.partitions);
        if let Some(stopped) = stopped {
            let position = stopped.position.to_string();
            print(
                &json!({"events": events, "partitions": partitions, "ok": false, "position": position, "problem": stopped.why})
                    .to_string(),
            )?;
            say(&format!("{position}: {}", stopped.why));
            return Ok(Verdict::No);
        }
        let ledger = Ledger::connect(url, FOLD_VERSION, 2).await?;
        let left = left(&ledger, topics, file).await?;
        let problem = left.first().map(Difference::to_string);
        print(
            &json!({"events": events, "partitions": partitions, "ok": left.is_empty(), "problem": problem})
                .to_string(),
        )?;
        match problem {
            None if events == 0 => {
                say("the ledger has all that the topic has; nothing was to be done")
            }
            None => say(&format!(
                "{events} events brought back; nodes go on by themselves within seconds. `quota-ledger verify` checks all of it"
            )),
            Some(problem) => {
                say(&format!(
                    "{problem}. The topic does not have what is missing: restore a later copy of the database, or go on without it with `quota-ledger recover --accept-loss`"
                ));
                return Ok(Verdict::No);
            }
        }
        Ok(Verdict::Yes)
    }

    async fn accept_loss(self, topics: &Topics) -> anyhow::Result<Verdict> {
        let (url, file) = (&self.database.database_url, self.checkpoint_file.as_deref());
        let reason = self.reason.as_deref().unwrap_or(NO_REASON);
        match accept_loss(url, topics, file, reason).await? {
            Accepted::NothingLost => {
                print(&json!({"begun": false, "ok": true}).to_string())?;
                say("the ledger lacks nothing; no epoch was begun");
                Ok(Verdict::Yes)
            }
            Accepted::Stranger(difference) => {
                let problem = difference.to_string();
                print(&json!({"begun": false, "ok": false, "problem": problem}).to_string())?;
                say(&difference.advice());
                Ok(Verdict::No)
            }
            Accepted::Begun { epoch, without } => {
                print(&json!({"begun": true, "epoch": epoch, "ok": true}).to_string())?;
                for difference in without.iter().take(TOLD) {
                    say(&format!("given up: {difference}"));
                }
                if without.len() > TOLD {
                    say(&format!("and {} more", without.len() - TOLD));
                }
                say(&format!(
                    "epoch {epoch} has begun in every partition; nodes begin anew by themselves within seconds, and other consumers of the topic drop what they know when they see it"
                ));
                Ok(Verdict::Yes)
            }
        }
    }
}
