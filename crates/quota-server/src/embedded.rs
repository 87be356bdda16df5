//! What `dev` runs beside the service: its folder, and the private PostgreSQL in it.

mod binaries;
mod cluster;
mod home;
mod leftovers;
mod owner;
mod postmaster;

pub use cluster::Cluster;
pub use home::{Home, Secrets};
pub use postmaster::Postgres;
