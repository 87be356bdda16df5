//! The ledger's heads, read once a second for all who follow it: how rows of other nodes are noticed.

use crate::node::Node;
use quota_core::row::Head;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The time between two readings.
const PACE: Duration = Duration::from_secs(1);
/// The time between two readings while other nodes append what has not come by the topic.
const QUICK_PACE: Duration = Duration::from_millis(100);

/// One reading of all heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The last offset of each partition, by its number; -1 where there is none.
    pub offsets: Vec<i64>,
    /// When the ledger was asked, by the node's steady clock, in microseconds.
    pub asked_at: i64,
}

impl Reading {
    /// Partitions and their last offsets.
    pub fn iter(&self) -> impl Iterator<Item = (u32, i64)> {
        (0_u32..).zip(self.offsets.iter().copied())
    }
}

/// The newest reading, which many can wait for.
pub type Heads = watch::Receiver<Arc<Reading>>;

/// Where readings go, and where they come out.
#[must_use]
pub fn channel() -> (watch::Sender<Arc<Reading>>, Heads) {
    watch::channel(Arc::default())
}

/// Reads the heads until it is told to stop. While the ledger is away nothing is told.
pub async fn run(node: Node, heads: watch::Sender<Arc<Reading>>, stop: CancellationToken) {
    let mut away = false;
    let mut before = Vec::new();
    loop {
        let asked_at = node.clock.elapsed();
        let known = (0..node.partitions()).map(|partition| node.cache.head_offset(partition));
        let known: Vec<i64> = known.collect();
        let mut pace = PACE;
        match read(&node).await {
            Ok((_, epoch)) if epoch != node.epoch() => return outdated(&node, epoch, &stop).await,
            Ok((found, _)) => {
                let offsets: Vec<i64> = found.iter().map(|head| head.offset).collect();
                let reading = Reading { offsets, asked_at };
                let back = reading
                    .iter()
                    .zip(&known)
                    .find(|((_, now), known)| now < *known);
                if let Some(((partition, now), known)) = back {
                    node.gate.doubt(&format!(
                        "partition {partition} of the ledger went back from {known} to {now}"
                    ));
                }
                // It moved, and this node does not know by what.
                let behind = |(partition, offset)| node.cache.head_offset(partition) < offset;
                if reading.offsets != before && reading.iter().any(behind) {
                    pace = QUICK_PACE;
                }
                before.clone_from(&reading.offsets);
                heads.send_replace(Arc::new(reading));
                // An idle node's own clock may stand still, as in a machine that slept.
                if let Ok(reading) = node.ledger.clock().await {
                    node.clock.set(reading);
                }
                if std::mem::take(&mut away) {
                    tracing::info!("the ledger's heads can be read again");
                }
            }
            Err(error) if !away => {
                away = true;
                tracing::warn!(%error, "the ledger's heads cannot be read");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pace) => {}
        }
    }
}

/// The heads, and the epoch after them: so none of a later epoch is told to those who work in this one.
async fn read(node: &Node) -> Result<(Vec<Head>, u32), quota_postgres::Error> {
    let heads = node.ledger.heads().await?;
    Ok((heads, node.ledger.epoch().await?))
}

/// The ledger went on without a tail that this node may know: nothing of what it knows is told any more.
async fn outdated(node: &Node, epoch: u32, stop: &CancellationToken) {
    tracing::warn!(
        epoch,
        known = node.epoch(),
        "the ledger has begun another epoch: this node begins anew"
    );
    node.gate
        .doubt(&format!("epoch {epoch} has begun: this node begins anew"));
    node.outdated.notify_one();
    stop.cancelled().await;
}
