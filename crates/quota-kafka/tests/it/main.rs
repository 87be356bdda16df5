//! quota-kafka against brokers: the embedded one always, a real Apache Kafka where
//! `TEST_KAFKA_BROKERS` names one (`host:port`). With `QUOTA_TEST_REQUIRE_REAL=1` a missing one
//! is a failure, not a skip. Tests that stop and kill a broker start one of their own with
//! `scripts/kafka`, in the same runs.
#![allow(
    clippy::indexing_slicing,
    reason = "a test that reads past the end fails, as it should"
)]

mod follow;
mod group;
mod outage;
mod publish;
mod raw;
mod support;
mod topics;
