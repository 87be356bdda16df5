//! Commands are wishes; answers say what came of them.

use crate::catalog::Catalog;
use crate::digest::{SubjectKey, event_key, partition_of, subject_key};
use crate::event::{Event, Outcome};
use crate::position::Position;
use crate::time::Timestamp;
use std::sync::Arc;

/// The source of events that a consume makes; the id is the caller's key, or a fresh one.
pub const CONSUME_SOURCE: &str = "quota:consume";
/// The source of confirmations and releases of holds.
pub const HOLD_SOURCE: &str = "quota:hold";
/// The source of adjustments.
pub const ADJUST_SOURCE: &str = "quota:adjust";
/// The source of expiry notices.
pub const EXPIRY_SOURCE: &str = "quota:expiry";
/// The source of session events.
pub const SESSION_SOURCE: &str = "quota:session";
/// The source of catalog versions.
pub const CATALOG_SOURCE: &str = "quota:catalog";
/// The source of epochs.
pub const EPOCH_SOURCE: &str = "quota:epoch";

/// A subject of a product, with the digests that place it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The product.
    pub product: Arc<str>,
    /// The subject.
    pub subject: Arc<str>,
    /// Its key.
    pub key: SubjectKey,
    /// Its partition.
    pub partition: u32,
}

impl Address {
    /// The address of a subject in a ledger of that many partitions.
    #[must_use]
    pub fn new(product: &str, subject: &str, partitions: u32) -> Self {
        let key = subject_key(product, subject);
        Self {
            product: product.into(),
            subject: subject.into(),
            key,
            partition: partition_of(&key, partitions),
        }
    }

    /// The key of one of this subject's events.
    #[must_use]
    pub fn event_key(&self, source: &str, id: &str) -> crate::digest::EventKey {
        event_key(&self.product, &self.subject, source, id)
    }
}

/// A wish about one subject.
#[derive(Clone, Debug)]
pub struct Command {
    /// Whom it concerns.
    pub address: Address,
    /// What is wished.
    pub wish: Wish,
}

/// What is wished.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Record a fact.
    Record(Fact),
    /// Decide, and use or hold if allowed.
    Consume(Consume),
    /// Make a hold usage.
    Confirm {
        /// The hold.
        hold: String,
    },
    /// Give a hold back.
    Release {
        /// The hold.
        hold: String,
    },
    /// Give extra units.
    Adjust(Adjust),
    /// Record the expiries that are due, if any.
    Sweep,
    /// Open a session, or find the active one.
    OpenSession {
        /// Its type, a session of the catalog.
        session_type: String,
        /// Close an active one and open another.
        force_new: bool,
        /// The id that a new one gets.
        fresh_id: String,
    },
    /// Complete a session with what came of it.
    CompleteSession {
        /// The session.
        session: String,
        /// The resource.
        resource: String,
    },
}

/// A fact that somebody tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Who tells it.
    pub source: String,
    /// Its id.
    pub id: String,
    /// When it happened, where the teller says.
    pub time: Option<Timestamp>,
    /// What happened.
    pub event: Event,
}

impl Fact {
    /// Whether it is a purchase that starts when it is recorded, and has ended by then.
    #[must_use]
    pub fn is_over_at(&self, now: Timestamp) -> bool {
        match &self.event {
            Event::SubscriptionPurchased(purchase) | Event::SubscriptionRenewed(purchase) => {
                self.time.is_none() && purchase.starts_at.is_none() && purchase.is_over_at(now)
            }
            _ => false,
        }
    }
}

/// A gated use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// The feature.
    pub feature: String,
    /// Units, 1 to 1,000,000,000.
    pub amount: i64,
    /// The resource.
    pub resource: Option<String>,
    /// Hold for that many seconds instead of using.
    pub hold_seconds: Option<i64>,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// The id of the event where there is no key.
    pub fresh_id: String,
}

impl Consume {
    /// The id of the event that it makes.
    #[must_use]
    pub fn id(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.fresh_id)
    }
}

/// Extra units, given by a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjust {
    /// The feature.
    pub feature: String,
    /// Extra units.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// The caller's idempotency key, or a fresh id.
    pub id: String,
}

/// What came of a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The fact is in the ledger, now or since before.
    Recorded {
        /// Where.
        position: Position,
        /// It was there before.
        duplicate: bool,
    },
    /// A consume was decided.
    Decided(Box<Decision>),
    /// What became of a hold.
    Hold {
        /// The hold.
        hold: String,
        /// What became of it.
        status: HoldStatus,
        /// Where.
        position: Position,
    },
    /// A session, as it is now.
    Session(Box<SessionAnswer>),
    /// Expiries were recorded, or none was due.
    Swept {
        /// How many.
        recorded: usize,
    },
    /// It cannot be; nothing was recorded.
    Refused(Refusal),
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldStatus {
    /// It is usage now.
    Confirmed,
    /// It is free again.
    Released,
    /// Its time was over first.
    Expired,
}

impl HoldStatus {
    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }
}

/// A decision, of a consume or a check.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Whom it concerns.
    pub address: Address,
    /// The feature.
    pub feature: String,
    /// What it came to.
    pub outcome: Outcome,
    /// The hold that it made.
    pub hold: Option<String>,
    /// The catalog that it was judged under.
    pub catalog: Arc<Catalog>,
    /// That catalog's version.
    pub catalog_version: u32,
    /// Its own event; of a check or a denial not recorded again, the subject's newest.
    pub position: Position,
    /// The first outcome, told again.
    pub replayed: bool,
}

/// A session and what gated it.
#[derive(Clone, Debug)]
pub struct SessionAnswer {
    /// The session, where there is one; none when it was refused.
    pub session: Option<SessionState>,
    /// The refusal, where it was refused.
    pub denied: Option<Decision>,
    /// The subject's newest event.
    pub position: Position,
}

/// A session, as its clients see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SessionState {
    /// Its id.
    pub id: String,
    /// Its type.
    pub session_type: String,
    /// `active`, `completed` or `superseded`.
    pub status: SessionStatus,
    /// The resource that came of it.
    pub resource: Option<String>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was completed.
    pub completed_at: Option<Timestamp>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// Open.
    Active,
    /// Brought to its end.
    Completed,
    /// Closed by a newer one.
    Superseded,
}

/// Why a command cannot be carried out. Nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: &'static str,
    /// The HTTP status that goes with it.
    pub status: u16,
    /// The member that is wrong, where one is.
    pub field: Option<&'static str>,
    /// What a person reads: what happened and what to do.
    pub message: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u32>,
}

impl Refusal {
    /// A refusal about one member.
    #[must_use]
    pub fn field(
        status: u16,
        code: &'static str,
        field: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            status,
            field: Some(field),
            message: message.into(),
            retry_after: None,
        }
    }

    /// A refusal about the whole.
    #[must_use]
    pub fn whole(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            status,
            field: None,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Surely nothing was recorded: try again.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: "unavailable",
            status: 503,
            field: None,
            message: message.into(),
            retry_after: Some(1),
        }
    }

    /// It cannot be known yet whether it was recorded: try again with the same key.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        let message =
            "the ledger did not answer in time; retry with the same id to learn what came of it";
        Self {
            code: "outcome_unknown",
            status: 504,
            field: None,
            message: message.into(),
            retry_after: Some(1),
        }
    }

    /// Same id, other content.
    #[must_use]
    pub fn conflict(status: u16) -> Self {
        let message = "this id was used before with other content; nothing was recorded";
        Self {
            code: "idempotency_conflict",
            status,
            field: Some("id"),
            message: message.into(),
            retry_after: None,
        }
    }
}
