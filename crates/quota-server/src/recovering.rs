//! Recovering a ledger that was restored to an earlier time: its missing tail from the topic, or an epoch without it.

mod bring_back;
mod shared;

pub use bring_back::{Recovered, Stopped, bring_back};

use crate::comparing::{Difference, Fault, Witness, differences, epochs, tails};
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::publication::{Place, epoch_start};
use quota_core::row::{Head, Row};
use quota_core::state::FOLD_VERSION;
use quota_postgres::{Ledger, Publication, PublishError, start_epoch};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;

/// What accepting a loss came to.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// Nothing is lost: no epoch was begun.
    NothingLost,
    /// The topic carries another ledger: no epoch could settle that.
    Stranger(Difference),
    /// An epoch was begun without these.
    Begun {
        /// The epoch.
        epoch: u32,
        /// What it goes on without.
        without: Vec<Difference>,
    },
}

/// Begins an epoch without the tail that was lost, in every partition at once; changes nothing where none is lost.
///
/// What was folded in the partitions that lost something is thrown away first: it may hold what was lost.
///
/// # Errors
/// Something cannot be read, or the epoch cannot be begun; then nothing has begun.
pub async fn accept_loss(
    database_url: &str,
    topics: &Topics,
    file: Option<&Path>,
    reason: &str,
) -> anyhow::Result<Accepted> {
    let ledger = Ledger::connect(database_url, FOLD_VERSION, 2).await?;
    let without = differences(&ledger, topics, file, &[]).await?;
    if let Some(stranger) = without.iter().find(|it| it.fault == Fault::Stranger) {
        return Ok(Accepted::Stranger(*stranger));
    }
    let lost = lost_partitions(&ledger, &without).await?;
    if without.is_empty() && lost.is_empty() {
        return Ok(Accepted::NothingLost);
    }
    let epoch = next_epoch(&ledger, topics, &without).await?;
    let lost: Vec<u32> = lost.into_iter().collect();
    let shared = shared::ends(&ledger, topics, file, &lost).await?;
    ledger
        .reset_views(&lost)
        .await
        .context("throwing views away that may hold what was lost")?;
    let begun = start_epoch(database_url, FOLD_VERSION, epoch, |found| {
        let rows = epoch_start(epoch, reason, &places(found, &shared), found.clock);
        Ok::<_, Infallible>(rows)
    });
    match begun.await {
        Ok(_) => Ok(Accepted::Begun { epoch, without }),
        Err(PublishError::Refused(never)) => match never {},
        Err(PublishError::Append(error)) => Err(error).context(
            "the epoch may not have begun; the same command again does what is left to do",
        ),
    }
}

/// The partitions that lost something: by what is said of them, or because their views are ahead of them.
async fn lost_partitions(ledger: &Ledger, without: &[Difference]) -> anyhow::Result<BTreeSet<u32>> {
    let mut lost: BTreeSet<u32> = without
        .iter()
        .map(|difference| difference.claim.position.partition)
        .collect();
    let folded = ledger.checkpoints().await?;
    let heads = ledger.heads().await?;
    for (partition, (next, head)) in (0_u32..).zip(folded.iter().zip(&heads)) {
        if *next > head.offset + 1 {
            lost.insert(partition);
        }
    }
    Ok(lost)
}

/// An epoch after all that anybody may have seen.
async fn next_epoch(
    ledger: &Ledger,
    topics: &Topics,
    without: &[Difference],
) -> anyhow::Result<u32> {
    let tails = tails(topics, ledger.info().partitions).await?;
    let told = tails.iter().flatten().map(|tail| tail.epoch);
    let claimed = without.iter().map(|it| it.claim.position.epoch);
    let latest = told.chain(claimed).max().unwrap_or(0);
    let latest = latest.max(epochs(ledger).await?.current());
    latest.checked_add(1).context("no epoch is left")
}

/// Where the starts go, and from which offset on each holds: after what topic and ledger have in common.
fn places(found: &Publication, shared: &BTreeMap<u32, i64>) -> Vec<(Place, i64)> {
    let partitions = (0_u32..).zip(found.heads.iter().zip(&found.newest));
    let place = |(partition, (head, newest)): (u32, (&Head, &Option<Row>))| {
        let next = head.offset + 1;
        let from = shared.get(&partition).map_or(next, |end| next.min(end + 1));
        let before = newest.as_ref().map(|row| (row.subject_seq, row.offset));
        let place = Place {
            partition,
            head: *head,
            before,
        };
        (place, from)
    };
    partitions.map(place).collect()
}

/// What is left to be settled after a recovery from the topic.
///
/// # Errors
/// Something cannot be read.
pub async fn left(
    ledger: &Ledger,
    topics: &Topics,
    file: Option<&Path>,
) -> anyhow::Result<Vec<Difference>> {
    let mut found = differences(ledger, topics, file, &[]).await?;
    // What the topic says is more to the point than what a checkpoint does.
    found.sort_by_key(|difference| difference.claim.witness != Witness::Topic);
    Ok(found)
}
