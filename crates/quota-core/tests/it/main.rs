//! Tests of the core through its public face.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has done its duty"
)]

mod actor;
mod acts;
mod checkpoint;
mod course;
mod door;
mod event;
mod follow;
mod fuzz;
mod import;
mod limits;
mod properties;
mod razorpay;
mod receipt;
mod record;
mod relay;
mod route;
mod scenarios;
mod schemas;
