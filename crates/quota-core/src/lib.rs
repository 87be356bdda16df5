//! The rules of quota-ledger, and nothing else: no I/O, no clock, no randomness.
//!
//! In reading order: what there is ([`time`], [`position`], [`digest`], [`row`], [`event`], [`catalog`], [`command`]), what
//! is known of a subject ([`state`], [`fold`]), and what follows from it ([`standing`], [`judge`], [`decide`], [`render`]).

pub mod audit;
pub mod catalog;
pub mod checkpoint;
pub mod command;
pub mod decide;
pub mod desk;
pub mod digest;
pub mod door;
pub mod entitlements;
pub mod epoch;
pub mod event;
pub mod fold;
pub mod follow;
pub mod inbox;
pub mod judge;
pub mod known;
pub mod lane;
pub mod position;
pub mod projection;
pub mod publication;
pub mod razorpay;
pub mod receipt;
pub mod record;
pub mod relay;
pub mod render;
pub mod route;
pub mod row;
pub mod scenario;
pub mod standing;
pub mod state;
pub mod time;
