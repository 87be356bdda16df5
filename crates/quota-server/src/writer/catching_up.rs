//! Reading what others appended, before deciding on top of it.

use crate::cache::Applied;
use crate::writer::drive::{Context, Failure, unavailable};
use quota_core::row::Row;
use quota_postgres::Lane;

/// Rows that are read at once.
const CATCH_UP_ROWS: usize = 1_000;

/// Reads what others appended to these partitions. The caller holds their locks.
pub(super) async fn catch_up(
    context: &Context,
    lane: &mut Lane,
    partitions: &[u32],
) -> Result<(), Failure> {
    for (partition, head) in lane.heads_of(partitions).await.map_err(unavailable)? {
        let mut next = context.cache.head_offset(partition) + 1;
        if head.offset + 1 < next {
            return Err(Failure::Unavailable(format!(
                "partition {partition} went back to {}: the ledger was restored; start this node again",
                head.offset
            )));
        }
        while next <= head.offset {
            let rows = lane
                .range(partition, next, CATCH_UP_ROWS)
                .await
                .map_err(unavailable)?;
            follows(context, partition, rows.first())?;
            let applied = context
                .cache
                .apply(partition, &rows, &context.shelf)
                .map_err(unavailable)?;
            if rows.is_empty() || applied == Applied::Hole {
                return Err(Failure::Unavailable(format!(
                    "partition {partition} has a hole at {next}"
                )));
            }
            next = context.cache.head_offset(partition) + 1;
        }
    }
    Ok(())
}

/// Whether what others appended follows from what this node knows: after a restore it would not.
fn follows(context: &Context, partition: u32, next: Option<&Row>) -> Result<(), Failure> {
    let known = context.cache.end(partition).map(|end| end.head);
    match (known, next) {
        (Some(head), Some(row))
            if row.offset == head.offset + 1 && row.hash != row.expected_hash(&head.hash) =>
        {
            Err(Failure::Unavailable(format!(
                "row {partition}:{} does not follow from what this node knows: the ledger was restored; start this node again",
                row.offset
            )))
        }
        _ => Ok(()),
    }
}
