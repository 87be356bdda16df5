//! Batches of requests: each is read and answered by itself, so one that is wrong harms no other.

use crate::api::call::read_json;
use crate::api::decision::DecisionBody;
use crate::api::json_bytes;
use crate::api::problem::{ItemError, Problem};
use axum::http::StatusCode;
use axum::response::Response;
use quota_core::door::MAX_BATCH;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A batch as it is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Envelope<T> {
    /// The requests; an empty batch is one too.
    #[schema(max_items = 1_000)]
    pub requests: Vec<T>,
}

/// A batch that was read: the id of each request, where it has one, and what it asks or what is wrong with it.
pub type Items<T> = Vec<(Option<String>, Result<T, Problem>)>;

/// Reads a batch.
///
/// # Errors
/// The batch as a whole cannot be read, or is too large.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<Items<T>, Problem> {
    let envelope: Envelope<&RawValue> = read_json(body)?;
    if envelope.requests.len() > MAX_BATCH {
        return Err(Problem::field(
            "batch_too_large",
            "requests",
            format!("a batch may have {MAX_BATCH} requests; send several"),
        ));
    }
    Ok(envelope
        .requests
        .into_iter()
        .map(|text| item(text.get().as_bytes()))
        .collect())
}

fn item<T: DeserializeOwned>(text: &[u8]) -> (Option<String>, Result<T, Problem>) {
    #[derive(Deserialize)]
    struct Id {
        id: Option<String>,
    }
    let id = serde_json::from_slice::<Id>(text)
        .ok()
        .and_then(|named| named.id);
    (id, read_json(text))
}

/// What came of one request.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchItem<'a> {
    /// Its decision.
    Decided {
        /// The request's id.
        id: Option<&'a str>,
        /// The status that a call of its own would have had.
        status: u16,
        /// The decision.
        #[serde(flatten)]
        decision: &'a DecisionBody<'a>,
    },
    /// Why it could not be decided.
    Failed {
        /// The request's id.
        id: Option<&'a str>,
        /// The status that a call of its own would have had.
        status: u16,
        /// Why.
        error: ItemError<'a>,
    },
}

/// The answer to a batch, as [`Decisions`] writes it.
#[derive(ToSchema)]
#[schema(as = Decisions)]
#[expect(dead_code, reason = "it only describes")]
pub struct DecisionsBody<'a> {
    /// In the order of the requests.
    decisions: Vec<BatchItem<'a>>,
}

/// The answer to a batch, written item by item: `{"decisions": [...]}`.
#[derive(Debug)]
pub struct Decisions(Vec<u8>);

impl Decisions {
    /// An answer with room for that many items.
    #[must_use]
    pub fn with_capacity(items: usize) -> Self {
        let mut text = Vec::with_capacity(items.saturating_mul(512).saturating_add(64));
        text.extend_from_slice(b"{\"decisions\":[");
        Self(text)
    }

    /// The next item's decision, with the status that a call of its own would have had.
    pub fn decided(&mut self, id: Option<&str>, status: StatusCode, decision: &DecisionBody<'_>) {
        self.push(&BatchItem::Decided {
            id,
            status: status.as_u16(),
            decision,
        });
    }

    /// The next item's error.
    pub fn failed(&mut self, id: Option<&str>, problem: &Problem) {
        self.push(&BatchItem::Failed {
            id,
            status: problem.status().as_u16(),
            error: problem.as_item(),
        });
    }

    fn push(&mut self, item: &BatchItem<'_>) {
        if self.0.last() != Some(&b'[') {
            self.0.push(b',');
        }
        // Our own structs always encode.
        serde_json::to_writer(&mut self.0, item).unwrap_or_default();
    }

    /// The whole answer.
    #[must_use]
    pub fn finish(mut self) -> Response {
        self.0.extend_from_slice(b"]}");
        json_bytes(StatusCode::OK, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape is tested")]
    struct Shape {
        id: Option<String>,
        word: String,
    }

    #[test]
    fn one_bad_request_harms_no_other() {
        let text =
            br#"{"requests": [{"id": "a", "word": "x"}, {"id": "b"}, 7, {"id": 7, "word": "x"}]}"#;
        let items: Items<Shape> = read(text).unwrap();
        let seen: Vec<(Option<&str>, Option<&str>)> = items
            .iter()
            .map(|(id, item)| {
                (
                    id.as_deref(),
                    item.as_ref()
                        .err()
                        .and_then(|problem| problem.as_item().field),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (Some("a"), None),
                (Some("b"), Some("word")),
                (None, None),
                (None, Some("id"))
            ]
        );
        assert!(items.iter().skip(1).all(|(_, item)| item.is_err()));
        assert!(read::<Shape>(b"{}").is_err());
        assert!(read::<Shape>(b"[]").is_err());
        assert!(read::<Shape>(br#"{"requests": []}"#).unwrap().is_empty());
    }

    #[test]
    fn an_answer_is_one_json_text() {
        let mut answer = Decisions::with_capacity(2);
        answer.failed(Some("a"), &Problem::invalid("amount", "no"));
        answer.failed(None, &Problem::internal());
        let text = String::from_utf8(answer.0).unwrap();
        assert_eq!(
            text.split_once("},{").map(|(first, _)| first),
            Some(
                r#"{"decisions":[{"id":"a","status":422,"error":{"code":"invalid_request","message":"no","field":"amount"}"#
            )
        );
    }
}
