//! A decision in JSON, as both consume and check answer it.

use crate::answering::Freshness;
use axum::http::StatusCode;
use quota_core::command::Decision;
use quota_core::render::{self, Offer};
use quota_core::time::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

/// A decision. Its members stand in this order, and a retry gets the same bytes but for `as_of` and `age_ms`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Decision)]
pub struct DecisionBody<'a> {
    /// Whether it may be done.
    allowed: bool,
    /// The feature asked for.
    feature: &'a str,
    /// The subject.
    subject: &'a str,
    /// The plan whose counter answered; null where the product has none.
    plan: Option<&'a str>,
    /// Units used; an allowed consume's own are among them. Never with holds.
    used: i64,
    /// Units held.
    held: i64,
    /// The limit; null without one.
    limit: Option<i64>,
    /// limit - used - held, not below 0; null when unlimited.
    remaining: Option<i64>,
    /// Whether there is no limit.
    unlimited: bool,
    /// The end of the window in UTC; null for what does not start anew.
    resets_at: Option<String>,
    /// Why.
    #[schema(example = "limit_reached")]
    reason: &'static str,
    /// The stable code of a refusal; null when allowed.
    #[schema(example = "UPGRADE_REQUIRED")]
    code: Option<&'static str>,
    /// What a person reads; null when allowed.
    message: Option<String>,
    /// Ids of the events behind a refusal, newest first, at most ten.
    #[schema(value_type = Vec<String>)]
    evidence: &'a [Arc<str>],
    /// The plans that would lift a refusal, cheapest first; null when allowed.
    upgrade: Option<Upgrade>,
    /// The product's own answer to this refusal; null when allowed.
    denial: Option<DenialBody>,
    /// What to show beside an allowed answer.
    prompt: Option<&'a str>,
    /// The hold that was made.
    hold: Option<&'a str>,
    /// The catalog version that it was judged under.
    catalog_version: u32,
    /// What `at_least` takes.
    #[schema(example = "3:1042")]
    position: String,
    /// The instant that it was judged at.
    as_of: String,
    /// How long ago its partition was last known to be at its head.
    age_ms: u64,
}

/// What would lift a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct Upgrade {
    /// Cheapest first.
    #[schema(value_type = Vec<Object>)]
    plans: Vec<Offer>,
}

/// The product's own answer to a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct DenialBody {
    /// 402 or 403.
    status: u16,
    /// The body.
    #[schema(value_type = Object)]
    body: Value,
}

impl DecisionBody<'_> {
    /// The status that it has as the answer of a consume.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        let status = self.denial.as_ref().map_or(200, |denial| denial.status);
        StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN)
    }
}

/// The decision as it is sent.
#[must_use]
pub fn body<'a>(
    decision: &'a Decision,
    evidence: &'a [Arc<str>],
    freshness: Freshness,
) -> DecisionBody<'a> {
    let Decision {
        outcome, feature, ..
    } = decision;
    let allowed = outcome.reason.allows();
    DecisionBody {
        allowed,
        feature,
        subject: &decision.address.subject,
        plan: outcome.plan.as_deref(),
        used: outcome.used,
        held: outcome.held,
        limit: outcome.limit,
        remaining: render::remaining(decision),
        unlimited: outcome.limit.is_none(),
        resets_at: outcome.resets_at.map(Timestamp::to_millis_text),
        reason: outcome.reason.word(),
        code: outcome.reason.code(),
        message: render::message(decision),
        evidence,
        upgrade: (!allowed).then(|| Upgrade {
            plans: render::upgrade_plans(decision),
        }),
        denial: render::denial(decision).map(|(status, body)| DenialBody { status, body }),
        prompt: render::prompt(decision),
        hold: decision.hold.as_deref(),
        catalog_version: decision.catalog_version,
        position: decision.position.to_string(),
        as_of: freshness.as_of.to_millis_text(),
        age_ms: freshness.age_ms,
    }
}

#[cfg(test)]
#[path = "decision/tests.rs"]
mod tests;
