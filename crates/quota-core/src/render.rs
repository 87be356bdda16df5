//! A decision in words: the JSON of an answer, its message, the product's own denial, the plans on offer, the prompt.
//!
//! All of it follows from the decision's outcome and the catalog that it was judged under, so that a retry years later
//! reads the same.

use crate::catalog::{Allowance, Denial};
use crate::command::Decision;
use crate::event::Reason;
use crate::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The status of a refusal where the catalog says nothing.
const DEFAULT_STATUS: u16 = 403;

/// A plan whose purchase would lift a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The plan.
    pub id: String,
    /// Its price in the currency's smallest unit; none for any amount.
    pub price: Option<i64>,
    /// ISO 4217.
    pub currency: Option<String>,
    /// `month`, `year` or `<n> days`; none for an open one.
    pub period: Option<String>,
    /// What it allows of the feature; none where that is unlimited.
    pub limit: Option<i64>,
    /// No limit; left out where there is one.
    #[serde(skip_serializing_if = "is_false")]
    pub unlimited: bool,
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// Units that are left; none for no limit.
#[must_use]
pub fn remaining(decision: &Decision) -> Option<i64> {
    let outcome = &decision.outcome;
    let limit = outcome.limit?;
    Some(
        limit
            .saturating_sub(outcome.used)
            .saturating_sub(outcome.held)
            .max(0),
    )
}

/// What a person reads about a refusal; none when allowed.
#[must_use]
pub fn message(decision: &Decision) -> Option<String> {
    let outcome = &decision.outcome;
    if outcome.reason.allows() {
        return None;
    }
    let feature = decision.catalog.feature(&decision.feature);
    let of_feature = feature
        .filter(|_| outcome.reason == Reason::LimitReached)
        .and_then(|feature| feature.message.as_ref());
    let of_denial = rule(decision).and_then(|denial| denial.message.as_ref());
    let message = of_denial.or(of_feature).cloned();
    Some(message.unwrap_or_else(|| plain(outcome.reason).to_owned()))
}

/// The status and body of the product's own answer to a refusal; none when allowed.
#[must_use]
pub fn denial(decision: &Decision) -> Option<(u16, Value)> {
    let message = message(decision)?;
    let code = decision.outcome.reason.code().unwrap_or_default();
    let rule = rule(decision);
    let status = rule.map_or(DEFAULT_STATUS, |rule| rule.status);
    let template = rule
        .and_then(|rule| rule.body.as_deref())
        .and_then(|body| serde_json::from_str::<Value>(body).ok());
    let body = match template {
        Some(template) => filled(template, decision, &message, code),
        None => json!({"error": {"code": code, "message": message}}),
    };
    Some((status, body))
}

/// The plans whose purchase would lift a refusal, cheapest first.
#[must_use]
pub fn upgrade_plans(decision: &Decision) -> Vec<Offer> {
    let catalog = &decision.catalog;
    let offer = |id: &String| {
        let plan = catalog.plan(id)?;
        let limit = match catalog.allowance(Some(id), &decision.feature) {
            Allowance::NotInPlan => Some(0),
            Allowance::Units(units) => Some(units),
            Allowance::Unlimited => None,
        };
        Some(Offer {
            id: id.clone(),
            price: plan.price,
            currency: plan.currency.clone(),
            period: plan.period.and_then(crate::catalog::Period::words),
            limit,
            unlimited: limit.is_none(),
        })
    };
    decision.outcome.offers.iter().filter_map(offer).collect()
}

/// The prompt that goes with an allowed answer: none for who is flagged to skip refusals, and so needs no upgrade.
#[must_use]
pub fn prompt(decision: &Decision) -> Option<&str> {
    let outcome = &decision.outcome;
    if !outcome.reason.allows() || outcome.reason == Reason::Bypassed {
        return None;
    }
    let prompt = decision
        .catalog
        .feature(&decision.feature)?
        .prompt
        .as_ref()?;
    (outcome.plan.as_deref() == Some(prompt.plan.as_str())).then_some(prompt.name.as_str())
}

