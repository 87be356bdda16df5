//! `quota-ledger replay`: entitlements as they were.

use super::{Verdict, known, print};
use crate::config::Database;
use crate::replaying::{Replay as Wanted, replay};
use clap::Args;
use quota_core::state::FOLD_VERSION;
use quota_core::time::Timestamp;
use quota_postgres::Ledger;

/// Show entitlements as they were.
///
/// Subjects' entitlements at a time, from what was known at a time: NDJSON, a line each. A subject without events has none.
#[derive(Args)]
pub struct Replay {
    #[command(flatten)]
    database: Database,
    /// One product
    #[arg(long, value_name = "PRODUCT")]
    product: Option<String>,
    /// One subject
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// The time that is asked about, what happened then included; now by default
    #[arg(long, value_name = "TIME", value_parser = time)]
    as_of: Option<Timestamp>,
    /// Only what was recorded until this time; everything by default
    #[arg(long, value_name = "TIME", value_parser = time)]
    known_at: Option<Timestamp>,
}

impl Replay {
    /// Prints the lines.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let ledger = Ledger::connect(&self.database.database_url, FOLD_VERSION, 2).await?;
        known(&ledger, self.product.as_deref()).await?;
        let wanted = Wanted {
            product: self.product,
            subject: self.subject,
            as_of: self.as_of,
            known_at: self.known_at,
        };
        replay(&ledger, &wanted, |line| {
            Ok(print(&serde_json::Value::Object(line).to_string())?)
        })
        .await?;
        Ok(Verdict::Yes)
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .ok_or_else(|| "must be an RFC 3339 time, for example 2026-11-20T12:00:00Z".to_owned())
}
