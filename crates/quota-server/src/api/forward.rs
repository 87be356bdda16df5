//! Forward-auth: a gateway asks about every request before it passes it on.
//!
//! The route comes from headers that the gateway sets; `quota_core::route` reads it, and refuses what an upstream could
//! read otherwise. What is allowed is in the ledger before the gateway is answered, so before the upstream sees anything.

use crate::api::call::{Call, Outcome, read_query, visible};
use crate::api::caller::{ON_BEHALF, bad};
use crate::api::own::POSITION;
use crate::api::problem::{Problem, ProblemBody};
use crate::api::{consume, json};
use crate::auth::{Grant, Scope, is_token};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use quota_core::catalog::Route;
use quota_core::command::{Address, Answer, Command, Consume, Decision, Wish};
use quota_core::judge::Question;
use quota_core::{render, route};
use std::sync::Arc;
use uuid::Uuid;

const SUBJECT: HeaderName = HeaderName::from_static("x-quota-subject");
const HOLD: HeaderName = HeaderName::from_static("x-quota-hold");
const STATUS: HeaderName = HeaderName::from_static("x-quota-status");
/// The header whose value is the idempotency key, under a gateway's key.
const REQUEST_ID: &str = "X-Request-Id";

/// The headers in which gateways tell the request that they ask about: Traefik's and Caddy's, and nginx's custom.
const FORWARDED: [(&str, &str); 2] = [
    ("X-Forwarded-Method", "X-Forwarded-Uri"),
    ("X-Original-Method", "X-Original-URI"),
];

