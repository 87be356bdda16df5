//! Whether this node may write: only once it has compared the topic's ends with the ledger's.
//!
//! A ledger that was restored to an earlier time would otherwise give positions out again that the topic already carries.
//! A node that has compared once writes through an outage of Kafka; when a head went back, it compares again.

use crate::comparing::{Claim, Witness, differences};
use crate::node::Node;
use crate::topics::Topics;
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
    /// The ledger has all that is known of it.
    Fits,
    /// The ledger lacks what was in it: it was restored, or is another one.
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
    let found = differences(&node.ledger, topics, checkpoints, &known(node)).await?;
    // After all that: what it says is of this epoch.
    let epoch = node.ledger.epoch().await?;
    if epoch != node.epoch() {
        let why = format!("epoch {epoch} has begun: this node begins anew");
        return Ok(Compared::Differs(why));
    }
    Ok(match found.first() {
        None => Compared::Fits,
        Some(difference) => Compared::Differs(difference.advice()),
    })
}

/// Every end that this node knows, as it knows it.
fn known(node: &Node) -> Vec<Claim> {
    let end = |partition| {
        let head = node.cache.end(partition)?.head;
        Some(Claim {
            witness: Witness::Node,
            position: node.epochs().position(partition, head.offset),
            hash: head.hash,
        })
    };
    (0..node.partitions()).filter_map(end).collect()
}
