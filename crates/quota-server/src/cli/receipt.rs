//! `quota-ledger receipt`: checks the proof that an event is in a ledger.

use super::{Verdict, print, say};
use crate::checkpoints::Trust;
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quota_core::receipt::Receipt;
use serde_json::json;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

/// Check receipts of events.
#[derive(Subcommand)]
pub enum Commands {
    Check(Check),
}

/// Check a receipt: whether the event that it shows is in the ledger.
///
/// Needs neither a service nor a database. The receipt comes from GET .../subjects/{subject}/ledger/{position}/receipt; the
/// key from those who run the ledger, by another way than the receipt. The exit code is 1 where it proves nothing.
#[derive(Args)]
pub struct Check {
    /// The receipt; - reads it from stdin
    file: PathBuf,
    /// A public key that signs the ledger's checkpoints, in hexadecimal; several with commas
    #[arg(
        long,
        env = "QUOTA_CHECKPOINT_TRUSTED",
        value_name = "KEYS",
        value_delimiter = ',',
        required = true
    )]
    trusted_key: Vec<String>,
}

impl Commands {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        match self {
            Self::Check(check) => check.run(),
        }
    }
}

impl Check {
    fn run(&self) -> anyhow::Result<Verdict> {
        let trust = Trust::in_keys(&self.trusted_key)?;
        if self.trusted_key.iter().all(|key| key.trim().is_empty()) {
            bail!("--trusted-key names no key");
        }
        let text = self
            .text()
            .with_context(|| self.file.display().to_string())?;
        let read = Receipt::parse(&text).and_then(|receipt| {
            receipt.check()?;
            Ok(receipt)
        });
        let problem = match &read {
            Err(error) => Some(error.to_string()),
            Ok(receipt) => trust
                .objection(&receipt.signed)
                .map(|why| format!("the checkpoint: {why}")),
        };
        let (Ok(receipt), None) = (&read, &problem) else {
            let problem = problem.unwrap_or_default();
            print(&json!({"ok": false, "problem": problem}).to_string())?;
            say(&format!("this proves nothing: {problem}"));
            return Ok(Verdict::No);
        };
        let (row, checkpoint) = (&receipt.row, &receipt.signed.checkpoint);
        let proved = json!({
            "ok": true, "ledger": hex::encode(checkpoint.ledger_id), "partition": row.partition, "offset": row.offset,
            "product": row.product, "subject": row.subject, "subject_seq": row.subject_seq, "id": row.id,
            "source": row.source, "type": row.event_type, "occurred_at": row.occurred_at.to_string(),
            "recorded_at": row.recorded_at.to_string(), "checkpoint_at": checkpoint.at.to_string(),
            "key": hex::encode(receipt.signed.key),
        });
        print(&proved.to_string())?;
        Ok(Verdict::Yes)
    }

    fn text(&self) -> std::io::Result<Vec<u8>> {
        if self.file.as_os_str() != "-" {
            return fs::read(&self.file);
        }
        let mut text = Vec::new();
        std::io::stdin().lock().read_to_end(&mut text)?;
        Ok(text)
    }
}
