//! Tests against a real PostgreSQL, named by `TEST_DATABASE_URL`. Each test makes a database of its own and drops it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "tests fail by panicking"
)]

mod append;
mod beside;
mod hammer;
mod harness;
mod outcome;
mod plans;
mod proxy;
mod ready;
mod reports;
mod rights;
mod smoke;
mod views;