/// May this request pass? For gateways; any method will do.
#[utoipa::path(
    get,
    operation_id = "forward_auth",
    path = "/v1/products/{product}/forward-auth",
    tag = "gateways",
    params(
        ("product" = String, Path, description = "The product"),
        ("X-Quota-Key" = String, Header, description = "The gateway's key: scope consume uses a unit, check alone asks"),
        ("Authorization" = Option<String>, Header, description = "The user's token"),
        ("X-Quota-Subject" = Option<String>, Header, description = "The user, under a key with the scope gateway"),
        ("X-Forwarded-Method" = Option<String>, Header, description = "The request's method; or X-Original-Method"),
        ("X-Forwarded-Uri" = Option<String>, Header, description = "The request's path and query; or X-Original-URI"),
        ("X-Request-Id" = Option<String>, Header, description = "The idempotency key, under a key with the scope gateway"),
        ("mode" = Option<String>, Query, description = "`check` asks without using"),
        ("deny_status" = Option<String>, Query, description = "`real` denies with the product's own status"),
    ),
    responses(
        (status = 200, description = "It may: `X-Quota-Subject`, `X-Quota-Position`, and `X-Quota-Hold` on a route that holds"),
        (status = 400, body = ProblemBody<'_>, description = "The forwarded request can be read in more than one way"),
        (status = 401, body = ProblemBody<'_>, description = "No key, or no user on a gated route"),
        (status = 402, body = Object, description = "Denied, with `deny_status=real`, where the catalog says 402"),
        (status = 403, body = Object, description = "Denied, with the product's own body; `X-Quota-Status` has its status"),
        (status = 429, body = ProblemBody<'_>, description = "`too_many_denials`, `too_many_holds`"),
    )
)]
pub async fn ask(call: Call) -> Outcome {
    let product = call.raw("product");
    let gateway = gateway(&call)?;
    call.allow(&gateway, product, &[Scope::Consume, Scope::Check])?;
    let (_, catalog) = call
        .app
        .service
        .catalog(product)
        .ok_or_else(Problem::unknown_product)?;
    let (method, uri) = forwarded(&call)?;
    let options = Options::of(&call, uri)?;
    let odd = |odd: route::Odd| Problem::malformed(odd.to_string());
    let path = route::normal(uri).map_err(odd)?;
    let route = route::find(&catalog.model().routes, method, &path).map_err(odd)?;
    let user = user(&call, product, &gateway).await;
    let Some(route) = route else {
        return Ok(named(empty(), user.ok().as_deref()));
    };
    let address = call.app.address(product, &user?);
    let uses = gateway.scopes.holds(Scope::Consume) && !options.check;
    let decision = if uses {
        consume(&call, &gateway, address, route).await?
    } else {
        let question = Question {
            feature: route.feature.clone(),
            amount: 1,
            resource: None,
        };
        call.app.service.check(&address, &question, None).await?.0
    };
    Ok(told(&decision, options.real))
}

/// The gateway, by its key.
fn gateway(call: &Call) -> Result<Arc<Grant>, Problem> {
    let key = call.header("X-Quota-Key").ok().flatten();
    let grant = key.and_then(|key| call.app.keys.find(key.trim()));
    grant.ok_or_else(|| Problem::unauthorized("send the gateway's key in X-Quota-Key"))
}

/// The method and target of the request that is asked about.
fn forwarded(call: &Call) -> Result<(&str, &str), Problem> {
    let mut found = None;
    for (method, uri) in FORWARDED {
        let once = |name| call.header(name).map_err(|_| twofold());
        let (Some(method), Some(uri)) = (once(method)?, once(uri)?) else {
            continue;
        };
        // A client may have sent the pair that its gateway does not set.
        if found.is_some_and(|found| found != (method, uri)) {
            return Err(twofold());
        }
        found = Some((method, uri));
    }
    found.ok_or_else(|| {
        Problem::malformed(
            "send X-Forwarded-Method and X-Forwarded-Uri, or X-Original-Method and X-Original-URI",
        )
    })
}

fn twofold() -> Problem {
    Problem::malformed("the headers tell of more than one request, or are not UTF-8")
}

/// What the gateway's address asks for.
struct Options {
    check: bool,
    real: bool,
}

impl Options {
    /// Some gateways hang the request's own query behind theirs; its parameters are not the gateway's.
    fn of(call: &Call, uri: &str) -> Result<Self, Problem> {
        let query = call.parts.uri.query().unwrap_or_default();
        let passed_on = uri.split_once('?').map_or("", |(_, query)| query);
        let own = match query.strip_suffix(passed_on) {
            Some("") if !passed_on.is_empty() => "",
            Some(own) if !passed_on.is_empty() && own.ends_with('&') => own,
            _ => query,
        };
        let [mode, deny_status] = read_query(own, ["mode", "deny_status"])?;
        let is = |name: &'static str, given: Option<String>, word: &'static str| match given {
            None => Ok(false),
            Some(given) if given == word => Ok(true),
            Some(_) => Err(Problem::invalid(name, format!("there is only {word}"))),
        };
        Ok(Self {
            check: is("mode", mode, "check")?,
            real: is("deny_status", deny_status, "real")?,
        })
    }
}

/// The user: named by a trusted gateway, else by a token.
async fn user(call: &Call, product: &str, gateway: &Grant) -> Result<String, Problem> {
    let named = call.header(ON_BEHALF)?.map(str::trim);
    let named = named.filter(|name| gateway.scopes.holds(Scope::Gateway) && !name.is_empty());
    if let Some(name) = named {
        visible(name).map_err(|why| Problem::invalid(ON_BEHALF, why))?;
        return Ok(name.to_owned());
    }
    match call.bearer() {
        Some(word) if is_token(word) => {
            let subject = call.app.tokens.subject(product, word).await;
            subject.map_err(bad)
        }
        _ => Err(Problem::unauthorized(
            "this route needs a user: Authorization: Bearer <token>",
        )),
    }
}

async fn consume(
    call: &Call,
    gateway: &Grant,
    address: Address,
    route: &Route,
) -> Result<Decision, Problem> {
    // From anybody else it would be the user's own choice: one allowed answer, told again for ever.
    let key = if gateway.scopes.holds(Scope::Gateway) {
        consume::own_id(call, REQUEST_ID)?
    } else {
        None
    };
    let fresh_id = Uuid::now_v7().to_string();
    let wish = Wish::Consume(Consume {
        feature: route.feature.clone(),
        amount: 1,
        resource: None,
        hold_seconds: route.hold_seconds.map(i64::from),
        key,
        fresh_id,
    });
    match call.app.service.submit(Command { address, wish }).await {
        Answer::Decided(decision) => Ok(*decision),
        Answer::Refused(refusal) => Err(Problem::from(refusal).with_id_in(REQUEST_ID)),
        _ => Err(Problem::internal()),
    }
}

fn told(decision: &Decision, real: bool) -> Response {
    let Some((status, body)) = render::denial(decision) else {
        let mut response = named(empty(), Some(&decision.address.subject));
        let headers = response.headers_mut();
        let position = decision.position.to_string();
        for (name, value) in [(POSITION, Some(&position)), (HOLD, decision.hold.as_ref())] {
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
        return response;
    };
    let own = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = json(if real { own } else { StatusCode::FORBIDDEN }, &body);
    response.headers_mut().insert(STATUS, status.into());
    named(response, Some(&decision.address.subject))
}

fn empty() -> Response {
    Response::new(Body::empty())
}

/// The answer with the user's name. Visible characters beyond ASCII are sent as UTF-8.
fn named(mut response: Response, subject: Option<&str>) -> Response {
    let subject = subject.and_then(|subject| HeaderValue::from_bytes(subject.as_bytes()).ok());
    if let Some(subject) = subject {
        response.headers_mut().insert(SUBJECT, subject);
    }
    response
}
