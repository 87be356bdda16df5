//! `quota-ledger verify`: every hash, every order, every view.

use super::{Verdict, known, print, say};
use crate::config::Database;
use crate::verifying::{Verdict as Found, verify};
use clap::Args;
use quota_core::state::FOLD_VERSION;
use quota_postgres::Ledger;
use serde_json::json;

/// Recompute every hash, and check order, density, and that every view is the fold of its events.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    database: Database,
    /// Compare the views of this product alone; the chain is checked whole
    #[arg(long, value_name = "PRODUCT")]
    product: Option<String>,
}

impl Verify {
    /// Prints what was verified, or the first bad position.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let ledger = Ledger::connect(&self.database.database_url, FOLD_VERSION, 2).await?;
        known(&ledger, self.product.as_deref()).await?;
        let progress = |done: u32, of: u32| {
            if done.is_multiple_of(8) || done == of {
                say(&format!("{done} of {of} partitions verified"));
            }
        };
        match verify(&ledger, self.product.as_deref(), progress).await? {
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
}
