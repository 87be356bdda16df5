//! Where each partition ends, in the topic and in the ledger.

use crate::node::Node;
use crate::topics::Topics;
use quota_core::record::{Received, from_record};
use quota_core::relay::{Ends, Tail};
use quota_kafka::{Record, TopicError, topic};
use std::collections::BTreeMap;

/// Where partitions end.
#[derive(Default)]
pub(super) struct Found {
    /// The ends, by partition.
    pub ends: BTreeMap<u32, Ends>,
    /// Partitions whose last record in the topic is no row of this ledger, and why not.
    pub strange: BTreeMap<u32, String>,
}

/// Reads the topic's tails, then the ledger's heads, after making the topic `anew` where that is wanted; none where there is
/// no topic. It is not made at once: what is on its way to the old one must not be the first in it.
pub(super) async fn read(node: Node, topics: Topics, anew: bool) -> anyhow::Result<Option<Found>> {
    if anew {
        topics.ensure(node.partitions()).await?;
    }
    let partitions = i32::try_from(node.partitions())?;
    let tails = match topic::tails(topics.settings(), &topics.ledger(), partitions).await {
        Err(TopicError::Missing { .. }) => return Ok(None),
        tails => tails?,
    };
    let heads = node.heads().await?;
    let mut tails = tails.into_iter();
    let mut found = Found::default();
    for (partition, head) in (0_u32..).zip(heads) {
        let record = tails.next().flatten();
        let read = record.as_ref().map(|record| received(&node, record));
        let tail = match read.transpose() {
            Ok(tail) => tail,
            Err(error) => {
                found.strange.insert(partition, format!("{error:#}"));
                continue;
            }
        };
        let fork = tail
            .as_ref()
            .and_then(|tail| node.epochs().left(partition, tail.epoch));
        let topic = record.zip(tail).map(|(record, tail)| Tail {
            offset: tail.offset(),
            epoch: tail.epoch,
            at: record.offset,
        });
        let ends = Ends {
            topic,
            ledger: head.offset,
            fork,
        };
        found.ends.insert(partition, ends);
    }
    Ok(Some(found))
}

fn received(node: &Node, record: &Record) -> anyhow::Result<Received> {
    let received = from_record(record.headers(), record.payload())?;
    anyhow::ensure!(
        received.ledger_id == node.ledger.info().id,
        "it is of another ledger"
    );
    Ok(received)
}
