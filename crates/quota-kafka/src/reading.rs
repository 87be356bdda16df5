//! Partitions of a topic, read from an offset of theirs to the end that they have now, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::client::{Brief, CALL_LIMIT, Settings, check_topic_name};
use crate::error::{BrokerError, TopicError};
use crate::record::Record;
use crate::topic::{broker, left_until, partitions_with_leader};

const DOING: &str = "reading a topic";
/// Records that are handed over at once, and how often that may be done ahead of whoever takes them.
const BATCH: usize = 500;
const AHEAD: usize = 4;

/// Where reading a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At that offset of the topic's own; one that it does not have stands for its first.
    Offset(i64),
    /// At the first record of that time or after it, in milliseconds since 1970.
    Time(i64),
}

/// A part of a partition.
#[derive(Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: i32,
    /// Its next records, in order.
    pub records: Vec<Record>,
    /// Whether these are the last that it has now.
    pub ends: bool,
}

/// Partitions that are being read. However large they are, few records are in memory at once.
#[derive(Debug)]
pub struct Reading {
    chunks: mpsc::Receiver<Result<Chunk, TopicError>>,
}

impl Reading {
    /// Reads these partitions in this order. A partition or topic that is not there is empty.
    #[must_use]
    pub fn begin(settings: &Settings, topic: &str, starts: Vec<(i32, From)>) -> Self {
        let (sender, chunks) = mpsc::channel(AHEAD);
        let (settings, topic) = (settings.clone(), topic.to_owned());
        spawn_blocking(move || {
            if let Err(error) = read(&settings, &topic, starts, &sender) {
                sender.blocking_send(Err(error)).ok();
            }
        });
        Self { chunks }
    }

    /// The next part; none after the last partition's end.
    ///
    /// # Errors
    /// [`TopicError::Timeout`] when the broker is silent for 10 seconds.
    pub async fn next(&mut self) -> Result<Option<Chunk>, TopicError> {
        self.chunks.recv().await.transpose()
    }
}

type Taker = mpsc::Sender<Result<Chunk, TopicError>>;

fn read(
    settings: &Settings,
    topic: &str,
    starts: Vec<(i32, From)>,
    taker: &Taker,
) -> Result<(), TopicError> {
    check_topic_name(topic).map_err(|source| TopicError::Broker {
        doing: DOING,
        source,
    })?;
    let mut config = settings.consumer_config(&format!("{}-reading", settings.client_id()));
    config
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.min.messages", "2000")
        .set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer<Brief> = config
        .create_with_context(Brief)
        .map_err(broker("making a client"))?;
    let there = match partitions_with_leader(&consumer, topic, CALL_LIMIT)? {
        Some(0) => {
            let source = BrokerError::new("a partition has no leader".to_owned());
            return Err(TopicError::Broker {
                doing: DOING,
                source,
            });
        }
        found => found.unwrap_or(0),
    };
    let topic: Arc<str> = topic.into();
    let mut outcome = Ok(true);
    for (partition, from) in starts {
        outcome = if partition < there {
            one(&consumer, &topic, partition, from, taker)
        } else {
            Ok(hand_over(taker, partition, Vec::new(), true))
        };
        if !matches!(outcome, Ok(true)) {
            break;
        }
    }
    // Its destructor waits for the library's threads.
    std::thread::spawn(move || drop(consumer));
    outcome.map(drop)
}

/// Reads a partition to its end; false when nobody takes it.
fn one(
    consumer: &BaseConsumer<Brief>,
    topic: &Arc<str>,
    partition: i32,
    from: From,
    taker: &Taker,
) -> Result<bool, TopicError> {
    let from = match from {
        From::Offset(offset) => Offset::Offset(offset.max(0)),
        From::Time(at) => first_since(consumer, topic, partition, at)?,
    };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, from)
        .map_err(broker(DOING))?;
    consumer.assign(&list).map_err(broker(DOING))?;
    let mut records = Vec::new();
    let mut deadline = Instant::now() + CALL_LIMIT;
    loop {
        let left = left_until(deadline, DOING)?;
        match consumer.poll(left.min(Duration::from_millis(100))) {
            None => {}
            Some(Ok(message)) => {
                let record = Record::read(topic.clone(), &message);
                // What was fetched for the partition before this one may still be on its way.
                if record.partition == partition {
                    records.push(record);
                }
                if records.len() >= BATCH {
                    let full = std::mem::take(&mut records);
                    if !hand_over(taker, partition, full, false) {
                        return Ok(false);
                    }
                }
                deadline = Instant::now() + CALL_LIMIT;
            }
            Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => {
                return Ok(hand_over(taker, partition, records, true));
            }
            // The library retries by itself; the deadline bounds it.
            Some(Err(error)) => tracing::debug!(%error, %topic, "{DOING}"),
        }
    }
}

/// Where the first record of a time or after it is; the end where there is none.
fn first_since(
    consumer: &BaseConsumer<Brief>,
    topic: &str,
    partition: i32,
    at: i64,
) -> Result<Offset, TopicError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(at.max(0)))
        .map_err(broker(DOING))?;
    let found = consumer
        .offsets_for_times(list, CALL_LIMIT)
        .map_err(broker(DOING))?;
    let found = found.find_partition(topic, partition);
    Ok(found.map_or(Offset::End, |element| element.offset()))
}

fn hand_over(taker: &Taker, partition: i32, records: Vec<Record>, ends: bool) -> bool {
    let chunk = Chunk {
        partition,
        records,
        ends,
    };
    taker.blocking_send(Ok(chunk)).is_ok()
}
