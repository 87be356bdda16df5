//! Consume: may it be done now, and if so it is used or held, in one step.

use crate::answering::Freshness;
use crate::api::batch::{self, Decisions, DecisionsBody, Envelope, Items};
use crate::api::call::{Call, Outcome, visible, within_amounts};
use crate::api::decision::{self, DecisionBody};
use crate::api::problem::{Problem, ProblemBody};
use crate::api::{App, json};
use crate::auth::Scope;
use axum::http::{HeaderName, HeaderValue};
use futures::stream::{self, StreamExt as _};
use quota_core::command::{Answer, Command, Consume, Decision, Refusal, Wish};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;

/// Says that an answer is a first one told again.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The header of a caller's own id.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A gated use.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumeRequest {
    /// The feature.
    feature: String,
    /// Units.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1_000_000_000, default = 1)]
    amount: i64,
    /// The resource that it is used on, or that it makes.
    resource: Option<String>,
    /// Hold for that many seconds instead of using; confirm or release it before they are over.
    #[schema(minimum = 1, maximum = 900)]
    hold_seconds: Option<i64>,
}

/// One of several uses.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumeItem {
    /// The caller's id of this use: a retry with it gets the first outcome.
    id: String,
    /// The subject.
    subject: String,
    /// The feature.
    feature: String,
    /// Units.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1_000_000_000, default = 1)]
    amount: i64,
    /// The resource that it is used on, or that it makes.
    resource: Option<String>,
}

const fn one() -> i64 {
    1
}

