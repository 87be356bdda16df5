//! Check: may it be done now? Nothing is used.

use crate::answering::Freshness;
use crate::api::batch::{self, Decisions, DecisionsBody, Envelope, Items};
use crate::api::call::{Call, Outcome, amount, at_least, visible, within_amounts};
use crate::api::consume::named;
use crate::api::decision::{self, DecisionBody};
use crate::api::problem::{Problem, ProblemBody};
use crate::api::{App, json};
use crate::auth::Scope;
use axum::http::StatusCode;
use futures::stream::{self, StreamExt as _};
use quota_core::command::{Address, Decision};
use quota_core::judge::Question;
use quota_core::position::Position;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// One of several questions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckItem {
    /// The caller's id of this question; its answer carries it.
    #[expect(
        dead_code,
        reason = "read before the rest, so that a bad item is answered under its id"
    )]
    id: Option<String>,
    /// The subject.
    subject: String,
    /// The feature.
    feature: String,
    /// Units.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1_000_000_000, default = 1)]
    amount: i64,
    /// The resource that it would be used on, or that it would make.
    resource: Option<String>,
    /// Answer from no older state than this position's.
    at_least: Option<String>,
}

const fn one() -> i64 {
    1
}

type Answered = Result<(Decision, Vec<Arc<str>>, Freshness), Problem>;

/// Ask whether a use is allowed now, without using it.
#[utoipa::path(
    get,
    path = "/v1/products/{product}/subjects/{subject}/check",
    tag = "check",
    params(
        ("product" = String, Path, description = "The product"),
        ("subject" = String, Path, description = "The user"),
        ("feature" = String, Query, description = "The feature"),
        ("amount" = Option<i64>, Query, description = "Units; 1 by default"),
        ("resource" = Option<String>, Query, description = "The resource"),
        ("at_least" = Option<String>, Query, description = "Answer from no older state than this position's"),
    ),
    responses(
        (status = 200, body = DecisionBody<'_>, description = "The answer, `allowed` true or false"),
        (status = 409, body = ProblemBody<'_>, description = "`position_not_reached`"),
        (status = 422, body = ProblemBody<'_>, description = "`unknown_feature`, `resource_required`, `invalid_position`, `wrong_partition`, `invalid_request`"),
    )
)]
pub async fn check(call: Call) -> Outcome {
    let address = call.subject_or_self(&[Scope::Check]).await?;
    let [feature, units, resource, position] =
        call.query(["feature", "amount", "resource", "at_least"])?;
    let feature =
        feature.ok_or_else(|| Problem::invalid("feature", "this parameter is missing"))?;
    named(&feature, resource.as_deref())?;
    let question = Question {
        feature,
        amount: amount(units.as_deref())?,
        resource,
    };
    let at_least = at_least(position.as_deref())?;
    let (decision, evidence, freshness) = answered(&call.app, &address, question, at_least).await?;
    Ok(json(
        StatusCode::OK,
        &decision::body(&decision, &evidence, freshness),
    ))
}

/// Ask several questions, each by itself.
#[utoipa::path(
    post,
    path = "/v1/products/{product}/check",
    tag = "check",
    params(("product" = String, Path, description = "The product")),
    request_body(content = inline(Envelope<CheckItem>), description = "At most 1,000"),
    responses((status = 200, body = DecisionsBody<'_>, description = "In order; each has its `id`, its `status`, and a decision's members or `error`")),
)]
pub async fn check_batch(call: Call) -> Outcome {
    let product = call.product(&[Scope::Check]).await?;
    let items: Items<CheckItem> = batch::read(&call.body)?;
    let mut told = Decisions::with_capacity(items.len());
    let mut answers = stream::iter(items)
        .map(|(id, item)| async { (id, asked(&call.app, product, item).await) })
        .buffered(16);
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok((decision, evidence, freshness)) => {
                let body = decision::body(&decision, &evidence, freshness);
                told.decided(id.as_deref(), StatusCode::OK, &body);
            }
            Err(problem) => told.failed(id.as_deref(), &problem),
        }
    }
    Ok(told.finish())
}

async fn asked(app: &App, product: &str, item: Result<CheckItem, Problem>) -> Answered {
    let CheckItem {
        subject,
        feature,
        amount,
        resource,
        at_least: position,
        ..
    } = item?;
    visible(&subject).map_err(|why| Problem::invalid("subject", why))?;
    named(&feature, resource.as_deref())?;
    let question = Question {
        feature,
        amount: within_amounts(amount)?,
        resource,
    };
    let at_least = at_least(position.as_deref())?;
    answered(app, &app.address(product, &subject), question, at_least).await
}

async fn answered(
    app: &App,
    address: &Address,
    question: Question,
    at_least: Option<Position>,
) -> Answered {
    let (decision, freshness) = app.service.check(address, &question, at_least).await?;
    let evidence = app.evidence.of(&app.service, &decision).await?;
    Ok((decision, evidence, freshness))
}
