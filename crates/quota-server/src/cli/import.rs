//! `quota-ledger import`: what existing users have used and bought before.

use super::{Verdict, known, print, say};
use crate::alone::Alone;
use crate::config::Database;
use crate::importing::{Lines, Refused, Tally, import};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The time between two lines about the progress.
const PACE: Duration = Duration::from_secs(2);

/// Tell what existing users have used and bought before.
///
/// FILE is CSV with a header, or NDJSON: subject, feature, amount, and where wanted plan, ends_at, time, superadmin. The same
/// line again changes nothing, so that a file may be imported again. Each line that is refused is told on stdout, in JSON;
/// the exit code is 1 then, and the others are imported.
#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    database: Database,
    /// The file
    file: PathBuf,
    /// The product
    #[arg(long)]
    product: String,
    /// Judge every line, and record nothing
    #[arg(long)]
    dry_run: bool,
}

impl Import {
    /// Imports the file.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let lines = Lines::open(&self.file)?;
        let alone = Alone::open(&self.database.database_url).await?;
        let outcome = self.import(&alone, lines).await;
        alone.close().await;
        let tally = outcome?;
        say(&self.words(&tally));
        Ok(if tally.refused == 0 {
            Verdict::Yes
        } else {
            Verdict::No
        })
    }

    async fn import(&self, alone: &Alone, lines: Lines) -> anyhow::Result<Tally> {
        known(&alone.node.ledger, Some(&self.product)).await?;
        let mut said = Instant::now();
        let tell = |refused: &[Refused], tally: &Tally| {
            for refused in refused {
                print(&serde_json::to_string(refused)?)?;
            }
            if said.elapsed() >= PACE {
                said = Instant::now();
                say(&self.words(tally));
            }
            Ok(())
        };
        import(&alone.node, &self.product, lines, self.dry_run, tell).await
    }

    fn words(&self, tally: &Tally) -> String {
        let Tally {
            lines,
            imported,
            known,
            refused,
        } = tally;
        if self.dry_run {
            return format!(
                "{lines} lines: {imported} could be imported, {refused} refused; nothing was recorded"
            );
        }
        format!("{lines} lines: {imported} imported, {known} known before, {refused} refused")
    }
}