/// Ask for a use, and use it if it is allowed.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/subjects/{subject}/consume",
    tag = "consume",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with it gets the first outcome"),
    ),
    request_body = ConsumeRequest,
    responses(
        (status = 200, body = DecisionBody<'_>, description = "Allowed, and used or held"),
        (status = 402, body = DecisionBody<'_>, description = "Denied, where the catalog says 402"),
        (status = 403, body = DecisionBody<'_>, description = "Denied; as a problem: the key may not do this"),
        (status = 409, body = ProblemBody<'_>, description = "`resource_deleted`"),
        (status = 422, body = ProblemBody<'_>, description = "`unknown_feature`, `resource_required`, `not_consumable`, `idempotency_conflict`, `invalid_request`"),
        (status = 429, body = ProblemBody<'_>, description = "`too_many_denials`, `too_many_holds`"),
        (status = 503, body = ProblemBody<'_>, description = "`unavailable`: nothing was recorded"),
        (status = 504, body = ProblemBody<'_>, description = "`outcome_unknown`: retry with the same key"),
    )
)]
pub async fn consume(call: Call) -> Outcome {
    let address = call.subject(&[Scope::Consume]).await?;
    let key = idempotency_key(&call)?;
    let asked: ConsumeRequest = call.json()?;
    let wish = wish(asked, key)?;
    let answer = call.app.service.submit(Command { address, wish }).await;
    let outcome = outcome(&call.app, answer).await;
    let (decision, evidence) = outcome.map_err(|problem| problem.with_id_in(IDEMPOTENCY_KEY))?;
    let body = decision::body(&decision, &evidence, fresh(&call.app));
    let mut response = json(body.status(), &body);
    if decision.replayed {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Ask for several uses, each by itself.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/consume",
    tag = "consume",
    params(("product" = String, Path, description = "The product")),
    request_body(content = inline(Envelope<ConsumeItem>), description = "At most 1,000"),
    responses((status = 200, body = DecisionsBody<'_>, description = "In order; each has its `id`, its `status`, and a decision's members or `error`")),
)]
pub async fn consume_batch(call: Call) -> Outcome {
    let product = call.product(&[Scope::Consume]).await?;
    let items: Items<ConsumeItem> = batch::read(&call.body)?;
    let mut commands = Vec::with_capacity(items.len());
    let asked: Vec<(Option<String>, Result<(), Problem>)> = items
        .into_iter()
        .map(|(id, item)| {
            let command = item.and_then(|item| command(&call.app, product, item));
            (id, command.map(|command| commands.push(command)))
        })
        .collect();
    let answers = call.app.service.submit_all(commands).await;
    // The ids behind several refusals are read side by side.
    let answers = stream::iter(answers)
        .map(|answer| outcome(&call.app, answer))
        .buffered(16);
    let mut answers = answers.collect::<Vec<_>>().await.into_iter();
    let mut told = Decisions::with_capacity(asked.len());
    for (id, asked) in asked {
        match asked.and_then(|()| answers.next().unwrap_or_else(|| Err(Problem::internal()))) {
            Ok((decision, evidence)) => {
                let body = decision::body(&decision, &evidence, fresh(&call.app));
                told.decided(id.as_deref(), body.status(), &body);
            }
            Err(problem) => told.failed(id.as_deref(), &problem),
        }
    }
    Ok(told.finish())
}

/// A consume's decision, with the ids of the events behind it.
async fn outcome(app: &App, answer: Answer) -> Result<(Box<Decision>, Vec<Arc<str>>), Problem> {
    match answer {
        Answer::Decided(decision) => {
            // The decision is made, and may be recorded: 503 would say that nothing is.
            let evidence = app.evidence.of(&app.service, &decision).await;
            let evidence = evidence.map_err(|_| Problem::from(Refusal::outcome_unknown()))?;
            Ok((decision, evidence))
        }
        Answer::Refused(refusal) => Err(refusal.into()),
        _ => Err(Problem::internal()),
    }
}

fn command(app: &App, product: &str, item: ConsumeItem) -> Result<Command, Problem> {
    visible(&item.id).map_err(|why| Problem::invalid("id", why))?;
    visible(&item.subject).map_err(|why| Problem::invalid("subject", why))?;
    let ConsumeItem {
        id,
        subject,
        feature,
        amount,
        resource,
    } = item;
    let wish = wish(
        ConsumeRequest {
            feature,
            amount,
            resource,
            hold_seconds: None,
        },
        Some(id),
    )?;
    Ok(Command {
        address: app.address(product, &subject),
        wish,
    })
}

fn wish(asked: ConsumeRequest, key: Option<String>) -> Result<Wish, Problem> {
    let ConsumeRequest {
        feature,
        amount,
        resource,
        hold_seconds,
    } = asked;
    named(&feature, resource.as_deref())?;
    let amount = within_amounts(amount)?;
    if hold_seconds.is_some_and(|seconds| !(1..=900).contains(&seconds)) {
        return Err(Problem::invalid("hold_seconds", "must be from 1 to 900"));
    }
    // An id of our own is needed only where the caller has none.
    let fresh_id = if key.is_some() {
        String::new()
    } else {
        Uuid::now_v7().to_string()
    };
    Ok(Wish::Consume(Consume {
        feature,
        amount,
        resource,
        hold_seconds,
        key,
        fresh_id,
    }))
}

/// Checks the names of a feature and a resource.
///
/// # Errors
/// The one that breaks the rule for names.
pub fn named(feature: &str, resource: Option<&str>) -> Result<(), Problem> {
    visible(feature).map_err(|why| Problem::invalid("feature", why))?;
    resource
        .map_or(Ok(()), visible)
        .map_err(|why| Problem::invalid("resource", why))
}

/// The caller's own id, bare or as a quoted string.
///
/// # Errors
/// It breaks the rule for names.
pub fn idempotency_key(call: &Call) -> Result<Option<String>, Problem> {
    own_id(call, IDEMPOTENCY_KEY)
}

/// The same from another header.
///
/// # Errors
/// It breaks the rule for names.
pub fn own_id(call: &Call, name: &'static str) -> Result<Option<String>, Problem> {
    let Some(header) = call.header(name)? else {
        return Ok(None);
    };
    let key = unquoted(header.trim());
    visible(&key).map_err(|why| Problem::invalid(name, why))?;
    Ok(Some(key))
}

fn unquoted(text: &str) -> String {
    let Some(inner) = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return text.to_owned();
    };
    let mut key = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        key.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    key
}

/// A decision was made at the head, just now.
fn fresh(app: &App) -> Freshness {
    Freshness {
        as_of: app.service.now(),
        age_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_quoted() {
        assert_eq!(unquoted("k-1"), "k-1");
        assert_eq!(unquoted(r#""k-1""#), "k-1");
        assert_eq!(unquoted(r#""a\"b\\c""#), r#"a"b\c"#);
        assert_eq!(unquoted("\""), "\"");
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_by_name() {
        let ask = |amount, hold_seconds, resource: Option<&str>| {
            let resource = resource.map(str::to_owned);
            wish(
                ConsumeRequest {
                    feature: "f".into(),
                    amount,
                    resource,
                    hold_seconds,
                },
                None,
            )
        };
        let field = |problem: Problem| problem.as_item().field.map(str::to_owned);
        assert!(ask(1, None, None).is_ok() && ask(1_000_000_000, Some(900), Some("r")).is_ok());
        for amount in [0, -1, 1_000_000_001] {
            assert_eq!(
                field(ask(amount, None, None).unwrap_err()).as_deref(),
                Some("amount")
            );
        }
        for seconds in [0, 901] {
            assert_eq!(
                field(ask(1, Some(seconds), None).unwrap_err()).as_deref(),
                Some("hold_seconds")
            );
        }
        assert_eq!(
            field(ask(1, None, Some(" ")).unwrap_err()).as_deref(),
            Some("resource")
        );
    }
}
