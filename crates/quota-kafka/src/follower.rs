//! Reads given partitions of a topic from their end on, in no group.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::buffer::{Shared, TakeUp};
use crate::client::{Link, Settings, check_topic_name};
use crate::consumer::{self, Context};
use crate::error::{BrokerError, FollowError};
use crate::record::Record;

/// How long `open` waits for the broker before it goes on without.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long one attempt to find the ends may take, and the rest between two.
const ATTEMPT: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_millis(200);

/// Reads partitions from their end on: nothing is committed, every follower sees everything.
///
/// It outlives any outage of the broker and goes on where it was. Where the topic itself went
/// back or lost records (trimmed, recreated), it goes on at the end. In both cases, as at the
/// start, the reader must get what is missing from elsewhere.
pub struct Follower {
    shared: Arc<Shared>,
}

impl Follower {
    /// Starts at the present end of the given partitions: records that are published after this
    /// returns are read. If the broker is away, this returns after 5 seconds and the follower
    /// joins at the end that it finds later ([`Follower::is_connected`]).
    ///
    /// # Errors
    /// [`FollowError::Open`] where the library refuses the settings or the topic's name.
    pub async fn open(
        settings: &Settings,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Self, FollowError> {
        check_topic_name(topic).map_err(FollowError::Open)?;
        // The library wants a group's name even of consumers that are in none.
        let mut config = settings.consumer_config(&format!("{}-follower", settings.client_id()));
        config.set("auto.offset.reset", "latest");
        let shared = Shared::new(Link::new(settings, "follower"), TakeUp::ByHand);
        let follower = Self {
            shared: shared.clone(),
        };
        let (joined, wait) = oneshot::channel();
        let start = Start {
            shared: shared.clone(),
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
        };
        let begin = move |consumer: &BaseConsumer<Context>| {
            start.join(consumer)?;
            let _ = joined.send(());
            Ok(())
        };
        consumer::spawn(&config, &shared, begin).map_err(FollowError::Open)?;
        let _ = timeout(JOIN_LIMIT, wait).await;
        Ok(follower)
    }

    /// Up to `max` records, in order within each partition, as soon as there is one; none when
    /// `wait` is over. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`FollowError::Stopped`] where the library met a fatal error; an outage is none.
    pub async fn next_batch(
        &mut self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, FollowError> {
        self.shared
            .next_batch(max, wait)
            .await
            .map_err(FollowError::Stopped)
    }

    /// Whether the broker was reached lately. Best effort, and slow to notice a silent death.
    pub fn is_connected(&self) -> bool {
        self.shared.link.is_up()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("connected", &self.is_connected())
            .finish()
    }
}

/// What the reading thread needs to begin.
struct Start {
    shared: Arc<Shared>,
    topic: String,
    partitions: Vec<i32>,
}

impl Start {
    /// Finds the ends and assigns exactly those, trying until it succeeds or is told to stop.
    /// (The library's own "end" is looked up some time after the assignment.)
    fn join(&self, consumer: &BaseConsumer<Context>) -> Result<(), BrokerError> {
        while !self.shared.stopping() {
            let mut list = TopicPartitionList::with_capacity(self.partitions.len());
            for partition in &self.partitions {
                list.add_partition_offset(&self.topic, *partition, Offset::End)?;
            }
            let ends = consumer.offsets_for_times(list, ATTEMPT);
            let found = ends.and_then(|list| {
                list.elements()
                    .iter()
                    .try_for_each(|element| element.error())?;
                Ok(list)
            });
            match found {
                Ok(list) => {
                    self.shared.link.set_up();
                    return Ok(consumer.assign(&list)?);
                }
                Err(error) => {
                    self.shared.link.set_down(&error.to_string());
                    // Serves the library's events meanwhile; there is nothing to read yet.
                    let _ = consumer.poll(REST);
                }
            }
        }
        Ok(())
    }
}
