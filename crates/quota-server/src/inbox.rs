//! The inbox: what services publish to their product's topic goes into the ledger, in order, or to the dead letters with
//! its reason. An offset is committed only when everything before it is in one of the two.
//!
//! Two tasks: this one reads and judges the next batch while `settle` carries the one before through the lane.

mod letters;
mod read;
mod settle;

use crate::heads::Heads;
use crate::node::Node;
use crate::topics::Topics;
use quota_kafka::{GroupMember, GroupOptions, Record, StartAt};
use read::Batch;
use settle::Next;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Records of one batch.
const BATCH: usize = 1_000;
/// How long one wait for records lasts.
const WAIT: Duration = Duration::from_millis(500);
/// The rest before another attempt to join the group.
const REST: Duration = Duration::from_secs(1);
/// The rest before another attempt to make a topic.
const MAKING_REST: Duration = Duration::from_secs(30);
/// How long batches in hand are tried on after the end was asked for.
const LAST_ATTEMPTS: Duration = Duration::from_secs(3);
/// How long a broker that forgets is drained before the end.
const DRAINING: Duration = Duration::from_secs(8);

/// Drains the inboxes until it is told to stop; an outage of Kafka or of the ledger makes it wait, not end. The batches
/// in hand are finished then; of the broker in this process, which forgets, all that is there.
pub async fn run(node: Node, topics: Topics, mut heads: Heads, stop: CancellationToken) {
    let (work, batches) = mpsc::channel(1);
    let (settled, mut done) = mpsc::unbounded_channel();
    let patience = if topics.is_embedded() {
        DRAINING
    } else {
        LAST_ATTEMPTS
    };
    let (its_node, its_topics) = (node.clone(), topics.clone());
    let settling = settle::run(
        its_node,
        its_topics,
        batches,
        settled,
        stop.clone(),
        patience,
    );
    let settling = tokio::spawn(settling);
    let mut inbox = Inbox::new(node, topics);
    let mut batch: Option<Batch> = None;
    let mut drain_until: Option<Instant> = None;
    loop {
        let ending = drain_until.is_some();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !ending => {
                if !inbox.topics.is_embedded() || inbox.products.is_empty() {
                    break;
                }
                drain_until = Some(Instant::now() + DRAINING);
            }
            Some(next) = done.recv() => inbox.commit(next).await,
            room = work.reserve(), if batch.is_some() => match (room, batch.take()) {
                (Ok(room), Some(batch)) => room.send(batch),
                _ => break,
            },
            records = inbox.records(), if batch.is_none() => {
                let over = drain_until.is_some_and(|until| records.is_empty() || Instant::now() > until);
                if over {
                    break;
                }
                batch = inbox.judge(records).await;
            }
            seen = heads.changed(), if !ending => {
                if seen.is_err() {
                    break;
                }
                heads.mark_unchanged();
                inbox.join_new(&stop).await;
            }
        }
    }
    if let Some(batch) = batch {
        work.send(batch).await.ok();
    }
    drop(work);
    while let Some(next) = done.recv().await {
        inbox.commit(next).await;
    }
    settling.await.ok();
    inbox.close().await;
}

struct Inbox {
    node: Node,
    topics: Topics,
    member: Option<GroupMember>,
    /// The topics that are read, and their products.
    products: HashMap<String, Arc<str>>,
    /// The products whose topics are known to be there.
    made: BTreeSet<Arc<str>>,
    make_after: Instant,
    /// What is settled and not committed.
    next: Next,
}

impl Inbox {
    fn new(node: Node, topics: Topics) -> Self {
        Self {
            node,
            topics,
            member: None,
            products: HashMap::new(),
            made: BTreeSet::new(),
            make_after: Instant::now(),
            next: BTreeMap::new(),
        }
    }

    /// Makes the topics of products that are new, and reads them too.
    async fn join_new(&mut self, stop: &CancellationToken) {
        let products = self.node.shelf.products();
        let missing: Vec<Arc<str>> = products
            .iter()
            .filter(|product| !self.made.contains(*product))
            .cloned()
            .collect();
        if !missing.is_empty() && self.make_after <= Instant::now() {
            let made = tokio::select! {
                () = stop.cancelled() => return,
                made = self.topics.ensure_inboxes(&missing) => made,
            };
            match made {
                Ok(()) => self.made.extend(missing),
                // They are read all the same: somebody else may make them.
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the topics of inboxes cannot be made"
                    );
                    self.make_after = Instant::now() + MAKING_REST;
                }
            }
        }
        if products.len() == self.products.len() {
            return;
        }
        let topic = |product: &Arc<str>| (self.topics.inbox(product), Arc::clone(product));
        self.products = products.iter().map(topic).collect();
        let names: Vec<String> = self.products.keys().cloned().collect();
        if let Some(member) = &self.member
            && let Err(error) = member.resubscribe(&names)
        {
            tracing::error!(%error, "a product's inbox cannot be joined");
        }
    }

    /// The next records, or none after a while. Cancelling it loses nothing.
    async fn records(&mut self) -> Vec<Record> {
        if self.products.is_empty() {
            return std::future::pending().await;
        }
        let member = match &mut self.member {
            Some(member) => member,
            None => {
                let options = GroupOptions {
                    group: self.topics.drainers(),
                    topics: self.products.keys().cloned().collect(),
                    start: StartAt::Committed { or_beginning: true },
                };
                match GroupMember::open(self.topics.settings(), &options) {
                    Ok(member) => self.member.insert(member),
                    Err(error) => {
                        tracing::error!(%error, "the inboxes' group cannot be joined");
                        tokio::time::sleep(REST).await;
                        return Vec::new();
                    }
                }
            }
        };
        match member.next_batch(BATCH, WAIT).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, "the member of the inboxes' group has ended; joining anew");
                self.member = None;
                tokio::time::sleep(REST).await;
                Vec::new()
            }
        }
    }

    async fn judge(&self, records: Vec<Record>) -> Option<Batch> {
        if records.is_empty() {
            return None;
        }
        metrics::counter!("quota_inbox_records_total").increment(records.len() as u64);
        Some(read::judge(&self.node, &self.products, records).await)
    }

    /// Commits what is settled. What cannot be committed now is with the next batch, or comes again and is known then.
    async fn commit(&mut self, next: Next) {
        self.next.extend(next);
        let Some(member) = &self.member else {
            return;
        };
        let offsets = self.next.iter();
        let offsets: Vec<(&str, i32, i64)> = offsets
            .map(|((topic, partition), next)| (&**topic, *partition, *next))
            .collect();
        match member.commit(&offsets).await {
            Ok(()) => self.next.clear(),
            Err(error) => tracing::debug!(%error, "committing the inboxes' offsets"),
        }
    }

    async fn close(self) {
        if let Some(member) = self.member {
            member.close().await;
        }
    }
}
