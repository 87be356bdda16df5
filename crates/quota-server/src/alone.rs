//! A lane of one command's own: it appends by the very rules of a node, beside nodes that serve or without any.

use crate::admission::Gate;
use crate::node::Node;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A node that serves nobody: it has a lane, and needs the database alone.
pub struct Alone {
    /// What it works with.
    pub node: Node,
    lane: JoinHandle<()>,
    stop: CancellationToken,
}

impl Alone {
    /// Opens the ledger. It does not compare it with Kafka's topic first, as a node that serves does: that may not be there.
    ///
    /// # Errors
    /// The database is down, not migrated, or holds what this version cannot read.
    pub async fn open(database_url: &str) -> anyhow::Result<Self> {
        let (node, queue) = Node::open(database_url, Arc::new(Gate::open())).await?;
        let stop = CancellationToken::new();
        let lane = tokio::spawn(crate::writer::run(node.lane_context(), queue, stop.clone()));
        Ok(Self { node, lane, stop })
    }

    /// Ends the lane, once its queue is empty.
    pub async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.lane.await {
            tracing::error!(%error, "the lane did not end well");
        }
    }
}
