//! The HTTP API: its routes, and what all calls share.

mod adjustments;
mod batch;
mod call;
mod caller;
mod catalog;
mod check;
mod connection;
mod consume;
mod decision;
mod docs;
mod events;
mod evidence;
mod forward;
mod health;
mod holds;
mod own;
mod problem;
mod receipts;
mod sessions;
mod subjects;
mod webhooks;
mod wire;

pub use connection::Server;
pub use problem::Problem;

use crate::auth::{Keys, Tokens};
use crate::service::Service;
use crate::telemetry::{Meter, Metrics};
use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, any, on};
use call::{Call, Outcome};
use evidence::Evidence;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What all calls share.
pub struct App {
    /// The ledger.
    pub service: Arc<Service>,
    /// The keys in force.
    pub keys: Arc<Keys>,
    /// Users' tokens.
    pub tokens: Tokens,
    /// What is measured.
    pub metrics: Metrics,
    /// What this node answers, and to whom.
    pub answers: Answers,
    evidence: Evidence,
    draining: AtomicBool,
}

/// What a node answers, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// The API; without it, probes and metrics alone.
    pub api: bool,
    /// Probes and metrics to every address, not to loopback alone.
    pub open_probes: bool,
}

/// The same, for many calls at once.
pub type Shared = Arc<App>;

/// The address that a call came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl App {
    /// What all calls share.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        keys: Arc<Keys>,
        tokens: Tokens,
        metrics: Metrics,
        answers: Answers,
    ) -> Shared {
        Arc::new(Self {
            service,
            keys,
            tokens,
            metrics,
            answers,
            evidence: Evidence::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// From now on, answers say that this node is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether this node is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const PUT: MethodFilter = MethodFilter::PUT;

/// Every route.
pub fn router(app: Shared) -> Router {
    let routes = Routes {
        router: Router::new(),
        metrics: app.metrics.clone(),
    };
    let routes = routes
        .on(GET, "/healthz", health::live)
        .on(GET, "/readyz", health::ready)
        .on(GET, "/metrics", health::metrics)
        .on(GET, "/openapi.json", docs::openapi)
        .on(GET, "/", docs::redirect)
        .on(GET, "/docs", docs::redirect)
        .on(GET, "/docs/", docs::page)
        .on(GET, "/docs/{file}", docs::page);
    let routes = if app.answers.api {
        api(routes)
    } else {
        routes.others(|_| async { Err(problem::no_route()) })
    };
    routes
        .router
        // The router names the methods that there are in `Allow`.
        .method_not_allowed_fallback(async || problem::no_method())
        .with_state(app)
}

fn api(routes: Routes) -> Routes {
    routes
        .on(
            POST,
            "/v1/products/{product}/subjects/{subject}/consume",
            consume::consume,
        )
        .on(
            GET,
            "/v1/products/{product}/subjects/{subject}/check",
            check::check,
        )
        .on(
            GET,
            "/v1/products/{product}/subjects/{subject}/entitlements",
            subjects::entitlements,
        )
        .on(
            GET,
            "/v1/products/{product}/subjects/{subject}/ledger",
            subjects::ledger,
        )
        .on(
            GET,
            "/v1/products/{product}/subjects/{subject}/ledger/{position}/receipt",
            receipts::receipt,
        )
        .on(
            POST,
            "/v1/products/{product}/subjects/{subject}/holds/{hold}/confirm",
            holds::confirm,
        )
        .on(
            POST,
            "/v1/products/{product}/subjects/{subject}/holds/{hold}/release",
            holds::release,
        )
        .on(
            POST,
            "/v1/products/{product}/subjects/{subject}/adjustments",
            adjustments::adjust,
        )
        .on(POST, "/v1/products/{product}/events", events::publish)
        .on(
            POST,
            "/v1/products/{product}/webhooks/razorpay",
            webhooks::razorpay,
        )
        .on(
            POST,
            "/v1/products/{product}/consume",
            consume::consume_batch,
        )
        .on(POST, "/v1/products/{product}/check", check::check_batch)
        .on(GET, "/v1/products/{product}/catalog", catalog::get)
        .on(PUT, "/v1/products/{product}/catalog", catalog::put)
        .any("/v1/products/{product}/forward-auth", forward::ask)
        .on(POST, "/api/v1/{product}/sessions", sessions::open)
        .on(GET, "/api/v1/{product}/sessions/{session}", sessions::get)
        .on(
            POST,
            "/api/v1/{product}/sessions/{session}/complete",
            sessions::complete,
        )
        .others(own::page)
}

/// Routes that are being put together.
struct Routes {
    router: Router<Shared>,
    metrics: Metrics,
}

impl Routes {
    /// Adds a route, whose calls are counted and timed.
    fn on<F, Answer>(mut self, method: MethodFilter, path: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Answer + Copy + Send + Sync + 'static,
        Answer: Future<Output = Outcome> + Send + 'static,
    {
        let route = on(method, metered(self.metrics.meter(path), handler));
        self.router = self.router.route(path, route);
        self
    }

    /// The same for every method.
    fn any<F, Answer>(mut self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> Answer + Copy + Send + Sync + 'static,
        Answer: Future<Output = Outcome> + Send + 'static,
    {
        let route = any(metered(self.metrics.meter(path), handler));
        self.router = self.router.route(path, route);
        self
    }

    /// The same for every path that has no route.
    fn others<F, Answer>(mut self, handler: F) -> Self
    where
        F: Fn(Call) -> Answer + Copy + Send + Sync + 'static,
        Answer: Future<Output = Outcome> + Send + 'static,
    {
        let handler = metered(self.metrics.meter("others"), handler);
        self.router = self.router.fallback(handler);
        self
    }
}

/// A handler whose calls are counted and timed.
fn metered<F, Answer>(
    meter: Arc<Meter>,
    handler: F,
) -> impl Fn(Call) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static
where
    F: Fn(Call) -> Answer + Copy + Send + Sync + 'static,
    Answer: Future<Output = Outcome> + Send + 'static,
{
    move |call: Call| {
        let meter = meter.clone();
        async move {
            let started = Instant::now();
            let response = handler(call).await.into_response();
            meter.record(started.elapsed(), response.status());
            response
        }
        .boxed()
    }
}

/// An answer in JSON.
fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    // Our own structs always encode; an empty body would be seen by every client.
    json_bytes(status, serde_json::to_vec(body).unwrap_or_default())
}

/// An answer that is JSON already.
fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
