//! Adjustments: extra units, given by a person for a reason.

use crate::api::call::{Call, Outcome, visible, within_amounts};
use crate::api::consume::{IDEMPOTENCY_KEY, idempotency_key, named};
use crate::api::json;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::command::{Adjust, Answer, Command, Wish};
use quota_core::door::{MAX_WORDS, is_visible};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Extra units, by whom and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentRequest {
    /// The feature.
    feature: String,
    /// Extra units.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    amount: i64,
    /// Why.
    reason: String,
    /// Who gives them.
    actor: String,
}

/// What came of an adjustment.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdjustmentBody {
    /// Where it is recorded.
    #[schema(example = "3:1042")]
    position: String,
}

/// Give extra units to the counter in force now; usage itself is untouched.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/subjects/{subject}/adjustments",
    tag = "admin",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with it is recorded once"),
    ),
    request_body = AdjustmentRequest,
    responses(
        (status = 200, body = AdjustmentBody),
        (status = 422, body = ProblemBody<'_>, description = "`unknown_feature`, `idempotency_conflict`, `invalid_request`"),
    )
)]
pub async fn adjust(call: Call) -> Outcome {
    let address = call.subject(&[Scope::Admin]).await?;
    let key = idempotency_key(&call)?;
    let AdjustmentRequest {
        feature,
        amount,
        reason,
        actor,
    } = call.json()?;
    named(&feature, None)?;
    let amount = within_amounts(amount)?;
    visible(&actor).map_err(|why| Problem::invalid("actor", why))?;
    if !is_visible(&reason, MAX_WORDS) {
        return Err(Problem::invalid(
            "reason",
            format!("must be 1 to {MAX_WORDS} visible characters"),
        ));
    }
    let id = key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let wish = Wish::Adjust(Adjust {
        feature,
        amount,
        reason,
        actor,
        id,
    });
    match call.app.service.submit(Command { address, wish }).await {
        Answer::Recorded { position, .. } => Ok(json(
            StatusCode::OK,
            &AdjustmentBody {
                position: position.to_string(),
            },
        )),
        Answer::Refused(refusal) => Err(Problem::from(refusal).with_id_in(IDEMPOTENCY_KEY)),
        _ => Err(Problem::internal()),
    }
}
