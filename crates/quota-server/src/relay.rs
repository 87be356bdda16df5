//! The relay: every row of the ledger goes to the topic, in order. The rule is [`quota_core::relay`]; this carries it out.

mod ends;
mod send;

use crate::heads::Heads;
use crate::node::Node;
use crate::ranges::{Answers, Ask, Ranges};
use crate::topics::Topics;
use quota_core::relay::{Ends, Output, Relay, Rules, Stop};
use quota_core::row::Row;
use send::{Line, Sent};
use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Queries that run at once.
const QUERIES: usize = 2;

/// Relays until it is told to stop; an outage of the ledger or of Kafka makes it wait, not end.
pub async fn run(node: Node, topics: Topics, mut heads: Heads, stop: CancellationToken) {
    let rules = Rules {
        forgetful: topics.is_embedded(),
        ..Rules::default()
    };
    let now = node.clock.elapsed();
    let mut shell = Shell {
        relay: Relay::new(rules, node.epoch(), 0..node.partitions(), now),
        ranges: Ranges::new(node.ledger.clone(), QUERIES),
        line: Line::new(topics.clone(), node.ledger.info()),
        tails: None,
        node,
        topics,
        away: false,
    };
    loop {
        shell.carry_out();
        let deadline = shell.relay.deadline();
        tokio::select! {
            () = stop.cancelled() => return,
            answers = shell.ranges.next() => shell.rows(answers),
            sent = shell.line.next() => shell.sent(sent),
            tails = tails(&mut shell.tails) => shell.tails_read(tails),
            () = shell.node.committed.notified() => shell.committed(),
            seen = heads.changed() => {
                if seen.is_err() {
                    return;
                }
                let reading = heads.borrow_and_update().clone();
                shell.heads(reading.iter());
            }
            () = sleep_until(&shell.node, deadline) => shell.relay.tick(shell.node.clock.elapsed()),
        }
    }
}

/// The reading of tails that is under way: its ticket and its task.
type Tails = Option<(u64, JoinHandle<anyhow::Result<BTreeMap<u32, Ends>>>)>;
/// What came of it.
type TailsRead = (u64, anyhow::Result<BTreeMap<u32, Ends>>);

struct Shell {
    node: Node,
    topics: Topics,
    relay: Relay<Row>,
    ranges: Ranges,
    line: Line,
    tails: Tails,
    away: bool,
}

impl Shell {
    /// Does what the rule asks for.
    fn carry_out(&mut self) {
        while let Some(output) = self.relay.output() {
            match output {
                Output::Tails { ticket } => {
                    let task = ends::read(self.node.clone(), self.topics.clone());
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
                Some(rows) => self.relay.rows(ask.partition, ask.ticket, rows, now),
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
                metrics::counter!("quota_relay_refused_total").increment(1);
                tracing::error!(
                    partition,
                    why,
                    "a row cannot be published: this partition is not relayed any more"
                );
            }
            Sent::Cut { why } => {
                metrics::counter!("quota_relay_cuts_total").increment(1);
                tracing::warn!(why, "publishing failed; going on from what the topic holds");
                self.line.reopen();
                self.relay.cut(now);
            }
        }
    }

    fn tails_read(&mut self, (ticket, outcome): TailsRead) {
        self.tails = None;
        let now = self.node.clock.elapsed();
        match outcome {
            Ok(ends) => {
                if std::mem::take(&mut self.away) {
                    tracing::info!("the topic's tails can be read again");
                }
                self.relay.tails(ticket, &ends, now);
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

    /// This node's lane has committed something.
    fn committed(&mut self) {
        let heads = (0..self.node.partitions())
            .map(|partition| (partition, self.node.cache.head_offset(partition)));
        let heads: Vec<(u32, i64)> = heads.collect();
        let now = self.node.clock.elapsed();
        for (partition, head) in heads {
            self.relay.head(partition, head, now);
        }
    }

    /// The ledger's heads were read.
    fn heads(&mut self, heads: impl Iterator<Item = (u32, i64)>) {
        let now = self.node.clock.elapsed();
        let (mut lag, mut stopped, mut unknown) = (0, 0, 0);
        for (partition, head) in heads {
            self.relay.head(partition, head, now);
            match (self.relay.lag(partition), self.relay.stopped(partition)) {
                (Some(rows), _) => lag += rows,
                (None, Some(_)) => stopped += 1,
                (None, None) => unknown += 1,
            }
        }
        metrics::gauge!("quota_relay_lag_rows").set(lag as f64);
        metrics::gauge!("quota_relay_stopped_partitions").set(f64::from(stopped));
        metrics::gauge!("quota_relay_waiting_partitions").set(f64::from(unknown));
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
            "the topic is of a later epoch of the ledger: this node has to be started again"
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
