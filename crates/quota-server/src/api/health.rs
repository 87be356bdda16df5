//! For those who run the service: is it alive, is it ready, and what does it measure.

use crate::api::call::{Call, Outcome};
use crate::api::problem::Problem;
use crate::api::{Peer, json};
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Whether this process answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `live`.
    status: &'static str,
}

/// Whether one thing that it depends on is there.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dependency {
    /// Whether it is.
    ready: bool,
    /// Why not.
    why: Option<String>,
}

/// Whether it can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadinessBody {
    /// Whether all of it is there.
    ready: bool,
    /// `postgres`, `kafka`, `writer`.
    dependencies: BTreeMap<&'static str, Dependency>,
}

/// Is this process alive?
#[utoipa::path(get, path = "/healthz", tag = "operation",
    security(()), responses((status = 200, body = Health)))]
pub async fn live(call: Call) -> Outcome {
    near(&call)?;
    Ok(json(StatusCode::OK, &Health { status: "live" }))
}

/// Can this node do its work?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    security(()),
    responses((status = 200, body = ReadinessBody), (status = 503, body = ReadinessBody))
)]
pub async fn ready(call: Call) -> Outcome {
    near(&call)?;
    let readiness = call.app.service.readiness().await;
    let draining = call
        .app
        .draining()
        .then(|| "this node is stopping".to_owned());
    let named = [
        ("postgres", readiness.postgres),
        ("kafka", readiness.kafka),
        ("writer", readiness.writer.or(draining)),
    ];
    let ready = named.iter().all(|(_, why)| why.is_none());
    let dependencies = named
        .into_iter()
        .map(|(name, why)| {
            (
                name,
                Dependency {
                    ready: why.is_none(),
                    why,
                },
            )
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(json(
        status,
        &ReadinessBody {
            ready,
            dependencies,
        },
    ))
}

/// What it measures, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    security(()),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub async fn metrics(call: Call) -> Outcome {
    near(&call)?;
    let mut response = Response::new(Body::from(call.app.metrics.render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}

/// These answers are for this machine alone, where nothing else is configured.
fn near(call: &Call) -> Result<(), Problem> {
    let peer = call.parts.extensions.get::<Peer>();
    if call.app.answers.open_probes || peer.is_some_and(|peer| peer.0.is_loopback()) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "loopback_only",
        "this answers on loopback alone; --open-probes opens it",
    ))
}