/// A decision as the API tells it.
#[must_use]
pub fn decision(
    decision: &Decision,
    evidence: &[String],
    as_of: Timestamp,
    age_ms: i64,
) -> Map<String, Value> {
    let outcome = &decision.outcome;
    let allowed = outcome.reason.allows();
    let upgrade = if allowed {
        Value::Null
    } else {
        json!({"plans": upgrade_plans(decision)})
    };
    let denial = denial(decision).map(|(status, body)| json!({"status": status, "body": body}));
    let members = [
        ("allowed", json!(allowed)),
        ("feature", json!(decision.feature)),
        ("subject", json!(decision.address.subject)),
        ("plan", json!(outcome.plan)),
        ("used", json!(outcome.used)),
        ("held", json!(outcome.held)),
        ("limit", json!(outcome.limit)),
        ("remaining", json!(remaining(decision))),
        ("unlimited", json!(outcome.limit.is_none())),
        (
            "resets_at",
            json!(outcome.resets_at.map(Timestamp::to_millis_text)),
        ),
        ("reason", json!(outcome.reason.word())),
        ("code", json!(outcome.reason.code())),
        ("message", json!(message(decision))),
        ("evidence", json!(evidence)),
        ("upgrade", upgrade),
        ("denial", json!(denial)),
        ("prompt", json!(prompt(decision))),
        ("hold", json!(decision.hold)),
        ("catalog_version", json!(decision.catalog_version)),
        ("position", json!(decision.position.to_string())),
        ("as_of", json!(as_of.to_millis_text())),
        ("age_ms", json!(age_ms)),
    ];
    let named = members.into_iter();
    named
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The catalog's word on a refusal: on what exactly closes the resource, else on the reason.
fn rule(decision: &Decision) -> Option<&Denial> {
    let denials = &decision.catalog.model().denials;
    let outcome = &decision.outcome;
    let by_closure = outcome
        .closure
        .and_then(|closure| denials.get(closure.word()));
    by_closure.or_else(|| denials.get(outcome.reason.word()))
}

const fn plain(reason: Reason) -> &'static str {
    match reason {
        Reason::LimitReached => "The limit of this feature is reached.",
        Reason::NotInPlan => "Your plan does not include this feature.",
        Reason::GrantExpired => "The purchase that paid for this resource has ended.",
        Reason::ResourceLocked => "This resource is locked.",
        Reason::UnknownResource => "There is no such resource.",
        Reason::WithinLimit | Reason::Unlimited | Reason::Bypassed | Reason::AlreadyCreated => "",
    }
}

/// A template with each `$name` replaced by what it stands for.
fn filled(template: Value, decision: &Decision, message: &str, code: &str) -> Value {
    let fill = |value: Value| filled(value, decision, message, code);
    match template {
        Value::String(text) => stands_for(&text, decision, message, code).unwrap_or(text.into()),
        Value::Array(items) => items.into_iter().map(fill).collect(),
        Value::Object(members) => {
            let filled = members
                .into_iter()
                .map(|(name, value)| (name, fill(value)))
                .collect();
            Value::Object(filled)
        }
        other => other,
    }
}

fn stands_for(text: &str, decision: &Decision, message: &str, code: &str) -> Option<Value> {
    let outcome = &decision.outcome;
    Some(match text {
        "$message" => json!(message),
        "$code" => json!(code),
        "$feature" => json!(decision.feature),
        "$used" => json!(outcome.used),
        "$limit" => json!(outcome.limit.unwrap_or(-1)),
        "$plan" => json!(outcome.plan),
        "$upgrade_plans" => upgrade_plans(decision).into_iter().map(bare).collect(),
        _ => return None,
    })
}

/// An offer in a product's own body, where an unlimited limit is -1.
fn bare(offer: Offer) -> Value {
    json!({
        "id": offer.id,
        "price": offer.price,
        "currency": offer.currency,
        "period": offer.period,
        "limit": offer.limit.unwrap_or(-1),
    })
}
