//! What is proved when the day is over: the ledger's chain, the views against the fold, the topic against the ledger.

use super::doors::Doors;
use crate::checkpoints::Marks;
use crate::verifying::{Verdict, Verified, verify};
use anyhow::bail;
use quota_core::record::from_record;
use quota_core::row::Row;
use quota_postgres::Ledger;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the views and the topic may take to have everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than a partition has after one day.
const ROWS: usize = 10_000;

/// What the ledger holds of the day.
pub struct Proof {
    /// The subjects' events; catalogs and the like are not among them.
    pub rows: Vec<Row>,
    /// What was verified, or what is wrong.
    pub verified: Result<Verified, String>,
    /// How many of the events were on the topic, byte for byte as in the ledger.
    pub carried: usize,
}

impl Proof {
    /// Waits until views and topic have everything, and verifies all of it.
    pub async fn of(ledger: &Ledger, doors: &mut Doors) -> anyhow::Result<Self> {
        folded(ledger).await?;
        let rows = rows(ledger).await?;
        let carried = carried(&rows, doors).await?;
        let verified = match verify(ledger, None, &Marks::default(), |_, _| {}).await? {
            Verdict::Good(verified) => Ok(verified),
            Verdict::Bad(broken) => Err(format!("{}: {}", broken.position, broken.what)),
        };
        Ok(Self {
            rows,
            verified,
            carried,
        })
    }

    /// Events by type.
    pub fn by_type(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for row in &self.rows {
            *counts.entry(row.event_type.to_string()).or_default() += 1;
        }
        counts
    }

    /// Those who have events.
    pub fn subjects(&self) -> BTreeSet<(&str, &str)> {
        self.rows
            .iter()
            .map(|row| (&*row.product, &*row.subject))
            .collect()
    }
}

/// Waits until every event is folded into a view.
async fn folded(ledger: &Ledger) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let heads = ledger.heads().await?;
        let checkpoints = ledger.checkpoints().await?;
        let all = heads.len() == checkpoints.len()
            && heads
                .iter()
                .zip(&checkpoints)
                .all(|(head, next)| *next > head.offset);
        if all {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("the views did not reach the ledger's end within {PATIENCE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rows(ledger: &Ledger) -> anyhow::Result<Vec<Row>> {
    let all: Vec<_> = (0..ledger.info().partitions)
        .map(|partition| (partition, 0, ROWS))
        .collect();
    let mut rows = ledger.ranges(&all).await?;
    rows.retain(|row| !row.subject.is_empty());
    rows.sort_by_key(|row| row.recorded_at);
    Ok(rows)
}

/// How many of the rows the topic has carried, each just as it is in the ledger.
async fn carried(rows: &[Row], doors: &mut Doors) -> anyhow::Result<usize> {
    let mut missing: BTreeMap<(u32, i64), &Row> = rows
        .iter()
        .map(|row| ((row.partition, row.offset), row))
        .collect();
    let started = Instant::now();
    while !missing.is_empty() && started.elapsed() < PATIENCE {
        for record in doors.carried().await? {
            let received = from_record(record.headers(), record.payload())?;
            let place = (u32::try_from(record.partition)?, received.offset());
            if missing
                .get(&place)
                .is_some_and(|row| received.into_row(row.subject_prev) == **row)
            {
                missing.remove(&place);
            }
        }
    }
    Ok(rows.len() - missing.len())
}
