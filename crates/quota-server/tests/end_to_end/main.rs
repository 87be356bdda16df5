//! The built program as its clients and operators meet it: real processes on a real PostgreSQL and a real Apache Kafka.
//!
//! `TEST_DATABASE_URL` names the PostgreSQL; each test makes a database of its own on it. The names of the ledger's
//! topics are fixed, so each test that needs a Kafka starts its own with `scripts/kafka`, and may stop and kill it.
//! Nothing here asserts speed: what takes a moment is waited for, up to a limit far above what a busy machine needs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "tests fail by panicking"
)]

mod abuse;
mod auditing;
mod client;
mod command_line;
mod crash;
mod crowd;
mod dev;
mod disaster;
mod drain;
mod gateways;
mod importing;
mod inbox;
mod nodes;
mod outage;
mod program;
mod racing;
mod readme;
mod receipts;
mod restored;
mod secrets;
mod servers;
mod topics;
mod webhooks;
