//! Pages that a catalog puts at a path of its product's own, and what all of the products' own endpoints share.

use crate::api::call::{Call, Outcome, at_least};
use crate::api::json;
use crate::api::problem::{self, ProblemBody};
use crate::auth::Scope;
use axum::http::header::ALLOW;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use quota_core::position::Position;

/// The position that an answer is true at.
pub const POSITION: HeaderName = HeaderName::from_static("x-quota-position");
const AGE: HeaderName = HeaderName::from_static("x-quota-age-ms");

/// A user's usage, on the page that the product's catalog puts at a path of its own.
///
/// It has the features that the catalog lists, in its order; ApplyX's is at `/api/v1/subscription/usage`. A limit of -1
/// is none.
#[utoipa::path(
    get,
    operation_id = "usage_page",
    path = "/api/v1/subscription/usage",
    tag = "the products' own",
    params(
        ("X-Quota-Subject" = Option<String>, Header, description = "The user that a service acts for"),
        ("at_least" = Option<String>, Query, description = "Answer from no older state than this position's"),
    ),
    responses(
        (status = 200, description = "Plan, `used` and `limit` of each feature, and which limits are reached", body = Object),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`"),
    )
)]
pub async fn page(call: Call) -> Outcome {
    let node = call.app.service.node();
    let owner = node.shelf.with_usage_page(call.parts.uri.path());
    let product = owner.ok_or_else(problem::no_route)?;
    if ![Method::GET, Method::HEAD].contains(&call.parts.method) {
        return Err(problem::no_method().with(ALLOW, HeaderValue::from_static("GET,HEAD")));
    }
    let address = call.user(&product, Scope::Check).await?;
    let [position] = call.query(["at_least"])?;
    let at_least = at_least(position.as_deref())?;
    let (body, position, freshness) = node.usage_page(&address, at_least).await?;
    let body = body.ok_or_else(problem::no_route)?;
    let response = json(StatusCode::OK, &body);
    Ok(stamped(response, position, freshness.age_ms))
}

/// The answer with the position that it is true at, and its age.
pub fn stamped(mut response: Response, position: Position, age_ms: u64) -> Response {
    let headers = response.headers_mut();
    if let Ok(position) = HeaderValue::try_from(position.to_string()) {
        headers.insert(POSITION, position);
    }
    headers.insert(AGE, age_ms.into());
    response
}
