//! The receipt of an event: what proves, without this service, that it is in the ledger.

use crate::api::call::{Call, Outcome};
use crate::api::json_bytes;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::position::Position;

/// The proof that an event is in the ledger.
///
/// One row, the hash before it, the digests of the rows after it up to a signed checkpoint, and that checkpoint: nobody else's
/// content. `quota-ledger receipt check` checks it, without this service or its database.
#[utoipa::path(
    get,
    path = "/v1/products/{product}/subjects/{subject}/ledger/{position}/receipt",
    tag = "ledger",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("position" = String, Path, description = "Where the event stands, such as 3:1042"),
    ),
    responses(
        (status = 200, description = "`row`, `previous_hash`, `digests` and `checkpoint`", body = Object),
        (status = 404, body = ProblemBody<'_>, description = "`unknown_event`: this user has none there"),
        (status = 409, body = ProblemBody<'_>, description = "`no_checkpoint_yet`: `Retry-After` says when; `checkpoint_too_far`"),
        (status = 422, body = ProblemBody<'_>, description = "`invalid_position`"),
    )
)]
pub async fn receipt(call: Call) -> Outcome {
    let address = call.subject_or_self(&[Scope::Read]).await?;
    let [] = call.query([])?;
    let position: Position = call
        .raw("position")
        .parse()
        .map_err(|error| Problem::field("invalid_position", "position", format!("{error}")))?;
    let receipt = call.app.service.receipt(&address, position).await?;
    let body = receipt.to_json().ok_or_else(|| {
        tracing::error!(%position, "an event's data is no text");
        Problem::internal()
    })?;
    Ok(json_bytes(StatusCode::OK, body))
}
