//! Where each partition ends, in the topic and in the ledger.

use crate::node::Node;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::digest::subject_key;
use quota_core::event::Event;
use quota_core::record::from_record;
use quota_core::relay::{Ends, Tail};
use quota_kafka::{Record, TopicError, topic};
use std::collections::BTreeMap;

/// Epochs of a ledger that are looked at.
const EPOCHS: usize = 1_000;

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
    let heads = node.ledger.heads().await?;
    let mut tails = tails.into_iter();
    let mut found = Found::default();
    for (partition, head) in (0_u32..).zip(heads) {
        let record = tails.next().flatten();
        let tail = match record
            .as_ref()
            .map(|record| tail(&node, record))
            .transpose()
        {
            Ok(tail) => tail,
            Err(error) => {
                found.strange.insert(partition, format!("{error:#}"));
                continue;
            }
        };
        let ledger = head.offset;
        let fork = match tail {
            Some(tail) if tail.epoch < node.epoch() => fork(&node, partition, tail.epoch).await?,
            _ => None,
        };
        found.ends.insert(
            partition,
            Ends {
                topic: tail,
                ledger,
                fork,
            },
        );
    }
    Ok(Some(found))
}

fn tail(node: &Node, record: &Record) -> anyhow::Result<Tail> {
    let received = from_record(record.headers(), record.payload())?;
    anyhow::ensure!(
        received.ledger_id == node.ledger.info().id,
        "it is of another ledger"
    );
    Ok(Tail {
        offset: received.offset(),
        epoch: received.epoch,
        at: record.offset,
    })
}

/// The offset of the first start of an epoch after that one.
async fn fork(node: &Node, partition: u32, epoch: u32) -> anyhow::Result<Option<i64>> {
    let rows = node
        .ledger
        .subject_page(partition, &subject_key("", ""), -1, EPOCHS)
        .await?;
    for row in rows {
        let event = Event::decode(&row.event_type, row.type_version, &row.payload)
            .with_context(|| format!("the event at {partition}:{}", row.offset))?;
        if let Event::EpochStarted(started) = event
            && started.epoch > epoch
        {
            return Ok(Some(row.offset));
        }
    }
    Ok(None)
}
