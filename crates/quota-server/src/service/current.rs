//! What works behind a service: a node, its lane, its gate and its workers, started and stopped together.

use crate::admission::{Gate, admit};
use crate::config::ServiceSettings;
use crate::node::Node;
use crate::topics::Topics;
use crate::workers::Workers;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a stop waits for the lane.
const LANE_PATIENCE: Duration = Duration::from_secs(20);

/// A node that works.
pub(super) struct Current {
    /// The node.
    pub node: Arc<Node>,
    running: Mutex<Option<Running>>,
}

/// What runs beside it.
struct Running {
    workers: Workers,
    lane: JoinHandle<()>,
    admission: JoinHandle<()>,
    stop: CancellationToken,
}

impl Current {
    /// Opens the ledger, waits for the gate, but no longer than `patience`, and starts the roles that this node has.
    pub(super) async fn start(
        settings: &ServiceSettings,
        topics: &Topics,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let gate = Arc::new(Gate::closed("this node has not reached Kafka yet"));
        let (node, queue) = Node::open(&settings.database_url, Arc::clone(&gate)).await?;
        let stop = CancellationToken::new();
        let lane = tokio::spawn(crate::writer::run(node.lane_context(), queue, stop.clone()));
        let admission = {
            let (node, topics, gate, stop) = (
                node.clone(),
                topics.clone(),
                Arc::clone(&gate),
                stop.clone(),
            );
            let file = settings.checkpoints.file.clone();
            tokio::spawn(async move {
                admit(&node, &topics, file.as_deref(), &gate, &stop).await;
            })
        };
        if tokio::time::timeout(patience, gate.opened()).await.is_err() {
            let why = gate.why().unwrap_or_default();
            tracing::warn!(%why, "this node answers checks, and refuses to write");
        }
        let plan = settings.checkpoints.clone();
        let workers = Workers::start(&node, topics, &settings.roles, plan);
        Ok(Self {
            node: Arc::new(node),
            running: Mutex::new(Some(Running {
                workers,
                lane,
                admission,
                stop,
            })),
        })
    }

    /// Stops what [`Current::start`] started, after the last request: first what brings commands, then the lane once its
    /// queue is empty, then what carries the ledger on.
    pub(super) async fn stop(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running {
            mut workers,
            lane,
            admission,
            stop,
        }) = running
        else {
            return;
        };
        workers.stop_intake().await;
        stop.cancel();
        admission.abort();
        let cut = lane.abort_handle();
        match tokio::time::timeout(LANE_PATIENCE, lane).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the lane did not end well"),
            Err(_) => {
                // Its callers were told long ago that the outcome is unknown.
                cut.abort();
                tracing::warn!("the lane was cut off: what its last append came to is not known");
            }
        }
        workers.stop().await;
    }
}
