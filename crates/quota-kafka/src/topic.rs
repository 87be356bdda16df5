//! Topics: creating them, checking them, and the last record of each partition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::spawn_blocking;

use crate::client::{CALL_LIMIT, Settings, check_topic_name};
use crate::error::{BrokerError, TopicError};
use crate::record::Record;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its number of partitions, fixed for ever.
    pub partitions: i32,
    /// Whether its records are kept for ever (`retention.ms=-1`); otherwise the broker's default
    /// holds.
    pub retention_forever: bool,
}

impl TopicSpec {
    /// A topic whose records the broker drops in its own time.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            retention_forever: false,
        }
    }

    /// Keeps its records for ever.
    #[must_use]
    pub fn kept_forever(mut self) -> Self {
        self.retention_forever = true;
        self
    }
}

/// Creates the topics that are missing, with the broker's default replication and
/// `cleanup.policy=delete`, and checks the number of partitions of those that exist. Repeating
/// it changes nothing. Not for [`crate::EmbeddedBroker`], which has no admin API.
///
/// # Errors
/// [`TopicError::PartitionCount`] for a topic of another size, [`TopicError::Missing`] where one
/// is absent and may not be created, [`TopicError::Timeout`] after about 20 seconds.
pub async fn ensure(settings: &Settings, topics: &[TopicSpec]) -> Result<(), TopicError> {
    let refused = create(settings, topics).await?;
    let config = settings.consumer_config(&format!("{}-admin", settings.client_id()));
    let topics = topics.to_vec();
    let checked = spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().map_err(broker("making a client"))?;
        let deadline = Instant::now() + CALL_LIMIT;
        for topic in &topics {
            let reason = refused.iter().find(|(name, _)| *name == topic.name);
            check(&consumer, topic, reason.map(|(_, reason)| reason), deadline)?;
        }
        Ok(())
    });
    finished(checked.await)
}

/// Tries to create all of them; the answer lists those that the broker refused, and why.
async fn create(
    settings: &Settings,
    topics: &[TopicSpec],
) -> Result<Vec<(String, BrokerError)>, TopicError> {
    let mut wanted = Vec::with_capacity(topics.len());
    for topic in topics {
        check_topic_name(&topic.name).map_err(|source| TopicError::Broker {
            doing: "creating topics",
            source,
        })?;
        let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "delete");
        wanted.push(if topic.retention_forever {
            new.set("retention.ms", "-1")
        } else {
            new
        });
    }
    let admin: AdminClient<DefaultClientContext> = settings
        .client_config()
        .create()
        .map_err(broker("making a client"))?;
    let options = AdminOptions::new()
        .request_timeout(Some(CALL_LIMIT))
        .operation_timeout(Some(CALL_LIMIT));
    let outcome = admin.create_topics(&wanted, &options).await;
    // Its destructor joins a thread.
    spawn_blocking(move || drop(admin));
    let results = outcome.map_err(broker("creating topics"))?;
    let refused = results.into_iter().filter_map(|result| match result {
        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
        Err((name, code)) => Some((name, code.into())),
    });
    Ok(refused.collect())
}

/// Waits until the topic is known with a leader for each partition, and compares its size.
fn check(
    consumer: &BaseConsumer,
    topic: &TopicSpec,
    refused: Option<&BrokerError>,
    deadline: Instant,
) -> Result<(), TopicError> {
    loop {
        let left = left_until(deadline, "checking topics")?;
        match partitions_with_leader(consumer, &topic.name, left)? {
            Some(found) if found == topic.partitions => return Ok(()),
            Some(found) if found > 0 => {
                return Err(TopicError::PartitionCount {
                    topic: topic.name.clone(),
                    expected: topic.partitions,
                    found,
                });
            }
            None if refused.is_some() => {
                let reason = refused.cloned().unwrap_or_else(|| BrokerError::new(""));
                return Err(TopicError::Missing {
                    topic: topic.name.clone(),
                    reason,
                });
            }
            // Created a moment ago: not every broker knows it yet.
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The topic's number of partitions; `None` if it does not exist, 0 while one has no leader.
fn partitions_with_leader(
    consumer: &BaseConsumer,
    topic: &str,
    limit: Duration,
) -> Result<Option<i32>, TopicError> {
    let metadata = consumer
        .fetch_metadata(Some(topic), limit)
        .map_err(broker("checking topics"))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    if found.error().is_some() || found.partitions().is_empty() {
        return Ok(None);
    }
    if found
        .partitions()
        .iter()
        .any(|partition| partition.leader() < 0)
    {
        return Ok(Some(0));
    }
    Ok(Some(
        i32::try_from(found.partitions().len()).unwrap_or(i32::MAX),
    ))
}

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
        let consumer: BaseConsumer = config.create().map_err(broker("making a client"))?;
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
    consumer: &'a BaseConsumer,
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
        let lows = self.bounds(partitions, Offset::Beginning)?;
        let highs = self.bounds(partitions, Offset::End)?;
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
        match error.rdkafka_error_code() {
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

fn left_until(deadline: Instant, doing: &'static str) -> Result<Duration, TopicError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(TopicError::Timeout { doing })
    } else {
        Ok(left)
    }
}

fn broker(doing: &'static str) -> impl Fn(KafkaError) -> TopicError {
    move |error| match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown,
        ) => TopicError::Timeout { doing },
        _ => TopicError::Broker {
            doing,
            source: error.into(),
        },
    }
}

/// The outcome of a blocking task, a panic of which is an error like any other.
fn finished<T>(
    joined: Result<Result<T, TopicError>, tokio::task::JoinError>,
) -> Result<T, TopicError> {
    joined.unwrap_or_else(|error| {
        Err(TopicError::Broker {
            doing: "waiting for the client",
            source: BrokerError::new(error.to_string()),
        })
    })
}
