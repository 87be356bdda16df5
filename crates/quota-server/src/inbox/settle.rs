//! Carries batches through the lane, one after the other, until every record is in the ledger or in the dead letters.

use super::letters::{Letter, Letters};
use super::read::Batch;
use crate::node::Node;
use crate::topics::Topics;
use quota_core::inbox::Settling;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The rest before the same commands are tried again: the first, and the longest.
const REST: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_secs(2);
/// The offset to go on from, by topic and partition.
pub(super) type Next = BTreeMap<(Arc<str>, i32), i64>;

/// Settles batches until no more come. What cannot be settled `patience` after the stop is given up: it comes again.
pub(super) async fn run(
    node: Node,
    topics: Topics,
    mut batches: mpsc::Receiver<Batch>,
    settled: mpsc::UnboundedSender<Next>,
    stop: CancellationToken,
    patience: Duration,
) {
    let mut letters = Letters::new(topics);
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::pin!(given_up);
    while let Some(batch) = batches.recv().await {
        tokio::select! {
            biased;
            next = settle(&node, &mut letters, batch) => {
                if settled.send(next).is_err() {
                    return;
                }
            }
            () = &mut given_up => {
                tracing::warn!("records of the inboxes are left for the next start: they could not be settled in time");
                return;
            }
        }
    }
}

async fn settle(node: &Node, letters: &mut Letters, batch: Batch) -> Next {
    let Batch {
        records,
        commands,
        dead,
        next,
    } = batch;
    let settling = carry_out(node, Settling::new(commands, dead)).await;
    let dead = settling.dead();
    let refused: Vec<Letter<'_>> = dead
        .iter()
        .filter_map(|(index, reason)| Some(Letter::new(records.get(*index)?, reason)))
        .collect();
    letters.send(refused).await;
    next
}

/// Carries commands out, in order; what the ledger cannot take now is tried again for as long as it takes.
async fn carry_out(node: &Node, mut settling: Settling) -> Settling {
    let mut rest = REST;
    loop {
        let commands = settling.commands();
        if commands.is_empty() {
            return settling;
        }
        let came = settling.answered(node.writer.submit_all(commands).await);
        metrics::counter!("quota_inbox_recorded_total").increment(came.recorded);
        metrics::counter!("quota_inbox_duplicates_total").increment(came.duplicates);
        if came.again > 0 {
            if rest == REST {
                tracing::warn!(
                    records = came.again,
                    "the ledger does not take an inbox's records; trying on"
                );
            }
            metrics::counter!("quota_inbox_retries_total").increment(1);
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST_MAX);
        } else if rest > REST {
            tracing::info!("the ledger takes the inboxes' records again");
        }
    }
}
