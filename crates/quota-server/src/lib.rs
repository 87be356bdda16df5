//! quota-server.
pub mod answering;
pub mod cache;
pub mod clock;
pub mod loading;
pub mod node;
pub mod publishing;
pub mod replaying;
pub mod shelf;
pub mod verifying;
pub mod writer;
