//! The projectors' group: who is at which partition, and the records of those.

use crate::topics::Topics;
use quota_kafka::{GroupMember, GroupOptions, Record, StartAt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a projector that reaches no Kafka waits before it follows every partition from the ledger alone.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// The same for one that the group gives nothing: the topic may be gone, and the group finds a new one late. Where there
/// are more projectors than partitions this is work done twice, which the checkpoints make harmless.
const IDLE_AFTER: Duration = Duration::from_secs(15);
/// Records that are taken at once.
const BATCH: usize = 4_096;
/// How long one wait for records lasts.
const WAIT: Duration = Duration::from_millis(500);
/// The rest before another attempt to join the group.
const REST: Duration = Duration::from_secs(1);
/// How often offsets are committed: they serve dashboards alone.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// How long a commit may hold the projector up.
const COMMIT_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Group {
    topics: Topics,
    topic: String,
    all: BTreeSet<u32>,
    member: Option<GroupMember>,
    /// The change of the assignment that was seen last.
    epoch: u64,
    owned: BTreeSet<u32>,
    /// Since when there is no assignment.
    idle_since: Option<Instant>,
    /// The topic's next offsets, by partition, since the last commit.
    seen: BTreeMap<i32, i64>,
    committed_at: Instant,
}

impl Group {
    pub(super) fn new(topics: Topics, partitions: u32) -> Self {
        let now = Instant::now();
        Self {
            topic: topics.ledger(),
            topics,
            all: (0..partitions).collect(),
            member: None,
            epoch: 0,
            owned: BTreeSet::new(),
            idle_since: Some(now),
            seen: BTreeMap::new(),
            committed_at: now,
        }
    }

    /// The partitions of this projector: those that the group gave it, or all where it gave none for long.
    pub(super) fn partitions(&mut self) -> &BTreeSet<u32> {
        let connected = self.member.as_ref().is_some_and(GroupMember::is_connected);
        if let Some(member) = &self.member
            && member.epoch() != self.epoch
        {
            self.epoch = member.epoch();
            let assigned = member.assignment();
            self.owned = assigned
                .iter()
                .filter_map(|(_, partition)| u32::try_from(*partition).ok())
                .collect();
            self.seen.clear();
        }
        if !self.owned.is_empty() {
            self.idle_since = None;
            return &self.owned;
        }
        let patience = if connected { IDLE_AFTER } else { ALONE_AFTER };
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < patience {
            &self.owned
        } else {
            &self.all
        }
    }

    /// The next records, or none after a while, or where the assignment has changed. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Vec<Record> {
        let member = match &mut self.member {
            Some(member) => member,
            None => {
                let options = GroupOptions {
                    group: self.topics.projectors(),
                    topics: vec![self.topic.clone()],
                    start: StartAt::End,
                };
                match GroupMember::open(self.topics.settings(), &options) {
                    Ok(member) => self.member.insert(member),
                    Err(error) => {
                        tracing::error!(%error, "the projectors' group cannot be joined");
                        tokio::time::sleep(REST).await;
                        return Vec::new();
                    }
                }
            }
        };
        match member.next_batch(BATCH, WAIT).await {
            Ok(records) => {
                for record in &records {
                    self.seen.insert(record.partition, record.offset + 1);
                }
                records
            }
            Err(error) => {
                tracing::error!(%error, "the member of the projectors' group has ended; joining anew");
                self.member = None;
                self.owned.clear();
                tokio::time::sleep(REST).await;
                Vec::new()
            }
        }
    }

    /// Commits what was read, now and then. Nothing depends on it.
    pub(super) async fn commit(&mut self) {
        if self.seen.is_empty() || self.committed_at.elapsed() < COMMIT_EVERY {
            return;
        }
        self.committed_at = Instant::now();
        let seen = std::mem::take(&mut self.seen);
        if let Some(member) = self.member.as_ref().filter(|member| member.is_connected()) {
            let offsets: Vec<(&str, i32, i64)> = seen
                .iter()
                .map(|(partition, next)| (&*self.topic, *partition, *next))
                .collect();
            match tokio::time::timeout(COMMIT_LIMIT, member.commit(&offsets)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "committing the projector's offsets"),
                Err(_) => tracing::debug!("committing the projector's offsets took too long"),
            }
        }
    }

    /// Leaves the group.
    pub(super) async fn close(self) {
        if let Some(member) = self.member {
            member.close().await;
        }
    }
}
