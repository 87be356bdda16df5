//! Tests of the service against real servers.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a helper that panics has failed its test"
)]

mod checkpoints;
mod dev;
mod follower;
mod harness;
mod http_decisions;
mod http_documents;
mod http_events;
mod http_forward;
mod http_keys;
mod http_resumes;
mod http_sessions;
mod http_usage;
mod http_users;
mod http_webhooks;
mod http_wire;
mod inbox;
mod inboxes;
mod jwt;
mod kafkas;
mod lanes;
mod nodes;
mod projector;
mod recovering;
mod relay;
mod restored;
mod sweeper;
mod tampering;
mod tidy;
mod tokens;
mod unreadable;
