//! Carries batches through the lane, one after the other, until every record is in the ledger or in the dead letters.

use super::letters::{Letter, Letters};
use super::read::{Batch, Reason};
use crate::node::Node;
use crate::topics::Topics;
use quota_core::command::{Answer, Command};
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
        mut dead,
        next,
    } = batch;
    dead.extend(carry_out(node, commands).await);
    dead.sort_by_key(|(index, _)| *index);
    let refused: Vec<Letter<'_>> = dead
        .iter()
        .filter_map(|(index, reason)| Some(Letter::new(records.get(*index)?, reason)))
        .collect();
    letters.send(refused).await;
    next
}

/// Carries commands out, in order; what the ledger cannot take now is tried again for as long as it takes.
async fn carry_out(node: &Node, mut todo: Vec<(usize, Command)>) -> Vec<(usize, Reason)> {
    let mut dead = Vec::new();
    let mut rest = REST;
    while !todo.is_empty() {
        let commands = todo.iter().map(|(_, command)| command.clone()).collect();
        let answers = node.writer.submit_all(commands).await;
        let (mut recorded, mut duplicates, mut again) = (0, 0, Vec::new());
        for ((index, command), answer) in todo.into_iter().zip(answers) {
            match answer {
                Answer::Recorded {
                    duplicate: true, ..
                } => duplicates += 1,
                Answer::Recorded { .. } => recorded += 1,
                Answer::Refused(refusal) if matches!(refusal.status, 503 | 504) => {
                    again.push((index, command));
                }
                Answer::Refused(refusal) => dead.push((
                    index,
                    Reason {
                        code: refusal.code,
                        detail: refusal.message,
                    },
                )),
                other => {
                    let detail = format!("a fact was answered with {other:?}");
                    tracing::error!(detail, "an answer that makes no sense");
                    dead.push((
                        index,
                        Reason {
                            code: "internal",
                            detail,
                        },
                    ));
                }
            }
        }
        metrics::counter!("quota_inbox_recorded_total").increment(recorded);
        metrics::counter!("quota_inbox_duplicates_total").increment(duplicates);
        if !again.is_empty() {
            if rest == REST {
                tracing::warn!(
                    records = again.len(),
                    "the ledger does not take an inbox's records; trying on"
                );
            }
            metrics::counter!("quota_inbox_retries_total").increment(1);
            tokio::time::sleep(rest).await;
            rest = (rest * 2).min(REST_MAX);
        } else if rest > REST {
            tracing::info!("the ledger takes the inboxes' records again");
        }
        todo = again;
    }
    dead
}
