//! Events: what services tell, one by one or many at once.

use crate::api::call::{Call, Outcome};
use crate::api::problem::{ItemError, Problem, ProblemBody};
use crate::api::{App, json};
use crate::auth::Scope;
use axum::http::StatusCode;
use quota_core::command::{Answer, Command, Wish};
use quota_core::door::{self, Envelope, Mode, Rejection};
use quota_core::position::Position;
use serde::Serialize;
use std::time::Instant;
use utoipa::ToSchema;

/// What came of the events, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct Results<'a> {
    /// One for each event.
    results: Vec<EventResult<'a>>,
}

/// What came of one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventResult<'a> {
    /// The event's id; null where it has none that could be read.
    id: Option<&'a str>,
    /// `recorded`, `duplicate` or `rejected`.
    status: &'static str,
    /// Where it is recorded.
    position: Option<String>,
    /// Why it was rejected.
    error: Option<ItemError<'a>>,
}

/// Tell what happened, as CloudEvents: structured, binary or in a batch.
#[utoipa::path(
    post,
    operation_id = "publish_events",
    path = "/v1/products/{product}/events",
    tag = "events",
    params(("product" = String, Path, description = "The product")),
    request_body(content(
        (Object = "application/cloudevents+json"),
        ([Object] = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, body = Results<'_>, description = "Durable; of a batch, whatever its events' fate"),
        (status = 400, body = ProblemBody<'_>, description = "`malformed`"),
        (status = 409, body = ProblemBody<'_>, description = "`idempotency_conflict`"),
        (status = 422, body = ProblemBody<'_>, description = "The event's own code"),
    )
)]
pub async fn publish(call: Call) -> Outcome {
    let product = call.product(&[Scope::Publish]).await?;
    let content_type = call.header("Content-Type")?;
    let one = match door::mode(content_type) {
        Mode::Batch => return batch(&call, product).await,
        Mode::Structured => door::parse_structured(&call.body),
        Mode::Binary => {
            let headers = call
                .parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes()));
            door::parse_http(headers, &call.body)
        }
        Mode::Unsupported => {
            return Err(Problem::malformed(
                "events are read as JSON: application/cloudevents+json",
            ));
        }
    };
    let envelope = one.map_err(Problem::from)?;
    let command = Door::new(&call.app, product).admit(&envelope).await?;
    let answer = call.app.service.submit(command).await;
    let result = told(envelope.id(), recorded(answer)?);
    Ok(json(
        StatusCode::OK,
        &Results {
            results: vec![result],
        },
    ))
}

async fn batch(call: &Call, product: &str) -> Outcome {
    let envelopes = door::parse_batch(&call.body)?;
    let mut commands = Vec::with_capacity(envelopes.len());
    let mut judged: Vec<(Option<String>, Result<(), Problem>)> =
        Vec::with_capacity(envelopes.len());
    let mut door = Door::new(&call.app, product);
    for envelope in envelopes {
        judged.push(match envelope {
            Ok(envelope) => {
                let command = door.admit(&envelope).await;
                let id = envelope.id().map(str::to_owned);
                (id, command.map(|command| commands.push(command)))
            }
            Err(rejection) => (None, Err(rejection.into())),
        });
    }
    let mut answers = call.app.service.submit_all(commands).await.into_iter();
    let outcomes: Vec<(Option<String>, Result<Place, Problem>)> = judged
        .into_iter()
        .map(|(id, judged)| {
            let answer = judged.and_then(|()| answers.next().ok_or_else(Problem::internal));
            (id, answer.and_then(recorded))
        })
        .collect();
    let results = outcomes.iter().map(|(id, outcome)| match outcome {
        Ok(place) => told(id.as_deref(), *place),
        Err(problem) => EventResult {
            id: id.as_deref(),
            status: "rejected",
            position: None,
            error: Some(problem.as_item()),
        },
    });
    Ok(json(
        StatusCode::OK,
        &Results {
            results: results.collect(),
        },
    ))
}

/// Where an event is recorded, and whether it was before.
type Place = (Position, bool);

/// Lets the events of one call in.
struct Door<'a> {
    app: &'a App,
    product: &'a str,
    came: Instant,
    /// Whether the catalogs were read since it came.
    looked: bool,
}

impl<'a> Door<'a> {
    fn new(app: &'a App, product: &'a str) -> Self {
        Self {
            app,
            product,
            came: Instant::now(),
            looked: false,
        }
    }

    /// Judges an event; a word that the catalog does not know may have been published elsewhere a moment ago.
    async fn admit(&mut self, envelope: &Envelope) -> Result<Command, Problem> {
        match self.judge(envelope)? {
            Err(rejection) if rejection.is_of_catalog() && !self.looked => {
                self.app.service.read_catalogs(self.came).await?;
                self.looked = true;
            }
            judged => return Ok(judged?),
        }
        Ok(self.judge(envelope)??)
    }

    fn judge(&self, envelope: &Envelope) -> Result<Result<Command, Rejection>, Problem> {
        let Self { app, product, .. } = self;
        let (_, catalog) = app
            .service
            .catalog(product)
            .ok_or_else(Problem::unknown_product)?;
        let admitted = door::admit(envelope, product, &catalog, app.service.now());
        Ok(admitted.map(|(subject, fact)| Command {
            address: app.address(product, &subject),
            wish: Wish::Record(fact),
        }))
    }
}

fn recorded(answer: Answer) -> Result<Place, Problem> {
    match answer {
        Answer::Recorded {
            position,
            duplicate,
        } => Ok((position, duplicate)),
        Answer::Refused(refusal) => Err(refusal.into()),
        _ => Err(Problem::internal()),
    }
}

fn told(id: Option<&str>, (position, duplicate): Place) -> EventResult<'_> {
    let status = if duplicate { "duplicate" } else { "recorded" };
    EventResult {
        id,
        status,
        position: Some(position.to_string()),
        error: None,
    }
}
