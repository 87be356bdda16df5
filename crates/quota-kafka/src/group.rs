//! Reads the partitions that a consumer group gives to this member.

use std::fmt;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::buffer::{Shared, TakeUp};
use crate::client::{CALL_LIMIT, Link, Settings, check_topic_name};
use crate::consumer::{self, Context};
use crate::error::{BrokerError, GroupError};
use crate::record::Record;

/// Where a partition is taken up that this member did not have just before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At its end: for readers that get what lies before from elsewhere. Across a rebalance that
    /// leaves a partition with this member, reading goes on after the last record given out.
    End,
    /// At the offset that the group committed: for readers that must not miss a record. What was
    /// given out but not committed comes again, after any rebalance.
    Committed {
        /// Where to begin in a partition without a committed offset, or where the committed one
        /// is no longer there: at the beginning, or else at the end.
        or_beginning: bool,
    },
}

/// Which group to join, and what to read there.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// The group's name.
    pub group: String,
    /// The topics; those that do not exist yet are joined within about 10 seconds of their
    /// creation.
    pub topics: Vec<String>,
    /// Where to begin.
    pub start: StartAt,
}

/// A member of a consumer group (classic protocol, range assignment).
///
/// It keeps its membership while the application is busy or stuck. Partitions come and go with
/// rebalances; records of a partition that was taken away are never given out afterwards, but a
/// batch given out before may still be in work when another member gets its partitions.
pub struct GroupMember {
    shared: Arc<Shared>,
    consumer: Weak<BaseConsumer<Context>>,
    ended: oneshot::Receiver<()>,
    /// Held by the commit in progress, so that an outage does not pile up blocked threads.
    committing: Arc<Semaphore>,
}

impl GroupMember {
    /// Joins the group. Does not wait for the broker; until there is an assignment,
    /// [`GroupMember::next_batch`] gives nothing.
    ///
    /// # Errors
    /// [`GroupError::Open`] where the library refuses the settings, or a topic's name is illegal.
    pub fn open(settings: &Settings, options: &GroupOptions) -> Result<Self, GroupError> {
        check_topics(&options.topics)?;
        let (take_up, reset) = match options.start {
            StartAt::End => (TakeUp::End, "latest"),
            StartAt::Committed { or_beginning: true } => (TakeUp::Committed, "earliest"),
            StartAt::Committed {
                or_beginning: false,
            } => (TakeUp::Committed, "latest"),
        };
        let mut config = settings.consumer_config(&options.group);
        config
            .set("partition.assignment.strategy", "range")
            .set("auto.offset.reset", reset)
            // Also how long a rebalance waits for a member that does not poll; the thread does.
            .set("max.poll.interval.ms", "60000");
        let shared = Shared::new(Link::new(settings, "group member"), take_up);
        shared.subscribe(options.topics.clone());
        let (consumer, ended) =
            consumer::spawn(&config, &shared, |_| Ok(())).map_err(GroupError::Open)?;
        let committing = Arc::new(Semaphore::new(1));
        Ok(Self {
            shared,
            consumer: Arc::downgrade(&consumer),
            ended,
            committing,
        })
    }

    /// Up to `max` records, in order within each partition, as soon as there is one; none when
    /// `wait` is over or when the assignment has changed. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`GroupError::Stopped`] where the library met a fatal error; an outage is none.
    pub async fn next_batch(
        &mut self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, GroupError> {
        self.shared
            .next_batch(max, wait)
            .await
            .map_err(GroupError::Stopped)
    }

    /// The partitions that this member has now, sorted. It can change at any time, and is empty
    /// for a moment in each rebalance. While the group cannot be reached it stays what it was,
    /// though others may have got these partitions meanwhile.
    pub fn assignment(&self) -> Vec<(Arc<str>, i32)> {
        self.shared.assignment()
    }

    /// A number that grows with each change of the assignment.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch()
    }

    /// Commits for each partition the offset of the next record to read, and waits for the
    /// broker. Partitions that this member has no more are left out.
    ///
    /// # Errors
    /// [`GroupError::Commit`] or [`GroupError::CommitTimeout`]; the records then come again at
    /// the latest after a restart. [`GroupError::Stopped`] after a fatal error.
    pub async fn commit(&self, offsets: &[(&str, i32, i64)]) -> Result<(), GroupError> {
        let mine = self.shared.assignment();
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (topic, partition, next) in offsets {
            if mine
                .iter()
                .any(|(name, number)| &**name == *topic && number == partition)
            {
                list.add_partition_offset(topic, *partition, Offset::Offset(*next))
                    .map_err(|error| GroupError::Commit(error.into()))?;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let consumer = self.consumer.upgrade();
        let consumer = consumer.ok_or_else(|| GroupError::Stopped(BrokerError::new("it ended")))?;
        let turn = self.committing.clone();
        let committing = async move {
            let turn = turn.acquire_owned().await;
            let (told, outcome) = oneshot::channel();
            // Not the runtime's own threads: its end would wait for them.
            thread::Builder::new()
                .name("kafka-commit".into())
                .spawn(move || {
                    let _ = told.send(consumer.commit(&list, CommitMode::Sync));
                    drop(turn);
                })?;
            Ok::<_, std::io::Error>(outcome.await)
        };
        match timeout(CALL_LIMIT, committing).await {
            Ok(Ok(Ok(outcome))) => outcome.map_err(|error| GroupError::Commit(error.into())),
            Ok(Ok(Err(_))) => Err(GroupError::Commit(BrokerError::new("its thread died"))),
            Ok(Err(error)) => Err(GroupError::Commit(BrokerError::new(error.to_string()))),
            Err(_) => Err(GroupError::CommitTimeout),
        }
    }

    /// Reads these topics from now on, instead of those named before. Takes effect within a
    /// moment, by a rebalance of the whole group.
    ///
    /// # Errors
    /// [`GroupError::Open`] where a topic's name is illegal.
    pub fn resubscribe(&self, topics: &[String]) -> Result<(), GroupError> {
        check_topics(topics)?;
        self.shared.subscribe(topics.to_vec());
        Ok(())
    }

    /// Whether the broker was reached lately. Best effort, and slow to notice a silent death.
    pub fn is_connected(&self) -> bool {
        self.shared.link.is_up()
    }

    /// Leaves the group, so that others get the partitions at once, and waits until that is
    /// done, at most 5 seconds. (Dropping it leaves too, without waiting.)
    pub async fn close(mut self) {
        self.shared.stop();
        let _ = timeout(Duration::from_secs(5), &mut self.ended).await;
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupMember")
            .field("assignment", &self.assignment())
            .finish()
    }
}

fn check_topics(topics: &[String]) -> Result<(), GroupError> {
    topics
        .iter()
        .try_for_each(|topic| check_topic_name(topic))
        .map_err(GroupError::Open)
}
