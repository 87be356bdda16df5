//! One row in every partition, all or none: how a catalog takes effect everywhere at once.

use crate::connect::LedgerInfo;
use crate::error::{AppendError, Error};
use crate::lane::{Appended, Fence, Lane};
use quota_core::digest::subject_key;
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use thiserror::Error;

/// What a publication is built on. Nobody else appends anything until it is done.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The head of every partition, by its number.
    pub heads: Vec<Head>,
    /// The newest row of the product's own subject, `""`, in every partition, by its number: its newest catalog. None where
    /// it has none.
    pub newest: Vec<Option<Row>>,
    /// The database's clock.
    pub clock: Timestamp,
}

/// Why nothing was published.
#[derive(Debug, Error)]
pub enum PublishError<E> {
    /// The caller's own refusal.
    #[error("{0}")]
    Refused(E),
    /// The append failed.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Locks all partitions, lets `build` make rows from what is there, and appends them all or none, durably.
///
/// `build` may return no row at all (what is to be published is there already): then nothing happens, and the answer
/// names no partition. It must be quick: the server cuts a transaction that idles for 2 s.
///
/// # Errors
/// [`PublishError::Refused`] with what `build` refused with; [`PublishError::Append`] as [`Lane::append`] and
/// [`Lane::commit`].
pub async fn publish<E>(
    lane: &mut Lane,
    product: &str,
    build: impl FnOnce(&Publication) -> Result<Vec<Row>, E>,
) -> Result<Appended, PublishError<E>> {
    everywhere(lane, product, build, None).await
}

/// Begins an epoch, after a restore that lost a tail: the ledger is in it, and the rows of `build` are in all partitions, in
/// one transaction. Their product is `""`. It comes after every epoch that anybody may have seen, so it need not be the
/// next one.
///
/// Logs in as the database's owner, as [`crate::migrate()`] does: what a ledger is, is not the service's to change. Nodes
/// that run begin anew by themselves.
///
/// # Errors
/// As [`publish`]; [`AppendError::Invalid`] where the ledger is in that epoch already, or in a later one.
pub async fn start_epoch<E>(
    database_url: &str,
    fold_version: i32,
    epoch: u32,
    build: impl FnOnce(&Publication) -> Result<Vec<Row>, E>,
) -> Result<LedgerInfo, PublishError<E>> {
    let lane = Lane::open_as_owner(database_url, fold_version).await;
    let mut lane = lane.map_err(AppendError::from)?;
    everywhere(&mut lane, "", build, Some(epoch)).await?;
    let info = LedgerInfo {
        epoch,
        ..lane.info()
    };
    lane.close().await;
    Ok(info)
}

/// Notes that the ledger is in an epoch whose start is in its rows already: they came back from the topic. Logs in as
/// [`start_epoch`] does.
///
/// # Errors
/// As [`start_epoch`].
pub async fn adopt_epoch(
    database_url: &str,
    fold_version: i32,
    epoch: u32,
) -> Result<(), AppendError> {
    let mut lane = Lane::open_as_owner(database_url, fold_version).await?;
    lane.raise_epoch(epoch).await?;
    lane.close().await;
    Ok(())
}

async fn everywhere<E>(
    lane: &mut Lane,
    product: &str,
    build: impl FnOnce(&Publication) -> Result<Vec<Row>, E>,
    epoch: Option<u32>,
) -> Result<Appended, PublishError<E>> {
    let all: Vec<u32> = (0..lane.info().partitions).collect();
    lane.lock(&all).await.map_err(AppendError::from)?;
    let mut outcome = append_built(lane, product, &all, build).await;
    if let (Some(epoch), Ok(_)) = (epoch, &outcome) {
        let raised = lane.raise_epoch(epoch).await;
        outcome = outcome.and_then(|appended| Ok(raised.map(|()| appended)?));
    }
    match outcome {
        Ok(appended) => {
            lane.commit().await?;
            Ok(appended)
        }
        Err(error) => {
            // If this fails too, the connection is lost, and the server rolls back by itself.
            lane.rollback().await.ok();
            Err(error)
        }
    }
}

async fn append_built<E>(
    lane: &mut Lane,
    product: &str,
    all: &[u32],
    build: impl FnOnce(&Publication) -> Result<Vec<Row>, E>,
) -> Result<Appended, PublishError<E>> {
    let found = read(lane, product, all).await.map_err(AppendError::from)?;
    let rows = build(&found).map_err(PublishError::Refused)?;
    if rows.is_empty() {
        return Ok(Appended {
            partitions: Vec::new(),
            clock: found.clock,
        });
    }
    let mut fences: Vec<Fence> = Vec::new();
    for row in &rows {
        if fences
            .last()
            .is_some_and(|fence| fence.partition == row.partition)
        {
            continue;
        }
        let head = usize::try_from(row.partition)
            .ok()
            .and_then(|index| found.heads.get(index));
        let head = head.ok_or_else(|| {
            AppendError::Invalid(format!("there is no partition {}", row.partition))
        })?;
        fences.push(Fence {
            partition: row.partition,
            first_offset: head.offset + 1,
            previous_hash: head.hash,
        });
    }
    let appended = lane.append(&rows, &fences, true).await?;
    if appended.partitions.len() == fences.len() {
        Ok(appended)
    } else {
        // Only a writer that takes no locks can have done this.
        Err(AppendError::DuplicateOffset.into())
    }
}

async fn read(lane: &mut Lane, product: &str, all: &[u32]) -> Result<Publication, Error> {
    let heads = lane
        .heads_of(all)
        .await?
        .into_iter()
        .map(|(_, head)| head)
        .collect();
    let mut newest = vec![None; all.len()];
    for row in lane.newest_of(&subject_key(product, "")).await? {
        if let Some(place) = usize::try_from(row.partition)
            .ok()
            .and_then(|index| newest.get_mut(index))
        {
            *place = Some(row);
        }
    }
    let clock = lane.clock().await?;
    Ok(Publication {
        heads,
        newest,
        clock,
    })
}
