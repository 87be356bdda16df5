//! What is known of one subject: its entitlements, and its events.

use crate::api::call::{Call, Outcome, at_least};
use crate::api::json;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::position::Position;
use quota_core::row::Row;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// How many events a page has where the caller does not say, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Everything that a subject may do, and why.
#[utoipa::path(
    get,
    path = "/v1/products/{product}/subjects/{subject}/entitlements",
    tag = "check",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("at_least" = Option<String>, Query, description = "Answer from no older state than this position's"),
    ),
    responses(
        (status = 200, description = "Plan, grants, every feature's counter, resources", body = Object),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`"),
        (status = 422, body = ProblemBody<'_>, description = "`invalid_position`, `wrong_partition`"),
    )
)]
pub async fn entitlements(call: Call) -> Outcome {
    let address = call.subject_or_self(&[Scope::Check]).await?;
    let [position] = call.query(["at_least"])?;
    let at_least = at_least(position.as_deref())?;
    let (mut entitlements, freshness) = call.app.service.entitlements(&address, at_least).await?;
    let version = entitlements.shift_remove("catalog_version");
    entitlements.insert("as_of".into(), freshness.as_of.to_millis_text().into());
    entitlements.insert("age_ms".into(), freshness.age_ms.into());
    // The documented order has it last.
    entitlements.extend(version.map(|version| ("catalog_version".to_owned(), version)));
    Ok(json(StatusCode::OK, &entitlements))
}

/// A page of a subject's events.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerPage {
    /// Oldest first.
    events: Vec<LedgerEvent>,
    /// Where the next page begins; null on the last.
    next: Option<String>,
}

/// An event of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub struct LedgerEvent {
    /// Where it stands.
    #[schema(example = "3:1042")]
    position: String,
    /// Its number among the subject's events, from 1.
    subject_seq: i64,
    /// Its id.
    id: String,
    /// Who told it.
    source: String,
    /// The bare type.
    #[serde(rename = "type")]
    #[schema(example = "usage.recorded")]
    kind: String,
    /// When it happened.
    occurred_at: String,
    /// When it was recorded.
    recorded_at: String,
    /// The catalog version that it was judged under.
    catalog_version: u32,
    /// What happened, byte for byte as it is hashed.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
    /// The partition's hash chain up to here.
    hash: String,
}

/// A subject's events, oldest first.
#[utoipa::path(
    get,
    path = "/v1/products/{product}/subjects/{subject}/ledger",
    tag = "ledger",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("after" = Option<String>, Query, description = "The cursor of the page before"),
        ("limit" = Option<u32>, Query, description = "Events on the page; 100 by default, at most 1,000"),
    ),
    responses(
        (status = 200, body = LedgerPage),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`: the cursor is of a lost tail"),
        (status = 422, body = ProblemBody<'_>, description = "`invalid_position`, `invalid_request`"),
    )
)]
pub async fn ledger(call: Call) -> Outcome {
    let address = call.subject_or_self(&[Scope::Read]).await?;
    let [after, limit] = call.query(["after", "limit"])?;
    let after = after.as_deref().map(str::parse).transpose();
    let after =
        after.map_err(|error| Problem::field("invalid_position", "after", format!("{error}")))?;
    let limit = limit.map_or(Ok(PAGE), |text| text.parse()).unwrap_or(0);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid(
            "limit",
            "must be a whole number from 1 to 1000",
        ));
    }
    let (rows, next) = call.app.service.ledger_page(&address, after, limit).await?;
    let epochs = call.app.service.epochs();
    let events = rows
        .iter()
        .map(|row| event(row, epochs.position(row.partition, row.offset)))
        .collect::<Result<_, _>>()?;
    Ok(json(
        StatusCode::OK,
        &LedgerPage {
            events,
            next: next.map(|next| next.to_string()),
        },
    ))
}

fn event(row: &Row, position: Position) -> Result<LedgerEvent, Problem> {
    let data = std::str::from_utf8(&row.payload)
        .ok()
        .and_then(|text| RawValue::from_string(text.to_owned()).ok());
    let data = data.ok_or_else(|| {
        tracing::error!(
            partition = row.partition,
            offset = row.offset,
            "an event's data is no JSON"
        );
        Problem::internal()
    })?;
    Ok(LedgerEvent {
        position: position.to_string(),
        subject_seq: row.subject_seq,
        id: row.id.to_string(),
        source: row.source.to_string(),
        kind: row.event_type.to_string(),
        occurred_at: row.occurred_at.to_string(),
        recorded_at: row.recorded_at.to_string(),
        catalog_version: row.catalog_version,
        data,
        hash: hex::encode(row.hash),
    })
}
