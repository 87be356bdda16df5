//! Events: facts, in the past tense, never refused once they happened and never changed.
//!
//! Each variant's data is what stands in a row's payload as JSON. Readers tolerate members that they do not know, so that
//! a later version may add some; doors ([`crate::door`]) refuse them by name.

mod data;

pub use data::*;

use thiserror::Error;

/// The event cannot be read.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// No fold rule is known for this type or version: whoever reads it must stop.
    #[error("event type {event_type} version {version} is not known to this build")]
    UnknownType {
        /// The type.
        event_type: String,
        /// Its version.
        version: u16,
    },
    /// The data is not what the type's schema says.
    #[error("data of {event_type} cannot be read")]
    Malformed {
        /// The type.
        event_type: String,
        /// What serde says.
        source: serde_json::Error,
    },
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident($data:ty) = $name:literal, published: $published:literal;)*) => {
        /// A fact, with its data.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $variant($data),)*
        }

        impl Event {
            /// The bare type, as in the ledger; `quota.<type>.v1` in `CloudEvents`.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The payload bytes of this event.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                let encoded = match self { $(Self::$variant(data) => serde_json::to_vec(data),)* };
                // Our own structs with string keys always encode; an empty object would be caught by every reader.
                encoded.unwrap_or_default()
            }

            /// Reads the payload of a row of the given type and version.
            ///
            /// # Errors
            /// [`DecodeError::UnknownType`] for what this build has no rule for, [`DecodeError::Malformed`] for data
            /// that is not of the type's shape.
            pub fn decode(event_type: &str, version: u16, payload: &[u8]) -> Result<Self, DecodeError> {
                match (event_type, version) {
                    $(($name, 1) => serde_json::from_slice(payload).map(Self::$variant).map_err(|source| {
                        DecodeError::Malformed { event_type: event_type.to_owned(), source }
                    }),)*
                    _ => Err(DecodeError::UnknownType { event_type: event_type.to_owned(), version }),
                }
            }
        }

        /// Every type, whether services may publish it, and its data's JSON Schema.
        #[must_use]
        pub fn types() -> Vec<(&'static str, bool, schemars::Schema)> {
            vec![$(($name, $published, schemars::schema_for!($data)),)*]
        }
    };
}

events! {
    /// Usage of a feature.
    UsageRecorded(Usage) = "usage.recorded", published: true;
    /// A subject signed up.
    SubjectRegistered(Empty) = "subject.registered", published: true;
    /// A plan was bought.
    SubscriptionPurchased(Purchase) = "subscription.purchased", published: true;
    /// A plan was paid on.
    SubscriptionRenewed(Purchase) = "subscription.renewed", published: true;
    /// A plan was cancelled.
    SubscriptionCancelled(Cancellation) = "subscription.cancelled", published: true;
    /// A resource was made.
    ResourceCreated(ResourceEvent) = "resource.created", published: true;
    /// A resource was completed.
    ResourceCompleted(ResourceEvent) = "resource.completed", published: true;
    /// A resource was deleted; nothing is refunded.
    ResourceDeleted(ResourceEvent) = "resource.deleted", published: true;
    /// A resource was opened again without payment.
    ResourceUnlocked(ResourceEvent) = "resource.unlocked", published: true;
    /// A subject was flagged.
    SubjectFlagged(Flagged) = "subject.flagged", published: true;
    /// Usage from before.
    UsageImported(Imported) = "usage.imported", published: true;
    /// A grant came to its end.
    SubscriptionExpired(Expired) = "subscription.expired", published: false;
    /// A consume was refused.
    UsageDenied(Denied) = "usage.denied", published: false;
    /// Units were reserved.
    UsageHeld(Held) = "usage.held", published: false;
    /// A reservation was given back.
    UsageReleased(Released) = "usage.released", published: false;
    /// A session began.
    SessionCreated(SessionCreated) = "session.created", published: false;
    /// A session was completed.
    SessionCompleted(SessionCompleted) = "session.completed", published: false;
    /// A session was closed by a newer one.
    SessionSuperseded(SessionSuperseded) = "session.superseded", published: false;
    /// A catalog version took effect.
    CatalogPublished(CatalogPublished) = "catalog.published", published: false;
    /// Extra units were given.
    AdjustmentGranted(Adjustment) = "adjustment.granted", published: false;
    /// A new epoch began.
    EpochStarted(EpochStarted) = "ledger.epoch_started", published: false;
}
