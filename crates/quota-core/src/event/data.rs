//! What each event says: the data in a row's payload.

use crate::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why an answer is what it is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Allowed: there is room under the limit.
    WithinLimit,
    /// Allowed: the plan sets no limit, or the feature is not metered.
    Unlimited,
    /// Allowed: the subject is flagged to skip every refusal.
    Bypassed,
    /// Allowed: the resource is there already; nothing was used.
    AlreadyCreated,
    /// Refused: the limit is used up.
    LimitReached,
    /// Refused: the plan in force does not hold the feature.
    NotInPlan,
    /// Refused: the grant that paid for the resource has ended.
    GrantExpired,
    /// Refused: the resource has no slot, or was deleted.
    ResourceLocked,
    /// Refused: there is no such resource.
    UnknownResource,
}

impl Reason {
    /// Whether this reason allows.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(
            self,
            Self::WithinLimit | Self::Unlimited | Self::Bypassed | Self::AlreadyCreated
        )
    }

    /// The stable code of a refusal; none when allowed.
    #[must_use]
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::WithinLimit | Self::Unlimited | Self::Bypassed | Self::AlreadyCreated => None,
            Self::LimitReached | Self::NotInPlan => Some("UPGRADE_REQUIRED"),
            Self::GrantExpired | Self::ResourceLocked => Some("RESOURCE_LOCKED"),
            Self::UnknownResource => Some("UNKNOWN_RESOURCE"),
        }
    }

    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::WithinLimit => "within_limit",
            Self::Unlimited => "unlimited",
            Self::Bypassed => "bypassed",
            Self::AlreadyCreated => "already_created",
            Self::LimitReached => "limit_reached",
            Self::NotInPlan => "not_in_plan",
            Self::GrantExpired => "grant_expired",
            Self::ResourceLocked => "resource_locked",
            Self::UnknownResource => "unknown_resource",
        }
    }
}

/// What exactly closes a resource.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Closure {
    /// The one-time purchase that paid for it has ended.
    PurchaseExpired,
    /// The subscription that it was made under has ended.
    ProEnded,
    /// It was made without a slot.
    NoSlot,
    /// It was deleted.
    Deleted,
}

impl Closure {
    /// The word in JSON and in a catalog's `denials`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::PurchaseExpired => "purchase_expired",
            Self::ProEnded => "pro_ended",
            Self::NoSlot => "no_slot",
            Self::Deleted => "deleted",
        }
    }
}

/// What a decision came to; frozen in its event, so that a retry is answered the same for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// The plan whose counter answered, or the plan in force; none where the product has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Units used, this decision's included when it used some.
    pub used: i64,
    /// Units held by open holds, this decision's included when it is one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held: i64,
    /// The limit; none is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The end of the counter's window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Timestamp>,
    /// What closes the resource, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closure: Option<Closure>,
    /// Offsets, in this row's partition, of the events behind a refusal, newest first, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<i64>,
    /// Plans that would lift a refusal, cheapest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offers: Vec<String>,
}

/// Units of a feature that were used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The feature.
    pub feature: String,
    /// Units, 1 to 1,000,000,000.
    #[serde(default = "one")]
    pub amount: i64,
    /// The resource that it was used on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The hold that was confirmed by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Used while flagged: allowed whatever the limits say, and not counted against them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bypassed: bool,
    /// The decision that allowed it, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A purchase or a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Purchase {
    /// The plan.
    pub plan: String,
    /// The payment; counted once, however many events announce it.
    pub payment_id: String,
    /// What was paid, in the currency's smallest unit.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// The resource that an unlock opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The payment provider's subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// When the period starts; by default when the purchase happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// When the period ends; by default by the plan's period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
}

impl Purchase {
    /// Whether its period [start, end), starting then, holds no instant: a mistake of its sender's.
    #[must_use]
    pub fn is_over_at(&self, start: Timestamp) -> bool {
        self.ends_at.is_some_and(|end| end <= start)
    }
}

/// The end of a subscription that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancellation {
    /// The payment whose grant ends; else the subscription's, else the newest live one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<String>,
    /// The payment provider's subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Live to the period's end (without grace), or end at once.
    #[serde(default = "yes")]
    pub at_period_end: bool,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceEvent {
    /// The resource.
    pub resource: String,
    /// How it came about, for example `aivi_bot` or `upload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The feature that it spends, where the catalog does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// The hold that was confirmed by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Made while flagged: allowed whatever the limits say, and not counted against them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bypassed: bool,
    /// The decision that allowed it, where one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A flag on a subject, set or taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flagged {
    /// The flag; `superadmin` skips every refusal, others are kept for analysts.
    pub flag: String,
    /// Whether it holds from now on.
    pub value: bool,
}

/// Units that were used before the ledger knew the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    /// The feature.
    pub feature: String,
    /// Units, 0 to 1,000,000,000.
    pub amount: i64,
}

/// Nothing to say beyond that it happened.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// A grant's end, noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expired {
    /// The grant.
    pub grant: String,
    /// The exact end of its period.
    pub effective_at: Timestamp,
}

/// A consume that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Denied {
    /// The feature asked for.
    pub feature: String,
    /// Units asked for.
    #[serde(default = "one")]
    pub amount: i64,
    /// The resource asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The hold asked for, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<i64>,
    /// The decision.
    pub outcome: Outcome,
}

/// Units reserved: counted until confirmed, released, or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// The feature.
    pub feature: String,
    /// Units.
    #[serde(default = "one")]
    pub amount: i64,
    /// The resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The hold's id.
    pub hold: String,
    /// For how long, in seconds.
    pub hold_seconds: i64,
    /// When it is over.
    pub expires_at: Timestamp,
    /// Held while flagged: its confirmation is not counted against the limits.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bypassed: bool,
    /// The decision that allowed it.
    pub outcome: Outcome,
}

/// A hold given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Released {
    /// The hold's id.
    pub hold: String,
}

/// A session begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionCreated {
    /// The session's id.
    pub session: String,
    /// Its type.
    pub session_type: String,
}

/// A session brought to its end, and the resource that came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionCompleted {
    /// The session's id.
    pub session: String,
    /// Its type.
    pub session_type: String,
    /// The resource that came of it.
    pub resource: String,
    /// How the resource came about.
    pub source: String,
}

/// A session closed because a newer one was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionSuperseded {
    /// The session's id.
    pub session: String,
    /// Its type.
    pub session_type: String,
}

/// A new catalog version, from this position of its partition on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogPublished {
    /// The version.
    pub version: u32,
    /// The whole text, as it was published.
    pub text: String,
}

/// Extra units, given by a person for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Adjustment {
    /// The feature.
    pub feature: String,
    /// Extra units.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// Who.
    pub actor: String,
}

/// A new epoch: what came after this point in the old one is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EpochStarted {
    /// The new epoch.
    pub epoch: u32,
    /// Why.
    pub reason: String,
    /// The first offset of the partition that may be another event than it was in earlier epochs: this event's own, or one
    /// before it where the ledger had gone on already.
    pub from: i64,
}

const fn one() -> i64 {
    1
}

const fn yes() -> bool {
    true
}

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &i64) -> bool {
    *value == 0
}
