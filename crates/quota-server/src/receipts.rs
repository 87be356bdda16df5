//! Receipts: the proof that an event is in the ledger, put together for whoever may see the event.

use crate::checkpoints::covering;
use crate::node::Node;
use crate::topics::Topics;
use quota_core::command::{Address, Refusal};
use quota_core::digest::{Hash, genesis, row_digest};
use quota_core::position::Position;
use quota_core::receipt::Receipt;
use quota_core::row::Row;
use std::path::Path;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The most digests of one receipt: what a partition records in many minutes of its greatest load.
const DIGESTS_MAX: i64 = 50_000;
/// Rows that are read at once.
const PAGE: usize = 1_000;
/// Receipts that are put together at once; others wait for their turn, and not for long.
const AT_ONCE: usize = 4;
const TURN: Duration = Duration::from_secs(5);

/// Puts receipts together.
#[derive(Debug)]
pub struct Receipts {
    turns: Semaphore,
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

/// Where checkpoints are found, and how soon there is another.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints<'a> {
    /// Their topic.
    pub topics: &'a Topics,
    /// The file that they are appended to.
    pub file: Option<&'a Path>,
    /// The time between two of them.
    pub interval: Duration,
}

impl Receipts {
    /// The receipt of a subject's event.
    ///
    /// # Errors
    /// The subject has no event there; no checkpoint covers it yet, or none that is near; or something cannot be read.
    pub async fn of(
        &self,
        node: &Node,
        checkpoints: Checkpoints<'_>,
        address: &Address,
        position: Position,
    ) -> Result<Receipt, Refusal> {
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Refusal::unavailable(
                "many receipts are being made just now; try again",
            ));
        };
        let (row, previous) = event(node, address, position).await?;
        let ledger_id = node.ledger.info().id;
        let found = covering(
            &row,
            &ledger_id,
            node.epochs(),
            &node.sealed,
            checkpoints.topics,
            checkpoints.file,
        );
        let signed = found
            .await
            .map_err(|error| unreadable(&format!("{error:#}")))?;
        let signed = signed.ok_or_else(|| {
            let message = format!("no signed checkpoint covers {position} yet; try again later");
            let mut refusal = Refusal::field(409, "no_checkpoint_yet", "position", message);
            let seconds = u32::try_from(checkpoints.interval.as_secs()).unwrap_or(u32::MAX);
            refusal.retry_after = Some(seconds.max(1));
            refusal
        })?;
        let end = usize::try_from(row.partition).ok();
        let end = end.and_then(|index| signed.checkpoint.ends.get(index));
        let digests = digests(node, &row, end.map_or(row.offset, |end| end.offset)).await?;
        let receipt = Receipt {
            row,
            previous,
            digests,
            signed,
        };
        // Whoever changed the ledger behind our back gets no receipts from us.
        receipt.check().map_err(|error| {
            tracing::error!(%position, %error, "the ledger does not lead to its own checkpoint; run `quota-ledger verify`");
            Refusal::whole(500, "internal", "the ledger does not agree with its own checkpoints; its operator has been told")
        })?;
        Ok(receipt)
    }
}

/// The subject's event at a position, and the hash before it.
async fn event(node: &Node, address: &Address, position: Position) -> Result<(Row, Hash), Refusal> {
    let unknown = || {
        let message = format!("this subject has no event at {position}");
        Refusal::field(404, "unknown_event", "position", message)
    };
    if position.partition != address.partition
        || position.offset < 0
        || !node.epochs().holds(position)
    {
        return Err(unknown());
    }
    let first = (position.offset - 1).max(0);
    let rows = node.ledger.range(position.partition, first, 2).await;
    let rows = rows.map_err(|error| unreadable(&error.to_string()))?;
    let mut previous = genesis(&node.ledger.info().id, position.partition);
    for row in rows {
        if row.offset == position.offset && row.subject_key == address.key {
            return Ok((row, previous));
        }
        previous = row.hash;
    }
    Err(unknown())
}

/// The digests of the rows after one, up to an offset.
async fn digests(node: &Node, row: &Row, end: i64) -> Result<Vec<Hash>, Refusal> {
    if end - row.offset > DIGESTS_MAX {
        let message = format!(
            "the first checkpoint after this event is {} events later, and a receipt holds {DIGESTS_MAX}; there were none for a long time",
            end - row.offset
        );
        return Err(Refusal::field(
            409,
            "checkpoint_too_far",
            "position",
            message,
        ));
    }
    let mut digests = Vec::new();
    let mut pages = node
        .ledger
        .pages(row.partition, row.offset + 1, end + 1, PAGE);
    loop {
        let rows = pages.next().await;
        let rows = rows.map_err(|error| unreadable(&error.to_string()))?;
        if rows.is_empty() {
            return Ok(digests);
        }
        digests.extend(rows.iter().map(row_digest));
    }
}

fn unreadable(error: &str) -> Refusal {
    tracing::warn!(error, "a receipt could not be put together");
    Refusal::unavailable("the ledger or its checkpoints cannot be read just now; try again")
}
