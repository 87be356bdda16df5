//! Holds: what was counted is confirmed, and so used, or given back.

use crate::api::call::{Call, Outcome};
use crate::api::json;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::command::{Answer, Command, Wish};
use serde::Serialize;
use utoipa::ToSchema;

/// What became of a hold.
#[derive(Debug, Serialize, ToSchema)]
pub struct HoldBody<'a> {
    /// The hold.
    hold: &'a str,
    /// `confirmed`, `released` or `expired`.
    status: &'static str,
    /// Where that is recorded.
    position: String,
}

/// Make a hold usage. Confirming again answers the same.
#[utoipa::path(
    post,
    operation_id = "confirm_hold",
    path = "/v1/products/{product}/subjects/{subject}/holds/{hold}/confirm",
    tag = "consume",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("hold" = String, Path, description = "The hold"),
    ),
    responses(
        (status = 200, body = HoldBody<'_>, description = "It is usage"),
        (status = 404, body = ProblemBody<'_>, description = "`unknown_hold`"),
        (status = 409, body = ProblemBody<'_>, description = "`hold_released`, `hold_expired`"),
    )
)]
pub async fn confirm(call: Call) -> Outcome {
    settle(call, |hold| Wish::Confirm { hold }).await
}

/// Give a hold back. Releasing again answers the same.
#[utoipa::path(
    post,
    operation_id = "release_hold",
    path = "/v1/products/{product}/subjects/{subject}/holds/{hold}/release",
    tag = "consume",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("hold" = String, Path, description = "The hold"),
    ),
    responses(
        (status = 200, body = HoldBody<'_>, description = "It is free again, or was over already"),
        (status = 404, body = ProblemBody<'_>, description = "`unknown_hold`"),
        (status = 409, body = ProblemBody<'_>, description = "`hold_confirmed`"),
    )
)]
pub async fn release(call: Call) -> Outcome {
    settle(call, |hold| Wish::Release { hold }).await
}

async fn settle(call: Call, wish: impl FnOnce(String) -> Wish) -> Outcome {
    let address = call.subject(&[Scope::Consume]).await?;
    let wish = wish(call.name("hold")?.to_owned());
    match call.app.service.submit(Command { address, wish }).await {
        Answer::Hold {
            hold,
            status,
            position,
        } => {
            let body = HoldBody {
                hold: &hold,
                status: status.word(),
                position: position.to_string(),
            };
            Ok(json(StatusCode::OK, &body))
        }
        Answer::Refused(refusal) => Err(refusal.into()),
        _ => Err(Problem::internal()),
    }
}
