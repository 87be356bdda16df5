//! Tests of the service against real servers.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a helper that panics has failed its test"
)]

mod nodes;
mod projector;
