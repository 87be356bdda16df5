//! Topics: creating and checking them.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::task::spawn_blocking;

use crate::client::{Brief, CALL_LIMIT, Settings, check_topic_name, code_of};
use crate::error::{BrokerError, TopicError};

pub use crate::tails::tails;

/// Records get the broker's time. With the sender's, which is the default, a broker refuses those of
/// a sender whose clock is more than an hour ahead, and that sender would stop the topic.
const TIMES: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

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

/// Creates the topics that are missing, with the broker's default replication,
/// `cleanup.policy=delete` and the broker's times, and checks the number of partitions of those that exist. Repeating
/// it changes nothing. Not for [`crate::EmbeddedBroker`], which has no admin API.
///
/// # Errors
/// [`TopicError::PartitionCount`] for a topic of another size, [`TopicError::Missing`] where one
/// is absent and may not be created, [`TopicError::Timeout`] after about 20 seconds.
pub async fn ensure(settings: &Settings, topics: &[TopicSpec]) -> Result<(), TopicError> {
    let admin: AdminClient<Brief> = settings
        .client_config()
        .create_with_context(Brief)
        .map_err(broker("making a client"))?;
    let refused = create(&admin, topics).await?;
    let (config, specs) = (settings.client_config(), topics.to_vec());
    let checked = spawn_blocking(move || {
        let consumer = config
            .create_with_context(Brief)
            .map_err(broker("making a client"))?;
        let deadline = Instant::now() + CALL_LIMIT;
        for topic in &specs {
            let reason = refused.iter().find(|(name, _)| *name == topic.name);
            check(&consumer, topic, reason.map(|(_, reason)| reason), deadline)?;
        }
        Ok(())
    });
    finished(checked.await)?;
    warn_of_settings(&admin, topics).await;
    // Its destructor joins a thread.
    spawn_blocking(move || drop(admin));
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(CALL_LIMIT))
        .operation_timeout(Some(CALL_LIMIT))
}

/// Tries to create all of them; the answer lists those that the broker refused, and why.
async fn create(
    admin: &AdminClient<Brief>,
    topics: &[TopicSpec],
) -> Result<Vec<(String, BrokerError)>, TopicError> {
    let mut wanted = Vec::with_capacity(topics.len());
    for topic in topics {
        check_topic_name(&topic.name).map_err(|source| TopicError::Broker {
            doing: "creating topics",
            source,
        })?;
        let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "delete")
            .set(TIMES.0, TIMES.1);
        wanted.push(if topic.retention_forever {
            new.set("retention.ms", "-1")
        } else {
            new
        });
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let outcome = admin.create_topics(&wanted, &options()).await;
    let results = outcome.map_err(broker("creating topics"))?;
    let refused = results.into_iter().filter_map(|result| match result {
        Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
        Err((name, code)) => Some((name, code.into())),
    });
    Ok(refused.collect())
}

/// Says so where a topic that should be kept for ever is not, or has its senders' times. That is the
/// operator's choice, but hardly this one's on purpose.
async fn warn_of_settings(admin: &AdminClient<Brief>, topics: &[TopicSpec]) {
    let kept = topics.iter().filter(|topic| topic.retention_forever);
    let kept: Vec<_> = kept
        .map(|topic| ResourceSpecifier::Topic(&topic.name))
        .collect();
    if kept.is_empty() {
        return;
    }
    // Who may not read a topic's settings goes without the warning.
    let found = admin
        .describe_configs(&kept, &options())
        .await
        .unwrap_or_default();
    for resource in found.into_iter().flatten() {
        let expected = [
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("cleanup.policy", "delete"),
            TIMES,
        ];
        for (name, wanted) in expected {
            let value = resource.get(name).and_then(|entry| entry.value.as_deref());
            if value.is_some_and(|value| value != wanted) {
                let topic = &resource.specifier;
                tracing::warn!(
                    ?topic,
                    name,
                    value,
                    wanted,
                    "a kafka topic is not set as it should be"
                );
            }
        }
    }
}

/// Whether the brokers are the embedded one of some process, which forgets what it was told long ago.
///
/// # Errors
/// [`TopicError::Timeout`] when nobody answers within 10 seconds.
pub async fn forgets(settings: &Settings) -> Result<bool, TopicError> {
    let config = settings.client_config();
    let asked = spawn_blocking(move || {
        let consumer: BaseConsumer<Brief> = config
            .create_with_context(Brief)
            .map_err(broker("making a client"))?;
        let id = consumer.client().fetch_cluster_id(CALL_LIMIT);
        std::thread::spawn(move || drop(consumer));
        // The library's own name for it.
        id.map(|id| id.starts_with("mockCluster"))
            .ok_or(TopicError::Timeout {
                doing: "asking for the cluster",
            })
    });
    finished(asked.await)
}

/// Waits until the topic is known with a leader for each partition, and compares its size.
fn check(
    consumer: &BaseConsumer<Brief>,
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
pub(crate) fn partitions_with_leader(
    consumer: &BaseConsumer<Brief>,
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

pub(crate) fn left_until(deadline: Instant, doing: &'static str) -> Result<Duration, TopicError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(TopicError::Timeout { doing })
    } else {
        Ok(left)
    }
}

pub(crate) fn broker(doing: &'static str) -> impl Fn(KafkaError) -> TopicError {
    move |error| match code_of(&error) {
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
pub(crate) fn finished<T>(
    joined: Result<Result<T, TopicError>, tokio::task::JoinError>,
) -> Result<T, TopicError> {
    joined.unwrap_or_else(|error| {
        Err(TopicError::Broker {
            doing: "waiting for the client",
            source: BrokerError::new(error.to_string()),
        })
    })
}
