//! The relay: every row of the ledger goes to the topic, in order. The rule is [`quota_core::relay`]; this carries it out.

mod claims;
mod ends;
mod send;

use crate::heads::{Heads, Reading};
use crate::node::{Commit, Node};
use crate::ranges::{Answers, Ask, Ranges};
use crate::topics::Topics;
use ends::Found;
use quota_core::relay::{Output, Relay, Rules, Stop};
use quota_core::row::Row;
use send::{Line, Sent};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Queries that run at once.
const QUERIES: usize = 2;

/// Relays until it is told to stop; an outage of the ledger or of Kafka makes it wait, not end. Of several nodes one
/// relays, and another takes over when it is gone.
pub async fn run(node: Node, topics: Topics, mut heads: Heads, stop: CancellationToken) {
    let (sender, mut claimed) = watch::channel(BTreeSet::new());
    let mut keeping = None;
    if topics.is_embedded() {
        // That broker is this process's alone.
        sender.send_replace((0..node.partitions()).collect());
    } else {
        keeping = Some(tokio::spawn(claims::keep(
            node.clone(),
            sender,
            stop.clone(),
        )));
    }
    while !stop.is_cancelled() {
        let mine = claimed.borrow_and_update().clone();
        tracing::info!(partitions = mine.len(), "relaying");
        let shell = Shell::new(&node, &topics, mine);
        tokio::select! {
            () = stop.cancelled() => break,
            () = shell.run(&mut heads) => break,
            () = changed(&mut claimed) => {}
        }
    }
    drop(claimed);
    if let Some(keeping) = keeping {
        keeping.await.ok();
    }
}

/// Waits until other partitions are claimed; for ever where nobody claims.
async fn changed(claimed: &mut watch::Receiver<BTreeSet<u32>>) {
    if claimed.changed().await.is_err() {
        pending::<()>().await;
    }
}

/// The reading of tails that is under way: its ticket and its task.
type Tails = Option<(u64, JoinHandle<anyhow::Result<Option<Found>>>)>;
/// What came of it.
type TailsRead = (u64, anyhow::Result<Option<Found>>);

struct Shell {
    node: Node,
    /// The partitions that are relayed here.
    mine: BTreeSet<u32>,
    topics: Topics,
    relay: Relay<Arc<Row>>,
    /// What the lanes of this node commit.
    commits: broadcast::Receiver<Commit>,
    ranges: Ranges,
    line: Line,
    tails: Tails,
    /// Partitions whose topic does not end with a row of this ledger.
    strange: BTreeMap<u32, String>,
    /// Partitions with a row that can never be published.
    refused: BTreeSet<u32>,
    away: bool,
    /// The topic is not there: it is made before its tails are read.
    anew: bool,
}

impl Shell {
    fn new(node: &Node, topics: &Topics, mine: BTreeSet<u32>) -> Self {
        let (rules, epoch) = (Rules::default(), node.epoch());
        let relay = if topics.is_embedded() {
            let begun = mine
                .iter()
                .map(|partition| (*partition, node.opened_at(*partition)));
            Relay::forgetful(rules, epoch, begun)
        } else {
            Relay::new(rules, epoch, mine.iter().copied(), node.clock.elapsed())
        };
        Self {
            relay,
            ranges: Ranges::new(node.ledger.clone(), QUERIES),
            line: Line::new(topics.clone(), node.ledger.info()),
            tails: None,
            commits: node.committed.subscribe(),
            node: node.clone(),
            topics: topics.clone(),
            mine,
            strange: BTreeMap::new(),
            refused: BTreeSet::new(),
            away: false,
            anew: false,
        }
    }

    /// Relays; ends when nobody reads the heads any more.
    async fn run(mut self, heads: &mut Heads) {
        if self.mine.is_empty() {
            return pending().await;
        }
        loop {
            self.carry_out();
            let deadline = self.relay.deadline();
            tokio::select! {
                answers = self.ranges.next() => self.rows(answers),
                sent = self.line.next() => self.sent(sent),
                tails = tails(&mut self.tails) => self.tails_read(tails),
                commit = self.commits.recv() => self.committed(commit.ok()),
                seen = heads.changed() => {
                    if seen.is_err() {
                        return;
                    }
                    let reading = heads.borrow_and_update().clone();
                    self.heads(&reading);
                }
                () = sleep_until(&self.node, deadline) => self.relay.tick(self.node.clock.elapsed()),
            }
        }
    }

    /// Does what the rule asks for.
    fn carry_out(&mut self) {
        while let Some(output) = self.relay.output() {
            match output {
                Output::Tails { ticket } => {
                    let task = ends::read(self.node.clone(), self.topics.clone(), self.anew);
                    self.tails = Some((ticket, tokio::spawn(task)));
                }
                Output::Read {
                    ticket,
                    partition,
                    from,
                    to,
                } => {
                    self.ranges.ask(Ask {
                        ticket,
                        partition,
                        from,
                        to,
                    });
                }
                Output::Publish {
                    ticket,
                    partition,
                    rows,
                    ..
                } => {
                    self.line.send(partition, ticket, rows);
                }
                Output::Stopped { partition, why } => alarm(partition, why),
            }
        }
        self.ranges.start();
    }

