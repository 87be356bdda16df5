//! Kafka for the quota ledger: topics, one ordered publisher, and two ways to read.
//!
//! This crate is the only user of rdkafka. It moves raw records and knows nothing of what is in
//! them; what a gap, a duplicate or a bad record means is its callers' business.
//!
//! - [`topic`] creates topics and reads the last record of every partition.
//! - [`Publisher`] sends batches in order and waits until every record is acknowledged.
//! - [`Follower`] reads given partitions from their end, in no group: every node sees everything.
//! - [`GroupMember`] reads the partitions that a consumer group gives it.
//! - [`Reading`] reads partitions once, from an offset to their present end.
//! - [`EmbeddedBroker`] is a broker inside this process, for `dev` and for tests.
//!
//! Every call has a time limit, and no destructor blocks: the clients that rdkafka tears down
//! slowly are torn down on threads of their own. A broker that is away is no error for a reader,
//! which goes on when it is back.
//!
//! The program must be built with unwinding panics (the default): rdkafka panics on a header
//! name that is not UTF-8, which any producer can send, and this crate catches that.

mod buffer;
mod client;
mod consumer;
mod embedded;
mod error;
mod follower;
mod group;
mod publisher;
mod reading;
mod record;
mod tails;
pub mod topic;

pub use client::Settings;
pub use embedded::EmbeddedBroker;
pub use error::{BrokerError, FollowError, GroupError, PublishError, TopicError};
pub use follower::Follower;
pub use group::{GroupMember, GroupOptions, StartAt};
pub use publisher::{Publisher, PublisherOptions};
pub use reading::{Chunk, From, Reading};
pub use record::{Headers, Outgoing, Record};
pub use topic::TopicSpec;
