//! The rules of quota-ledger, and nothing else: no I/O, no clock, no randomness.

pub mod digest;
pub mod position;
pub mod row;
pub mod time;
pub mod catalog;
pub mod event;
pub mod command;
