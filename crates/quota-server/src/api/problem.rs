//! Errors as `application/problem+json` (RFC 9457), with a stable `code` and, for bad input, the field.

use axum::body::Body;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quota_core::catalog::Fault;
use quota_core::command::Refusal;
use quota_core::door::Rejection;
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// What goes wrong for a caller.
#[derive(Clone, Debug)]
pub struct Problem(Box<Content>);

#[derive(Clone, Debug)]
struct Content {
    status: StatusCode,
    code: &'static str,
    field: Option<Cow<'static, str>>,
    detail: String,
    errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// One of several faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where, as a dotted path.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// A problem as it is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, title = "Problem")]
pub struct ProblemBody<'a> {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do, for people.
    detail: &'a str,
    /// The stable code, for programs.
    code: &'a str,
    /// The member, parameter or header that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Every fault, where there may be several.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// The error of one item of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemError<'a> {
    /// The stable code, for programs.
    pub code: &'a str,
    /// What happened and what to do, for people.
    pub message: &'a str,
    /// The member that is wrong.
    pub field: Option<&'a str>,
}

impl Problem {
    /// A problem with the whole request.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Content {
            status,
            code,
            field: None,
            detail,
            errors: Vec::new(),
            header: None,
        }))
    }

    /// A problem with one member, parameter or header.
    #[must_use]
    pub fn field(
        code: &'static str,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
        problem.0.field = Some(field.into());
        problem
    }

    /// A member, parameter or header whose value cannot be.
    #[must_use]
    pub fn invalid(field: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::field("invalid_request", field, detail)
    }

    /// What cannot be read at all.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// Whoever calls is not known.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let bearer = HeaderValue::from_static("Bearer realm=\"quota-ledger\"");
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(WWW_AUTHENTICATE, bearer)
    }

    /// Whoever calls may not do this.
    #[must_use]
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// There is nothing here.
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// There is no such product.
    #[must_use]
    pub fn unknown_product() -> Self {
        Self::not_found(
            "unknown_product",
            "there is no such product; its first catalog makes it one",
        )
    }

    /// A fault of ours.
    #[must_use]
    pub fn internal() -> Self {
        let detail = "the service failed on this request; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// The request's body is larger than we take.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("a request's body may have {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    }

    /// Faults of a document that the caller sent.
    #[must_use]
    pub fn faults(code: &'static str, faults: &[Fault]) -> Self {
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, text.join("; "));
        problem.0.field = faults
            .first()
            .filter(|fault| !fault.place.is_empty())
            .map(|f| f.place.clone().into());
        problem.0.errors = faults
            .iter()
            .map(|f| FieldError {
                field: f.place.clone(),
                message: f.message.clone(),
            })
            .collect();
        problem
    }

    /// The same, where the caller's id came in a header: that is what it knows the id by.
    #[must_use]
    pub fn with_id_in(mut self, header: &'static str) -> Self {
        if self.0.field.as_deref() == Some("id") {
            self.0.field = Some(header.into());
        }
        self
    }

    /// The same, with a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The same as the error of an item of a batch.
    #[must_use]
    pub fn as_item(&self) -> ItemError<'_> {
        ItemError {
            code: self.0.code,
            message: &self.0.detail,
            field: self.0.field.as_deref(),
        }
    }

    /// The body's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Content {
            status,
            code,
            field,
            detail,
            errors,
            ..
        } = &*self.0;
        let title = status.canonical_reason().unwrap_or("Error");
        let field = field.as_deref();
        let body = ProblemBody {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail,
            code,
            field,
            errors,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status =
            StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Self::new(status, refusal.code, refusal.message);
        problem.0.field = refusal.field.map(Cow::Borrowed);
        match refusal.retry_after {
            Some(seconds) => problem.with(RETRY_AFTER, seconds.into()),
            None => problem,
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let status = if rejection.malformed {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        let mut problem = Self::new(status, rejection.code, rejection.message);
        problem.0.field = rejection.field.map(Cow::Owned);
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_bytes()));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.0.status == StatusCode::PAYLOAD_TOO_LARGE {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some((name, value)) = self.0.header {
            headers.insert(name, value);
        }
        response
    }
}

/// No route has this path.
#[must_use]
pub fn no_route() -> Problem {
    Problem::not_found(
        "not_found",
        "there is nothing at this path; /docs lists what there is",
    )
}

/// The path has no such method.
#[must_use]
pub fn no_method() -> Problem {
    let detail =
        format!("this path has no such method; the header {ALLOW} names those that it has");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
