//! Sessions, in the shapes that the product's own clients know: one active one of a type, gated when a new one is asked
//! for. Every product whose catalog has session types has these endpoints.

use crate::api::call::{Call, Outcome, at_least, visible};
use crate::api::json;
use crate::api::own::stamped;
use crate::api::problem::{Problem, ProblemBody};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::command::{
    Address, Answer, Command, SessionAnswer, SessionState, SessionStatus, Wish,
};
use quota_core::position::Position;
use quota_core::render;
use quota_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A wish for a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// A type of the product's catalog.
    #[schema(example = "resume_creation")]
    session_type: String,
    /// Close an active session of that type and open another.
    #[serde(default)]
    force_new: bool,
}

/// What came of a session.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// The resume.
    resume_id: String,
}

/// A session.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody<'a> {
    /// Its id, a UUID.
    id: &'a str,
    /// Its type.
    session_type: &'a str,
    /// `active`, `completed` or `superseded`.
    #[schema(value_type = String)]
    status: SessionStatus,
    /// The resume that came of it.
    resume_id: Option<&'a str>,
    /// When it was opened.
    created_at: String,
    /// When it was completed.
    completed_at: Option<String>,
}

/// Open a session, or find the active one of its type.
#[utoipa::path(
    post,
    operation_id = "open_session",
    path = "/api/v1/{product}/sessions",
    tag = "the products' own",
    params(
        ("product" = String, Path, description = "The product"),
        ("X-Quota-Subject" = Option<String>, Header, description = "The user that a service acts for"),
        ("at_least" = Option<String>, Query, description = "Decide on no older state than this position's"),
    ),
    request_body = SessionRequest,
    responses(
        (status = 201, body = SessionBody<'_>, description = "The session, new or active already"),
        (status = 403, description = "The product's own refusal", body = Object),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`"),
        (status = 429, body = ProblemBody<'_>, description = "`too_many_denials`"),
        (status = 422, body = ProblemBody<'_>, description = "`unknown_session_type`, `invalid_request`"),
    )
)]
pub async fn open(call: Call) -> Outcome {
    let address = user(&call, Scope::Consume).await?;
    let position = position(&call)?;
    let asked: SessionRequest = call.json()?;
    visible(&asked.session_type).map_err(|why| Problem::invalid("session_type", why))?;
    let wish = Wish::OpenSession {
        session_type: asked.session_type,
        force_new: asked.force_new,
        fresh_id: Uuid::new_v4().to_string(),
    };
    carry_out(&call, address, position, wish, StatusCode::CREATED).await
}

/// A session.
#[utoipa::path(
    get,
    operation_id = "get_session",
    path = "/api/v1/{product}/sessions/{session}",
    tag = "the products' own",
    params(
        ("product" = String, Path, description = "The product"),
        ("session" = String, Path, description = "The session"),
        ("X-Quota-Subject" = Option<String>, Header, description = "The user that a service acts for"),
        ("at_least" = Option<String>, Query, description = "Answer from no older state than this position's"),
    ),
    responses(
        (status = 200, body = SessionBody<'_>),
        (status = 404, body = ProblemBody<'_>, description = "`unknown_session`: the user has none of this id"),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`"),
    )
)]
pub async fn get(call: Call) -> Outcome {
    let address = user(&call, Scope::Check).await?;
    let at_least = position(&call)?;
    let id = session_id(&call)?;
    let node = call.app.service.node();
    let (session, position, freshness) = node.session(&address, id, at_least).await?;
    let session = session.ok_or_else(unknown)?;
    let response = json(StatusCode::OK, &body(&session));
    Ok(stamped(response, position, freshness.age_ms))
}

/// Complete a session with the resume that came of it. Completing again with the same answers the same.
#[utoipa::path(
    post,
    operation_id = "complete_session",
    path = "/api/v1/{product}/sessions/{session}/complete",
    tag = "the products' own",
    params(
        ("product" = String, Path, description = "The product"),
        ("session" = String, Path, description = "The session"),
        ("X-Quota-Subject" = Option<String>, Header, description = "The user that a service acts for"),
        ("at_least" = Option<String>, Query, description = "Decide on no older state than this position's"),
    ),
    request_body = CompletionRequest,
    responses(
        (status = 200, body = SessionBody<'_>),
        (status = 404, body = ProblemBody<'_>, description = "`unknown_session`: the user has none of this id"),
        (status = 409, body = ProblemBody<'_>, description = "`session_completed` with another resume, `session_superseded`, `position_not_reached`"),
    )
)]
pub async fn complete(call: Call) -> Outcome {
    let address = user(&call, Scope::Consume).await?;
    let position = position(&call)?;
    let asked: CompletionRequest = call.json()?;
    visible(&asked.resume_id).map_err(|why| Problem::invalid("resume_id", why))?;
    let wish = Wish::CompleteSession {
        session: session_id(&call)?.to_owned(),
        resource: asked.resume_id,
    };
    carry_out(&call, address, position, wish, StatusCode::OK).await
}

/// The user, of a product that has sessions.
async fn user(call: &Call, scope: Scope) -> Result<Address, Problem> {
    let product = call.raw("product");
    let address = call.user(product, scope).await?;
    let catalog = call.app.service.catalog(product);
    match catalog {
        Some((_, catalog)) if !catalog.model().sessions.is_empty() => Ok(address),
        _ => Err(crate::api::problem::no_route()),
    }
}

fn position(call: &Call) -> Result<Option<Position>, Problem> {
    let [position] = call.query(["at_least"])?;
    at_least(position.as_deref())
}

/// The session of the path. What breaks the rule for names is nobody's.
fn session_id(call: &Call) -> Result<&str, Problem> {
    call.name("session").map_err(|_| unknown())
}

async fn carry_out(
    call: &Call,
    address: Address,
    at_least: Option<Position>,
    wish: Wish,
    status: StatusCode,
) -> Outcome {
    let service = &call.app.service;
    if let Some(position) = at_least {
        service.node().reach(&address, position).await?;
    }
    match service.submit(Command { address, wish }).await {
        Answer::Session(answer) => told(&answer, status),
        Answer::Refused(refusal) => Err(refusal.into()),
        _ => Err(Problem::internal()),
    }
}

fn told(answer: &SessionAnswer, status: StatusCode) -> Outcome {
    let denied = answer.denied.as_ref().and_then(render::denial);
    let response = match (&answer.session, denied) {
        (Some(session), _) => json(status, &body(session)),
        (None, Some((status, body))) => json(
            StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
            &body,
        ),
        (None, None) => return Err(Problem::internal()),
    };
    // Decided at the head, just now.
    Ok(stamped(response, answer.position, 0))
}

fn body(session: &SessionState) -> SessionBody<'_> {
    SessionBody {
        id: &session.id,
        session_type: &session.session_type,
        status: session.status,
        resume_id: session.resource.as_deref(),
        created_at: session.created_at.to_millis_text(),
        completed_at: session.completed_at.map(Timestamp::to_millis_text),
    }
}

fn unknown() -> Problem {
    Problem::not_found("unknown_session", "this user has no such session")
}
