//! What can go wrong, sorted by what the caller can do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

/// An error that the broker or the client library reported, as text.
///
/// rdkafka's own error type stays inside this crate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BrokerError(String);

impl From<KafkaError> for BrokerError {
    fn from(error: KafkaError) -> Self {
        Self(error.to_string())
    }
}

impl From<RDKafkaErrorCode> for BrokerError {
    fn from(code: RDKafkaErrorCode) -> Self {
        Self(code.to_string())
    }
}

impl BrokerError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Why a topic could not be created, checked or read.
#[derive(Debug, Error)]
pub enum TopicError {
    /// The topic exists with another number of partitions. Never repaired by itself: subjects
    /// would move to other partitions.
    #[error("topic {topic} has {found} partitions, expected {expected}")]
    PartitionCount {
        /// The topic's name.
        topic: String,
        /// Partitions that were asked for.
        expected: i32,
        /// Partitions that the broker reports.
        found: i32,
    },
    /// The topic does not exist, and could not be created where that was asked for.
    #[error("topic {topic} is missing: {reason}")]
    Missing {
        /// The topic's name.
        topic: String,
        /// The broker's words.
        reason: BrokerError,
    },
    /// No answer within the time limit: the broker is away, or a partition has no leader. Try
    /// again later.
    #[error("the broker did not answer in time while {doing}")]
    Timeout {
        /// What was being done.
        doing: &'static str,
    },
    /// Any other refusal, also of the client's own settings.
    #[error("{doing} failed")]
    Broker {
        /// What was being done.
        doing: &'static str,
        /// The reason.
        source: BrokerError,
    },
}

/// Why a batch was not (wholly) published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The client could not be made from its settings.
    #[error("the producer could not be made")]
    Open(#[source] BrokerError),
    /// The record at `index` cannot be sent at all (too large, bad topic name). The records
    /// before it are acknowledged; it and those after it were not sent. The publisher goes on.
    #[error("record {index} was refused before it was sent")]
    Refused {
        /// Its place in the batch.
        index: usize,
        /// Whether it is too large, the one refusal that depends on the record alone.
        too_large: bool,
        /// The reason.
        source: BrokerError,
    },
    /// A record failed after it was queued. Which records of the batch are in the topic is
    /// unknown: drop the publisher, open another, and start from the topic's own tail.
    #[error("the line to {topic} [{partition}] is cut")]
    Cut {
        /// Topic of the first failed record; empty where the client as a whole failed.
        topic: String,
        /// Its partition, -1 where none was chosen yet.
        partition: i32,
        /// The reason.
        source: BrokerError,
    },
}

impl PublishError {
    /// Whether this publisher is of no further use: drop it, open another, and continue from
    /// what the topic really holds.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// Why a follower could not be opened or has stopped. A broker that is away is not among them.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The client could not be made from its settings.
    #[error("the consumer could not be made")]
    Open(#[source] BrokerError),
    /// Its thread is gone (a bug, or a fatal error of the library): open another.
    #[error("the consumer has stopped: {0}")]
    Stopped(BrokerError),
}

/// Why a group member could not be opened, has stopped, or could not commit.
#[derive(Debug, Error)]
pub enum GroupError {
    /// The client could not be made from its settings, or the subscription was refused.
    #[error("the group member could not be made")]
    Open(#[source] BrokerError),
    /// Its thread is gone (a bug, or a fatal error of the library): open another.
    #[error("the group member has stopped: {0}")]
    Stopped(BrokerError),
    /// The commit was refused, most often since a rebalance has begun. The records may come
    /// again, here or elsewhere.
    #[error("the offsets were not committed")]
    Commit(#[source] BrokerError),
    /// No answer to the commit within the time limit; whether it holds is unknown.
    #[error("the broker did not answer the commit in time")]
    CommitTimeout,
}
