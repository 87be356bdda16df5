//! Tests against a real PostgreSQL, named by `TEST_DATABASE_URL`. Each test makes a database of its own and drops it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod harness;
mod smoke;
