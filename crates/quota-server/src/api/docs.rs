//! What the API is: an OpenAPI 3.1 document made from the code, and pages that load nothing from outside.

mod problems;

use crate::api::call::{Call, Outcome};
use crate::api::problem::{Problem, ProblemBody};
use crate::api::{
    adjustments, catalog, check, consume, events, forward, health, holds, json_bytes, own,
    receipts, sessions, subjects, webhooks,
};
use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use problems::Problems;
use std::sync::{Arc, OnceLock};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "quota-ledger",
        description = "May this user do this now? This user did this. To try it here, press Authorize and paste a key: \
                       `dev` prints one, `quota-ledger key create` makes others."
    ),
    paths(
        events::publish,
        consume::consume,
        consume::consume_batch,
        holds::confirm,
        holds::release,
        check::check,
        check::check_batch,
        subjects::entitlements,
        subjects::ledger,
        receipts::receipt,
        catalog::get,
        catalog::put,
        adjustments::adjust,
        forward::ask,
        sessions::open,
        sessions::get,
        sessions::complete,
        own::page,
        webhooks::razorpay,
        health::live,
        health::ready,
        health::metrics,
    ),
    components(schemas(ProblemBody<'_>)),
    security(("key" = [])),
    modifiers(&Keys, &Problems),
)]
struct Document;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(
            "key",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        );
    }
}

/// The document's bytes.
fn document() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| serde_json::to_vec(&Document::openapi()).unwrap_or_default())
}

/// The OpenAPI document.
pub async fn openapi(_call: Call) -> Outcome {
    Ok(json_bytes(StatusCode::OK, document().to_vec()))
}

/// The way to the pages. Not a permanent one: browsers would keep it for whatever answers at this address later.
pub async fn redirect(_call: Call) -> Outcome {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static("/docs/"));
    Ok(response)
}

/// A file of the pages.
pub async fn page(call: Call) -> Outcome {
    static CONFIG: OnceLock<Arc<utoipa_swagger_ui::Config<'static>>> = OnceLock::new();
    // Without this, a page that is not on localhost would have a badge made by somebody else's server.
    let config =
        || Arc::new(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none"));
    let name = call.parts.uri.path().trim_start_matches("/docs/");
    let file =
        utoipa_swagger_ui::serve(name, CONFIG.get_or_init(config).clone()).map_err(|error| {
            tracing::error!(%error, name, "the pages cannot be served");
            Problem::internal()
        })?;
    let file = file.ok_or_else(|| Problem::not_found("not_found", "there is no such page"))?;
    let mut bytes = file.bytes.into_owned();
    if file.content_type == "text/html" {
        // A tab among many should say what it is about, not what it was made with.
        let page = String::from_utf8_lossy(&bytes);
        bytes = page
            .replace("<title>Swagger UI</title>", "<title>quota-ledger</title>")
            .into_bytes();
    }
    let mut response = Response::new(Body::from(bytes));
    let kind = HeaderValue::try_from(file.content_type).map_err(|_| Problem::internal())?;
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:";
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}
