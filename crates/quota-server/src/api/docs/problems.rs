//! The problems that every call of a kind may be answered with, written once instead of at each of them.

use utoipa::Modify;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, Schema};

/// Problems have a media type of their own.
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

/// What is wrong with a request that cannot be read.
const UNREAD: [(&str, &str); 2] = [
    ("400", "`malformed`: it cannot be read"),
    ("413", "`body_too_large`"),
];
/// What is wrong with a call by a key or a token.
const CALLS: [(&str, &str); 5] = [
    ("401", "`unauthorized`: no key or token that is good"),
    (
        "403",
        "`missing_scope`, `wrong_product`, `wrong_subject`, `users_may_not`",
    ),
    ("404", "`unknown_product`"),
    ("422", "`invalid_request`: `field` names what is wrong"),
    (
        "503",
        "`unavailable`: nothing was recorded; `Retry-After` says when to try again",
    ),
];
/// What may become of a call that is to be recorded.
const RECORDED: [(&str, &str); 1] = [(
    "504",
    "`outcome_unknown`: retry with the same id to learn what came of it",
)];
/// What those are told who are too far away.
const FAR: [(&str, &str); 1] = [("403", "`loopback_only`")];

/// Adds them to the document.
pub struct Problems;

impl Modify for Problems {
    fn modify(&self, document: &mut OpenApi) {
        for (path, item) in &mut document.paths.paths {
            let PathItem { get, put, post, .. } = item;
            let recorded = put.is_some() || post.is_some();
            for operation in [get, put, post].into_iter().flatten() {
                retype(operation);
                if !path.starts_with("/v1/") && !path.starts_with("/api/") {
                    add(operation, &FAR);
                    continue;
                }
                add(operation, &UNREAD);
                if path.ends_with("/webhooks/razorpay") {
                    continue;
                }
                add(operation, &CALLS);
                if recorded || path.ends_with("/forward-auth") {
                    add(operation, &RECORDED);
                }
            }
        }
    }
}

fn problem() -> RefOr<Schema> {
    Ref::from_schema_name("Problem").into()
}

/// Gives those that are named at the call their media type.
fn retype(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else {
            continue;
        };
        let is_problem = |content: &RefOr<Content>| matches!(content, RefOr::T(content) if content.schema == Some(problem()));
        if response.content.get(JSON).is_some_and(is_problem)
            && let Some(content) = response.content.shift_remove(JSON)
        {
            response.content.insert(PROBLEM.to_owned(), content);
        }
    }
}

fn add(operation: &mut Operation, problems: &[(&str, &str)]) {
    for (status, why) in problems {
        let responses = &mut operation.responses.responses;
        let response = responses
            .entry((*status).to_owned())
            .or_insert_with(|| Response::new(*why).into());
        if let RefOr::T(response) = response {
            let content = || Content::new(Some(problem())).into();
            response
                .content
                .entry(PROBLEM.to_owned())
                .or_insert_with(content);
        }
    }
}
