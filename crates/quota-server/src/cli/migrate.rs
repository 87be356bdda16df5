//! `quota-ledger migrate`: brings the database to this version.

use super::{Verdict, say};
use crate::config::Database;
use clap::Args;
use quota_core::state::FOLD_VERSION;

/// Bring the database to this version.
///
/// It makes the view tables of this version's fold, too. The login needs CREATEROLE: it makes the roles quota_service and
/// quota_analyst. Harmless when repeated.
#[derive(Args)]
pub struct Migrate {
    #[command(flatten)]
    database: Database,
    /// Partitions of a new ledger, 64 by default, fixed for ever
    #[arg(long, env = "QUOTA_PARTITIONS", value_name = "NUMBER")]
    partitions: Option<u32>,
}

impl Migrate {
    /// Migrates.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let info =
            quota_postgres::migrate(&self.database.database_url, self.partitions, FOLD_VERSION)
                .await?;
        say(&format!(
            "the ledger {} has {} partitions and is ready",
            hex::encode(info.id),
            info.partitions
        ));
        Ok(Verdict::Yes)
    }
}
