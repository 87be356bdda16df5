//! The last record of each partition of a topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::client::{Brief, CALL_LIMIT, Settings, check_topic_name, code_of};
use crate::error::TopicError;
use crate::record::Record;
use crate::topic::{broker, finished, left_until};

/// The last record of each of the partitions `0..partitions`, `None` where there is none.
///
/// Records of aborted transactions and control records are stepped over.
///
/// # Errors
/// [`TopicError::Missing`] where topic or partition does not exist, [`TopicError::Timeout`]
/// after 10 seconds.
pub async fn tails(
    settings: &Settings,
    topic: &str,
    partitions: i32,
) -> Result<Vec<Option<Record>>, TopicError> {
    check_topic_name(topic).map_err(|source| TopicError::Broker {
        doing: "reading tails",
        source,
    })?;
    let mut config = settings.consumer_config(&format!("{}-tails", settings.client_id()));
    config
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.min.messages", "1000")
        .set("fetch.wait.max.ms", "10");
    let topic: Arc<str> = topic.into();
    let read = spawn_blocking(move || {
        let consumer: BaseConsumer<Brief> = config
            .create_with_context(Brief)
            .map_err(broker("making a client"))?;
        let tails = Tails {
            consumer: &consumer,
            topic,
            deadline: Instant::now() + CALL_LIMIT,
        };
        let outcome = tails.read(partitions);
        // Its destructor waits for the library's threads.
        std::thread::spawn(move || drop(consumer));
        outcome
    });
    finished(read.await)
}

/// One reading of tails.
struct Tails<'a> {
    consumer: &'a BaseConsumer<Brief>,
    topic: Arc<str>,
    deadline: Instant,
}

/// How far a partition's tail has been searched.
struct Search {
    partition: i32,
    low: i64,
    /// Everything from here on has been read.
    from: i64,
    /// How far to step back next.
    step: i64,
    found: Option<Record>,
    at_end: bool,
}

impl Tails<'_> {
    fn read(&self, partitions: i32) -> Result<Vec<Option<Record>>, TopicError> {
        let lows = self.bounds_in_time(partitions, Offset::Beginning)?;
        let highs = self.bounds_in_time(partitions, Offset::End)?;
        let mut searches: Vec<Search> = (0..partitions)
            .zip(lows.into_iter().zip(highs))
            .map(|(partition, (low, high))| Search {
                partition,
                low,
                from: high,
                step: 1,
                found: None,
                at_end: false,
            })
            .collect();
        loop {
            let mut open: Vec<&mut Search> = searches
                .iter_mut()
                .filter(|search| search.found.is_none() && search.from > search.low)
                .collect();
            if open.is_empty() {
                return Ok(searches.into_iter().map(|search| search.found).collect());
            }
            self.step_back(&mut open)?;
        }
    }

    /// The same as `bounds`, trying again while leaders are changing.
    fn bounds_in_time(&self, partitions: i32, which: Offset) -> Result<Vec<i64>, TopicError> {
        loop {
            match self.bounds(partitions, which) {
                Err(TopicError::Broker { source, .. }) => {
                    tracing::debug!(reason = %source, topic = %self.topic, "reading tails");
                    std::thread::sleep(Duration::from_millis(50));
                }
                outcome => return outcome,
            }
        }
    }

    /// First or next offsets of all partitions, in one request.
    fn bounds(&self, partitions: i32, which: Offset) -> Result<Vec<i64>, TopicError> {
        let mut list = TopicPartitionList::with_capacity(partitions.max(0) as usize);
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition, which)
                .map_err(broker("reading tails"))?;
        }
        let left = left_until(self.deadline, "reading tails")?;
        let list = self
            .consumer
            .offsets_for_times(list, left)
            .map_err(|error| self.told(&error))?;
        let mut offsets = Vec::with_capacity(list.count());
        for element in list.elements() {
            element.error().map_err(|error| self.told(&error))?;
            offsets.push((
                element.partition(),
                element.offset().to_raw().unwrap_or(0).max(0),
            ));
        }
        offsets.sort_unstable();
        Ok(offsets.into_iter().map(|(_, offset)| offset).collect())
    }

    /// Reads each open partition from a little further back up to its end.
    fn step_back(&self, open: &mut [&mut Search]) -> Result<(), TopicError> {
        let mut list = TopicPartitionList::with_capacity(open.len());
        for search in open.iter_mut() {
            search.from = (search.from - search.step).max(search.low);
            search.step = (search.step * 8).min(10_000);
            search.at_end = false;
            list.add_partition_offset(&self.topic, search.partition, Offset::Offset(search.from))
                .map_err(broker("reading tails"))?;
        }
        self.consumer
            .assign(&list)
            .map_err(broker("reading tails"))?;
        while open.iter().any(|search| !search.at_end) {
            let left = left_until(self.deadline, "reading tails")?;
            match self.consumer.poll(left.min(Duration::from_millis(100))) {
                None => {}
                Some(Ok(message)) => {
                    let record = Record::read(self.topic.clone(), &message);
                    if let Some(search) = of_partition(open, record.partition) {
                        search.found = Some(record);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some(search) = of_partition(open, partition) {
                        search.at_end = true;
                    }
                }
                // The library retries by itself; the deadline bounds it.
                Some(Err(error)) => tracing::debug!(%error, topic = %self.topic, "reading tails"),
            }
        }
        Ok(())
    }

    fn told(&self, error: &KafkaError) -> TopicError {
        match code_of(error) {
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => TopicError::Missing {
                topic: self.topic.to_string(),
                reason: error.clone().into(),
            },
            _ => broker("reading tails")(error.clone()),
        }
    }
}

fn of_partition<'a>(open: &'a mut [&mut Search], partition: i32) -> Option<&'a mut Search> {
    open.iter_mut()
        .find(|search| search.partition == partition)
        .map(|search| &mut **search)
}
