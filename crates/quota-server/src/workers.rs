//! The workers of a node beside its lane and its answers: what each role starts, and the order in which they stop.

use crate::checkpoints::{self, Plan};
use crate::config::Role;
use crate::heads::{self, Heads};
use crate::node::Node;
use crate::topics::Topics;
use crate::{follower, inbox, projector, relay, sweeper, webhooks};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long workers may take to come to an end before they are cut off: nothing of theirs is lost by that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Workers that run.
pub struct Workers {
    /// Those that submit commands to the lane.
    intake: JoinSet<()>,
    stop_intake: CancellationToken,
    /// Those that carry on what is in the ledger.
    carriers: JoinSet<()>,
    stop_carriers: CancellationToken,
}

impl Workers {
    /// Starts what these roles do. The subject cache is followed in any case.
    #[must_use]
    pub fn start(node: &Node, topics: &Topics, roles: &BTreeSet<Role>, plan: Plan) -> Self {
        let (sender, heads) = heads::channel();
        let mut workers = Self {
            intake: JoinSet::new(),
            stop_intake: CancellationToken::new(),
            carriers: JoinSet::new(),
            stop_carriers: CancellationToken::new(),
        };
        let stop = workers.stop_carriers.clone();
        workers
            .carriers
            .spawn(heads::run(node.clone(), sender, stop));
        workers.carry(follower::run, node, topics, &heads);
        if roles.contains(&Role::Relay) {
            workers.carry(relay::run, node, topics, &heads);
            let stop = workers.stop_carriers.clone();
            let told = checkpoints::run(node.clone(), topics.clone(), plan, stop);
            workers.carriers.spawn(told);
        }
        if roles.contains(&Role::Projector) {
            workers.carry(projector::run, node, topics, &heads);
        }
        let stop = &workers.stop_intake;
        if roles.contains(&Role::Inbox) {
            let inbox = inbox::run(node.clone(), topics.clone(), heads.clone(), stop.clone());
            workers.intake.spawn(inbox);
        }
        if roles.contains(&Role::Sweeper) {
            workers
                .intake
                .spawn(sweeper::run(node.clone(), stop.clone()));
            workers
                .intake
                .spawn(webhooks::run(node.clone(), stop.clone()));
        }
        workers
    }

    fn carry<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        run: impl FnOnce(Node, Topics, Heads, CancellationToken) -> F,
        node: &Node,
        topics: &Topics,
        heads: &Heads,
    ) {
        let stop = self.stop_carriers.clone();
        let worker = run(node.clone(), topics.clone(), heads.clone(), stop);
        self.carriers.spawn(worker);
    }

    /// Stops those that submit commands, once they have finished what they have in hand. The lane must still run.
    pub async fn stop_intake(&mut self) {
        self.stop_intake.cancel();
        end(&mut self.intake).await;
    }

    /// Stops the others, best after the lane.
    pub async fn stop(mut self) {
        self.stop_intake().await;
        self.stop_carriers.cancel();
        end(&mut self.carriers).await;
    }
}

async fn end(tasks: &mut JoinSet<()>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker died");
            }
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        tracing::warn!("some workers did not come to an end in time");
        tasks.abort_all();
    }
}
