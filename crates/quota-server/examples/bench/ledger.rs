//! What the measurements look up in the ledger's database.

use anyhow::ensure;
use quota_core::state::FOLD_VERSION;
use sqlx::{Connection as _, PgConnection};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long views may take to come to the head.
const PATIENCE: Duration = Duration::from_secs(300);

/// A connection to look things up.
pub struct Database(PgConnection);

impl Database {
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(PgConnection::connect(url).await?))
    }

    /// The number of rows, by the heads.
    pub async fn rows(&mut self) -> anyhow::Result<i64> {
        let query = r#"SELECT coalesce(sum(h.next), 0)::bigint FROM ledger_meta m, generate_series(0, m.partitions - 1) AS p,
            LATERAL (SELECT l."offset" + 1 AS next FROM ledger l WHERE l.partition = p ORDER BY l."offset" DESC LIMIT 1) AS h"#;
        Ok(sqlx::query_scalar(query).fetch_one(&mut self.0).await?)
    }

    /// The next offset that each partition's projector will fold.
    pub async fn checkpoints(&mut self) -> anyhow::Result<HashMap<u32, i64>> {
        let query =
            format!("SELECT partition, next_offset FROM projector_checkpoints_v{FOLD_VERSION}");
        let lines: Vec<(i32, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(query))
            .fetch_all(&mut self.0)
            .await?;
        Ok(lines
            .into_iter()
            .filter_map(|(partition, next)| Some((u32::try_from(partition).ok()?, next)))
            .collect())
    }
}

/// Waits until every view is at the head.
pub async fn settled(url: String) -> anyhow::Result<String> {
    let mut database = Database::connect(&url).await?;
    let begun = Instant::now();
    let rows = database.rows().await?;
    let folded = |checkpoints: HashMap<u32, i64>| checkpoints.values().sum::<i64>();
    let behind = rows - folded(database.checkpoints().await?);
    while folded(database.checkpoints().await?) < database.rows().await? {
        ensure!(
            begun.elapsed() < PATIENCE,
            "views are not at the head after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(format!(
        "behind={behind} seconds={:.2}",
        begun.elapsed().as_secs_f64()
    ))
}
