//! Whether this node may write: only once it has compared the topic's ends with the ledger's.
//!
//! A ledger that was restored to an earlier time would otherwise give positions out again that the topic already carries.
//! A node that has compared once writes through an outage of Kafka.

use crate::node::Node;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::position::Position;
use quota_core::record::{Received, from_record};
use quota_core::row::Head;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The time between two looks at a topic that is ahead of the ledger.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// The gate before the queue: open, or closed for a reason.
#[derive(Debug)]
pub struct Gate(RwLock<Option<Arc<str>>>);

impl Gate {
    /// A gate that is open.
    #[must_use]
    pub const fn open() -> Self {
        Self(RwLock::new(None))
    }

    /// A gate that is closed for a reason.
    #[must_use]
    pub fn closed(why: &str) -> Self {
        Self(RwLock::new(Some(why.into())))
    }

    /// Why it is closed, if it is.
    #[must_use]
    pub fn why(&self) -> Option<Arc<str>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, why: Option<&str>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = why.map(Arc::from);
    }
}

/// What comparing came to.
enum Compared {
    /// The topic holds nothing that the ledger does not.
    Fits,
    /// The topic holds what the ledger does not: the ledger was restored, or is another one.
    Differs(String),
}

/// Makes the topics, compares their ends with the ledger's, and opens the gate when they fit. Tries until then.
pub async fn admit(node: &Node, topics: &Topics, gate: &Gate, stop: &CancellationToken) {
    let mut told = false;
    loop {
        let pause = match compare(node, topics).await {
            Ok(Compared::Fits) => {
                gate.set(None);
                metrics::gauge!("quota_topic_ahead").set(0.0);
                return;
            }
            Ok(Compared::Differs(what)) => {
                metrics::gauge!("quota_topic_ahead").set(1.0);
                tracing::error!(
                    what,
                    "the topic is ahead of this ledger; nothing is written until that is settled"
                );
                gate.set(Some(&what));
                LONG_PAUSE
            }
            Err(error) => {
                let why = format!("Kafka was not reached since this node's start: {error:#}");
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

async fn compare(node: &Node, topics: &Topics) -> anyhow::Result<Compared> {
    topics.ensure(node.partitions()).await?;
    // An inbox that cannot be made is its product's trouble alone; it is tried again while the inboxes are drained.
    if let Err(error) = topics.ensure_inboxes(&node.shelf.products()).await {
        tracing::warn!(error = format!("{error:#}"), "an inbox cannot be made");
    }
    if topics.is_embedded() {
        // That broker forgets: it cannot be ahead.
        return Ok(Compared::Fits);
    }
    // The topic first: what is relayed between the two readings is in the ledger at the second.
    let partitions = i32::try_from(node.partitions())?;
    let tails = quota_kafka::topic::tails(topics.settings(), &topics.ledger(), partitions).await?;
    let heads = node.ledger.heads().await?;
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
