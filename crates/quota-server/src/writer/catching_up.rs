//! Reading what others appended, before deciding on top of it.

use crate::cache::Applied;
use crate::writer::drive::{Context, unavailable};
use quota_core::lane::Failure;
use quota_postgres::Lane;
use std::collections::BTreeMap;

/// Rows that are read at once.
const CATCH_UP_ROWS: usize = 1_000;

/// Reads what others appended to these partitions. The caller holds their locks.
pub(super) async fn catch_up(
    context: &Context,
    lane: &mut Lane,
    partitions: &[u32],
) -> Result<(), Failure> {
    // Before the heads are read: while an answer is late the transaction may be cut, and others append.
    let known: BTreeMap<u32, i64> = partitions
        .iter()
        .map(|partition| (*partition, context.cache.head_offset(*partition)))
        .collect();
    for (partition, head) in lane.heads_of(partitions).await.map_err(unavailable)? {
        let mut next = context.cache.head_offset(partition) + 1;
        if known
            .get(&partition)
            .is_some_and(|known| head.offset < *known)
        {
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
            if let Some(row) = rows.first()
                && context.cache.is_contradicted_by(row)
            {
                return Err(Failure::Unavailable(format!(
                    "row {partition}:{} does not follow from what this node knows: the ledger was restored; start this node again",
                    row.offset
                )));
            }
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
