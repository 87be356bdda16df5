//! The sweeper: records expiries soon after they fell due, by asking the lane to. Nothing depends on it: every decision
//! judges expiry by its own time.

use crate::node::Node;
use quota_core::command::{Address, Answer, Command, Wish};
use quota_postgres::Due;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The time between two looks.
const PACE: Duration = Duration::from_secs(1);
/// Subjects that are swept at once.
const PAGE: usize = 500;
/// How long a subject is left alone after the lane was asked: until then its view shows what came of it.
const ALONE: Duration = Duration::from_secs(60);

/// Sweeps until it is told to stop; an outage of the ledger makes it wait, not end.
pub async fn run(node: Node, stop: CancellationToken) {
    let mut sweeper = Sweeper {
        node,
        asked: HashMap::new(),
        away: false,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            full = sweeper.sweep() => if full {
                continue;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
    }
}

struct Sweeper {
    node: Node,
    /// The subjects that the lane was asked about, and when.
    asked: HashMap<(Arc<str>, Arc<str>), Instant>,
    away: bool,
}

impl Sweeper {
    /// Asks the lane about subjects that are due; whether there may be more.
    async fn sweep(&mut self) -> bool {
        self.asked.retain(|_, asked| asked.elapsed() < ALONE);
        // Those that were asked about come first still, until their views show it.
        let most = PAGE + self.asked.len();
        let due = match self.node.ledger.due(self.node.clock.now(), most).await {
            Ok(due) => due,
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(%error, "what is due cannot be read");
                }
                return false;
            }
        };
        self.away = false;
        let fresh: Vec<Due> = due
            .into_iter()
            .filter(|due| !self.asked.contains_key(&name(due)))
            .collect();
        metrics::gauge!("quota_sweeper_due").set(fresh.len() as f64);
        let mut settled = true;
        for page in fresh.chunks(PAGE) {
            settled &= self.ask(page).await;
        }
        settled && fresh.len() >= PAGE
    }

    /// Asks about these; whether the lane answered.
    async fn ask(&mut self, due: &[Due]) -> bool {
        let command = |due: &Due| Command {
            address: Address::new(&due.product, &due.subject, self.node.partitions()),
            wish: Wish::Sweep,
        };
        let answers = self
            .node
            .writer
            .submit_all(due.iter().map(command).collect())
            .await;
        let (mut settled, mut recorded) = (true, 0);
        for (due, answer) in due.iter().zip(answers) {
            match answer {
                Answer::Swept { recorded: expiries } => {
                    recorded += expiries;
                    self.asked.insert(name(due), Instant::now());
                }
                _ => settled = false,
            }
        }
        metrics::counter!("quota_sweeper_expiries_total").increment(recorded as u64);
        settled
    }
}

fn name(due: &Due) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&due.product), Arc::clone(&due.subject))
}
