//! A product's catalog: the version in force, and publishing the next.

use crate::api::call::{Call, Outcome};
use crate::api::caller::Caller;
use crate::api::json;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use crate::publishing::PublishError;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use quota_core::command::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

/// How a catalog is written.
const TOML: &str = "application/toml";

/// The version in force.
#[utoipa::path(
    get,
    operation_id = "get_catalog",
    path = "/v1/products/{product}/catalog",
    tag = "catalog",
    params(("product" = String, Path, description = "The product")),
    responses(
        (status = 200, description = "The text as it was published; `ETag` is its version", body = String, content_type = "application/toml"),
        (status = 304, description = "`If-None-Match` names the version in force"),
    ),
)]
pub async fn get(call: Call) -> Outcome {
    let product = call.product(&[Scope::Read]).await?;
    let (version, catalog) = call
        .app
        .service
        .catalog(product)
        .ok_or_else(Problem::unknown_product)?;
    let tag = tag(version)?;
    if call
        .header("If-None-Match")?
        .is_some_and(|known| known.as_bytes() == tag.as_bytes())
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().insert(ETAG, tag);
        return Ok(response);
    }
    let mut response = Response::new(Body::from(catalog.text().to_owned()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(TOML));
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

/// What came of publishing.
#[derive(Debug, Serialize, ToSchema)]
pub struct Published<'a> {
    /// The product.
    product: &'a str,
    /// The version in force now.
    version: u32,
    /// Whether it is a new one: publishing the text in force changes nothing.
    changed: bool,
}

/// Publish a new version, or a product's first.
#[utoipa::path(
    put,
    operation_id = "publish_catalog",
    path = "/v1/products/{product}/catalog",
    tag = "catalog",
    params(
        ("product" = String, Path, description = "The product"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the version that this one builds on"),
    ),
    request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = Published<'_>),
        (status = 412, body = ProblemBody<'_>, description = "`version_mismatch`: another was published in between"),
        (status = 422, body = ProblemBody<'_>, description = "`invalid_catalog`: `errors` names every fault"),
    )
)]
pub async fn put(call: Call) -> Outcome {
    let product = publishable(&call).await?;
    let text = std::str::from_utf8(&call.body)
        .map_err(|_| Problem::malformed("the catalog is not UTF-8"))?;
    let if_match = if_match(&call)?;
    let outcome = call
        .app
        .service
        .publish_catalog(product, text, if_match)
        .await;
    let outcome = outcome.map_err(|error| match error {
        PublishError::Faulty(faults) => Problem::faults("invalid_catalog", &faults),
        PublishError::Stale { current } => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "version_mismatch",
            format!("version {current} is in force; build on it and publish again with If-Match: \"{current}\""),
        ),
        PublishError::Unknown(why) => {
            tracing::warn!(why, "it is not known whether a catalog was published");
            Refusal::outcome_unknown().into()
        }
        PublishError::Unavailable(why) => {
            tracing::warn!(why, "a catalog could not be published");
            Refusal::unavailable("the ledger cannot be written just now; nothing was published").into()
        }
    })?;
    let body = Published {
        product,
        version: outcome.version,
        changed: outcome.row.is_some(),
    };
    let mut response = json(StatusCode::OK, &body);
    response.headers_mut().insert(ETAG, tag(outcome.version)?);
    Ok(response)
}

/// The product of the path: a key for all products may publish the first catalog of a new one.
async fn publishable(call: &Call) -> Result<&str, Problem> {
    if let Caller::Service(grant) = call.caller(call.raw("product")).await? {
        let product = call.name("product")?;
        if !call.app.service.has_product(product)
            && grant.opens(product)
            && grant.scopes.holds(Scope::Admin)
        {
            return Ok(product);
        }
    }
    call.product(&[Scope::Admin]).await
}

fn tag(version: u32) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(format!("\"{version}\"")).map_err(|_| Problem::internal())
}

/// The version that the caller builds on; none where any is welcome.
fn if_match(call: &Call) -> Result<Option<u32>, Problem> {
    match call.header("If-Match")?.map(str::trim) {
        None | Some("*") => Ok(None),
        Some(tag) => match tag.trim_matches('"').parse() {
            Ok(version) => Ok(Some(version)),
            // A tag that we never gave is the tag of no version.
            Err(_) => Ok(Some(u32::MAX)),
        },
    }
}
