//! A whole topic, from its first record to the end that it has now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::client::{Brief, CALL_LIMIT, Settings, check_topic_name};
use crate::error::{BrokerError, TopicError};
use crate::record::Record;
use crate::topic::{broker, finished, left_until, partitions_with_leader};

const DOING: &str = "reading a topic";

/// What `read` makes of each record of a topic, in order within each partition. Nothing for a topic that does not exist.
///
/// # Errors
/// [`TopicError::Timeout`] when the broker is silent for 10 seconds.
pub async fn scan<T: Send + 'static>(
    settings: &Settings,
    topic: &str,
    read: impl FnMut(&Record) -> Option<T> + Send + 'static,
) -> Result<Vec<T>, TopicError> {
    check_topic_name(topic).map_err(|source| TopicError::Broker {
        doing: DOING,
        source,
    })?;
    let mut config = settings.consumer_config(&format!("{}-scan", settings.client_id()));
    config
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest");
    let topic: Arc<str> = topic.into();
    let read = spawn_blocking(move || {
        let consumer: BaseConsumer<Brief> = config
            .create_with_context(Brief)
            .map_err(broker("making a client"))?;
        let outcome = all(&consumer, &topic, read);
        // Its destructor waits for the library's threads.
        std::thread::spawn(move || drop(consumer));
        outcome
    });
    finished(read.await)
}

fn all<T>(
    consumer: &BaseConsumer<Brief>,
    topic: &Arc<str>,
    mut read: impl FnMut(&Record) -> Option<T>,
) -> Result<Vec<T>, TopicError> {
    let mut found = Vec::new();
    let Some(partitions) = partitions_with_leader(consumer, topic, CALL_LIMIT)? else {
        return Ok(found);
    };
    if partitions == 0 {
        let source = BrokerError::new("a partition has no leader".to_owned());
        return Err(TopicError::Broker {
            doing: DOING,
            source,
        });
    }
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(broker(DOING))?;
    }
    consumer.assign(&list).map_err(broker(DOING))?;
    let mut open: BTreeSet<i32> = (0..partitions).collect();
    let mut deadline = Instant::now() + CALL_LIMIT;
    while !open.is_empty() {
        let left = left_until(deadline, DOING)?;
        match consumer.poll(left.min(Duration::from_millis(100))) {
            None => {}
            Some(Ok(message)) => {
                found.extend(read(&Record::read(topic.clone(), &message)));
                deadline = Instant::now() + CALL_LIMIT;
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            // The library retries by itself; the deadline bounds it.
            Some(Err(error)) => tracing::debug!(%error, %topic, "{DOING}"),
        }
    }
    Ok(found)
}