    fn rows(&mut self, answers: Answers) {
        let now = self.node.clock.elapsed();
        for (ask, rows) in answers {
            match rows {
                Some(rows) => {
                    let rows = rows
                        .into_iter()
                        .map(|(offset, row)| (offset, Arc::new(row)));
                    self.relay
                        .rows(ask.partition, ask.ticket, rows.collect(), now);
                }
                None => self.relay.rows_failed(ask.partition, ask.ticket, now),
            }
        }
    }

    fn sent(&mut self, sent: Sent) {
        let now = self.node.clock.elapsed();
        match sent {
            Sent::Landed {
                partition,
                ticket,
                rows,
            } => {
                metrics::counter!("quota_relay_rows_total").increment(rows as u64);
                self.relay.published(partition, ticket, now);
            }
            // The rule waits for this run for ever, and other partitions go on.
            Sent::Refused { partition, why } => {
                self.refused.insert(partition);
                tracing::error!(
                    partition,
                    why,
                    "a row cannot be published: this partition is not relayed any more"
                );
            }
            Sent::Cut { why } => self.cut(&why),
        }
    }

    /// Gives up what is on its way.
    fn cut(&mut self, why: &str) {
        metrics::counter!("quota_relay_cuts_total").increment(1);
        tracing::warn!(why, "publishing is cut; going on from what the topic holds");
        self.line.reopen();
        self.relay.cut(self.node.clock.elapsed());
    }

    fn tails_read(&mut self, (ticket, outcome): TailsRead) {
        self.tails = None;
        let now = self.node.clock.elapsed();
        match outcome {
            Ok(None) => {
                self.anew = true;
                self.cut("the ledger's topic is not there; making it anew");
            }
            Ok(Some(Found { ends, strange })) => {
                self.anew = false;
                if std::mem::take(&mut self.away) {
                    tracing::info!("the topic's tails can be read again");
                }
                self.relay.tails(ticket, &ends, now);
                for (partition, why) in &strange {
                    if !self.strange.contains_key(partition) {
                        tracing::error!(
                            partition,
                            why,
                            "the topic's last record is no row of this ledger: this partition is not relayed"
                        );
                    }
                }
                self.strange = strange;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the topic's tails cannot be compared with the ledger"
                    );
                }
                self.relay.tails_failed(ticket, now);
            }
        }
    }

    /// A lane of this node has committed something; none where some commits were missed.
    fn committed(&mut self, commit: Option<Commit>) {
        let now = self.node.clock.elapsed();
        if let Some((partition, rows)) = commit {
            if let Some(first) = rows.first().map(|row| row.offset) {
                self.relay.committed(partition, first, rows, now);
            }
            return;
        }
        for partition in &self.mine {
            let head = self.node.cache.head_offset(*partition);
            self.relay.head(*partition, head, now);
        }
    }

    /// The ledger's heads were read.
    fn heads(&mut self, reading: &Reading) {
        let now = self.node.clock.elapsed();
        let (mut lag, mut stopped, mut unknown) = (0, 0, 0_i32);
        for (partition, head) in reading
            .iter()
            .filter(|(number, _)| self.mine.contains(number))
        {
            self.relay.head(partition, head, now);
            match (self.relay.lag(partition), self.relay.stopped(partition)) {
                (Some(rows), _) => lag += rows,
                (None, Some(_)) => stopped += 1,
                (None, None) => unknown += 1,
            }
        }
        metrics::gauge!("quota_relay_lag_rows").set(lag as f64);
        stopped += self.strange.len() + self.refused.len();
        metrics::gauge!("quota_relay_stopped_partitions").set(stopped as f64);
        metrics::gauge!("quota_relay_waiting_partitions").set(f64::from(unknown));
        metrics::gauge!("quota_relay_partitions").set(self.mine.len() as f64);
    }
}

fn alarm(partition: u32, why: Stop) {
    match why {
        Stop::TopicAhead { topic, ledger } => tracing::error!(
            partition,
            topic,
            ledger,
            "the topic has rows that the ledger lost: this partition is not relayed until the ledger is recovered"
        ),
        Stop::LaterEpoch { epoch } => tracing::error!(
            partition,
            epoch,
            "the topic is of a later epoch of the ledger: this partition is not relayed by a node that does not know it"
        ),
    }
}

async fn tails(tails: &mut Tails) -> TailsRead {
    let Some((ticket, task)) = tails else {
        return pending().await;
    };
    let outcome = task.await.unwrap_or_else(|died| Err(died.into()));
    (*ticket, outcome)
}

/// Sleeps until an instant of the node's steady clock.
pub(crate) async fn sleep_until(node: &Node, deadline: Option<i64>) {
    let Some(deadline) = deadline else {
        return pending().await;
    };
    let left = deadline.saturating_sub(node.clock.elapsed());
    if left > 0 {
        tokio::time::sleep(Duration::from_micros(left.unsigned_abs())).await;
    }
}
