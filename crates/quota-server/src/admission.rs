//! Whether this node may write: only once it has compared the topic's ends with the ledger's.
//!
//! A ledger that was restored to an earlier time would otherwise give positions out again that the topic already carries.
//! A node that has compared once writes through an outage of Kafka; when a head went back, it compares again.

use crate::checkpoints::newest;
use crate::node::Node;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::checkpoint::Checkpoint;
use quota_core::position::Position;
use quota_core::record::{Received, from_record};
use quota_core::row::Head;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The time between two looks at a topic that is ahead of the ledger.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// The gate before the queue: open, or closed for a reason.
#[derive(Debug)]
pub struct Gate {
    why: watch::Sender<Option<Arc<str>>>,
    doubted: Notify,
}

impl Gate {
    /// A gate that is open.
    #[must_use]
    pub fn open() -> Self {
        Self {
            why: watch::Sender::new(None),
            doubted: Notify::new(),
        }
    }

    /// A gate that is closed for a reason.
    #[must_use]
    pub fn closed(why: &str) -> Self {
        let gate = Self::open();
        gate.set(Some(why));
        gate
    }

    /// Why it is closed, if it is.
    #[must_use]
    pub fn why(&self) -> Option<Arc<str>> {
        self.why.borrow().clone()
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        self.why.subscribe().wait_for(Option::is_none).await.ok();
    }

    /// Closes it, if it is open, until ledger and topic have been compared again.
    pub fn doubt(&self, why: &str) {
        if self.why().is_none() {
            tracing::error!(
                why,
                "nothing is written until ledger and topic have been compared again"
            );
            self.set(Some(why));
            self.doubted.notify_one();
        }
    }

    fn set(&self, why: Option<&str>) {
        self.why.send_replace(why.map(Arc::from));
    }
}

/// What comparing came to.
enum Compared {
    /// The topic holds nothing that the ledger does not.
    Fits,
    /// The topic holds what the ledger does not: the ledger was restored, or is another one.
    Differs(String),
}

/// Makes the topics, compares their ends with the ledger's, and opens the gate when they fit; tries until then, and again
/// when that is doubted.
///
/// `checkpoints` is the file that checkpoints are appended to: the newest there, and in their topic, must fit as well.
pub async fn admit(
    node: &Node,
    topics: &Topics,
    checkpoints: Option<&Path>,
    gate: &Gate,
    stop: &CancellationToken,
) {
    let mut told = false;
    loop {
        let pause = match compare(node, topics, checkpoints).await {
            Ok(Compared::Fits) => {
                gate.set(None);
                metrics::gauge!("quota_topic_ahead").set(0.0);
                told = false;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = gate.doubted.notified() => continue,
                }
            }
            Ok(Compared::Differs(what)) => {
                metrics::gauge!("quota_topic_ahead").set(1.0);
                tracing::error!(
                    what,
                    "the ledger lacks what was in it; nothing is written until that is settled"
                );
                gate.set(Some(&what));
                LONG_PAUSE
            }
            Err(error) => {
                let why = format!("ledger and topic cannot be compared: {error:#}");
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(why, "nothing is written until it is");
                }
                gate.set(Some(&why));
                PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn compare(
    node: &Node,
    topics: &Topics,
    checkpoints: Option<&Path>,
) -> anyhow::Result<Compared> {
    topics.ensure(node.partitions()).await?;
    // An inbox that cannot be made is its product's trouble alone; it is tried again while the inboxes are drained.
    if let Err(error) = topics.ensure_inboxes(&node.shelf.products()).await {
        tracing::warn!(error = format!("{error:#}"), "an inbox cannot be made");
    }
    // The ledger last: what is appended and relayed meanwhile is in it then.
    let ends = (0..node.partitions()).filter_map(|partition| node.cache.end(partition));
    let known: Vec<Head> = ends.map(|end| end.head).collect();
    let tails = if topics.is_embedded() {
        // That broker forgets: it cannot be ahead.
        Vec::new()
    } else {
        let partitions = i32::try_from(node.partitions())?;
        quota_kafka::topic::tails(topics.settings(), &topics.ledger(), partitions).await?
    };
    let checkpoints = newest(topics, checkpoints, node).await?;
    let heads = node.ledger.heads().await?;
    for checkpoint in &checkpoints {
        if let Some(what) = contradiction(node, checkpoint, &heads).await? {
            return Ok(Compared::Differs(what));
        }
    }
    for (partition, (known, head)) in (0_u32..).zip(known.iter().zip(&heads)) {
        if !is_kept(node, partition, known, head).await? {
            return Ok(Compared::Differs(format!(
                "this node knows {partition}:{} and the ledger does not have it: the ledger was restored; recover it, or start this node again",
                known.offset
            )));
        }
    }
    for (partition, (tail, head)) in (0_u32..).zip(tails.iter().zip(&heads)) {
        let Some(tail) = tail else { continue };
        let record = from_record(tail.headers(), tail.payload()).with_context(|| {
            format!("the last record of partition {partition} is none of a ledger")
        })?;
        if let Some(what) = difference(node, record, partition, head).await? {
            return Ok(Compared::Differs(what));
        }
    }
    Ok(Compared::Fits)
}

/// What a checkpoint says against the ledger.
async fn contradiction(
    node: &Node,
    checkpoint: &Checkpoint,
    heads: &[Head],
) -> anyhow::Result<Option<String>> {
    for (partition, (end, head)) in (0_u32..).zip(checkpoint.ends.iter().zip(heads)) {
        let known = Head {
            offset: end.offset,
            hash: end.hash,
            recorded_at: checkpoint.at,
        };
        if !is_kept(node, partition, &known, head).await? {
            return Ok(Some(format!(
                "the checkpoint of {} has {partition}:{}, and the ledger does not: it was restored to an earlier time, or changed",
                checkpoint.at, end.offset
            )));
        }
    }
    Ok(None)
}

/// Whether the ledger still has the last row that this node knows of a partition.
async fn is_kept(node: &Node, partition: u32, known: &Head, head: &Head) -> anyhow::Result<bool> {
    if known.offset < 0 || (known.offset, known.hash) == (head.offset, head.hash) {
        return Ok(true);
    }
    if head.offset <= known.offset {
        return Ok(false);
    }
    let rows = node.ledger.range(partition, known.offset, 1).await?;
    Ok(rows.first().is_some_and(|row| row.hash == known.hash))
}

/// What the topic's last record of a partition says against the ledger.
async fn difference(
    node: &Node,
    record: Received,
    partition: u32,
    head: &Head,
) -> anyhow::Result<Option<String>> {
    let topic = Position {
        epoch: record.epoch,
        partition,
        offset: record.offset(),
    };
    if record.ledger_id != node.ledger.info().id {
        return Ok(Some(format!(
            "the topic carries another ledger at {topic}; use another Kafka, or other topics"
        )));
    }
    if record.offset() > head.offset {
        let what = format!(
            "the topic goes to {topic}, this ledger only to {}: it was restored to an earlier time",
            Position {
                epoch: record.epoch,
                partition,
                offset: head.offset
            }
        );
        return Ok(Some(what));
    }
    let rows = node.ledger.range(partition, record.offset(), 1).await?;
    let hash = record.into_unchained().hash;
    let same = rows.first().is_some_and(|row| row.hash == hash);
    Ok((!same).then(|| {
        format!(
            "topic and ledger differ at {topic}: it was restored, and went on, without the topic"
        )
    }))
}
