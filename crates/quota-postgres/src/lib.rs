//! The ledger's Postgres: migrations, appends, reads, views and keys. The only user of sqlx.
//!
//! - [`migrate()`] brings a database to this version.
//! - [`Ledger`] is the pool: everything that reads, and the projector's writes.
//! - [`Lane`] is one connection of its own: appends, and the reads that decisions are built on.
//! - [`publish()`] puts one row into every partition, all or none; [`start_epoch()`] likewise.
//! - [`Claims`] keep two relays from doing the same work.
//!
//! Nothing here knows what an event means, or what is in a folded state: both are bytes.
//!
//! Cancelling is safe everywhere. On the pool, every call is one statement, so no connection is ever handed back inside a
//! transaction (sqlx 0.9 does that when a `begin` is cancelled). A lane that was cancelled midway refuses further work.

mod claims;
mod connect;
mod error;
mod keys;
mod lane;
mod ledger;
mod load;
mod migrate;
mod publish;
mod rows;
mod views;
mod webhooks;

pub use claims::Claims;
pub use connect::LedgerInfo;
pub use error::{AppendError, Error};
pub use keys::StoredKey;
pub use lane::{Appended, Fence, Lane};
pub use ledger::{Ledger, Pages};
pub use load::{
    EventLookup, LoadRequest, Loaded, LoadedPartition, LoadedSubject, RowName, SubjectLookup,
};
pub use migrate::{PARTITIONS, migrate};
pub use publish::{Publication, PublishError, adopt_epoch, publish, start_epoch};
pub use views::{Advance, Due, Saved, SubjectRow, View};
pub use webhooks::{Counted, EXPIRED, HeldWebhook, NewWebhook, RIPE_PAGE};
