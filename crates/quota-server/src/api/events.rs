//! Events: what services tell, one by one or many at once.

use crate::api::call::{Call, Outcome};
use crate::api::problem::{ItemError, Problem, ProblemBody};
use crate::auth::Scope;
use serde::Serialize;
use utoipa::ToSchema;

/// What came of the events, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Results<'a> {
    /// One for each event.
    results: Vec<EventResult<'a>>,
}

/// What came of one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventResult<'a> {
    /// The event's id; null where it has none that could be read.
    id: Option<&'a str>,
    /// `recorded`, `duplicate` or `rejected`.
    status: &'static str,
    /// Where it is recorded.
    position: Option<String>,
    /// Why it was rejected.
    error: Option<ItemError<'a>>,
}

/// Tell what happened, as CloudEvents: structured, binary or in a batch.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/events",
    tag = "events",
    params(("product" = String, Path, description = "The product")),
    request_body(content(
        (Object = "application/cloudevents+json"),
        ([Object] = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, body = Results<'_>, description = "Durable; of a batch, whatever its events' fate"),
        (status = 400, body = ProblemBody<'_>, description = "`malformed`"),
        (status = 409, body = ProblemBody<'_>, description = "`idempotency_conflict`"),
        (status = 422, body = ProblemBody<'_>, description = "The event's own code"),
    )
)]
pub async fn publish(call: Call) -> Outcome {
    let _product = call.product(&[Scope::Publish])?;
    Err(Problem::internal())
}
