//! The service: HTTP in front, thin loops against Postgres and Kafka behind, and the command line around both.
//!
//! Reading order: [`cli`] is what the binary does, [`api`] what clients see, [`service`] what stands behind it.

pub mod admission;
pub mod alone;
pub mod answering;
pub mod api;
pub mod auth;
pub mod cache;
pub mod checkpoints;
pub mod cli;
pub mod clock;
pub mod comparing;
pub mod config;
pub mod embedded;
pub mod follower;
pub mod heads;
pub mod host;
pub mod importing;
pub mod inbox;
pub mod loading;
pub mod node;
pub mod projector;
pub mod publishing;
mod ranges;
pub mod receipts;
pub mod recovering;
pub mod relay;
pub mod replaying;
pub mod service;
pub mod shelf;
pub mod shutdown;
pub mod sweeper;
pub mod telemetry;
pub mod topics;
pub mod verifying;
pub mod webhooks;
pub mod workers;
pub mod writer;
