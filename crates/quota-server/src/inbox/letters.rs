//! Dead letters: refused records go to a topic of their own, untouched, with their reason.

use crate::topics::Topics;
use quota_core::inbox::Reason;
use quota_kafka::{Headers, Outgoing, PublishError, Publisher, PublisherOptions, Record};
use std::sync::Arc;
use std::time::Duration;

/// How long the broker may take to acknowledge, before another publisher tries.
const PATIENCE: Duration = Duration::from_secs(30);
/// The rest before another attempt.
const REST: Duration = Duration::from_secs(1);

/// A refused record.
pub(super) struct Letter<'a> {
    record: &'a Record,
    reason: &'a Reason,
    part: Part,
}

/// What of a record is sent. Our headers come on top, so that a record at the broker's limit cannot be sent whole; it
/// is found then at the place in the inbox that they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    WithoutValue,
    Nothing,
}

impl<'a> Letter<'a> {
    pub(super) const fn new(record: &'a Record, reason: &'a Reason) -> Self {
        Self {
            record,
            reason,
            part: Part::Whole,
        }
    }

    fn outgoing<'b>(&'b self, topic: &'b str) -> Outgoing<'b> {
        let Record {
            topic: from,
            partition,
            offset,
            ..
        } = self.record;
        let mut headers = Headers::with_capacity(16);
        if self.part != Part::Nothing {
            for (name, value) in self.record.headers() {
                headers = headers.add_nullable(name, value);
            }
        }
        let cut = if self.part == Part::Whole {
            ""
        } else {
            " (too large to be sent on whole: see the inbox)"
        };
        let headers = headers
            .add("quota_reason", self.reason.code.as_bytes())
            .add(
                "quota_detail",
                format!("{}{cut}", self.reason.detail).as_bytes(),
            )
            .add("quota_topic", from.as_bytes())
            .add("quota_partition", partition.to_string().as_bytes())
            .add("quota_offset", offset.to_string().as_bytes());
        Outgoing {
            topic,
            partition: None,
            key: self.record.key().filter(|_| self.part != Part::Nothing),
            payload: self.record.payload().filter(|_| self.part == Part::Whole),
            headers: Some(headers),
        }
    }
}

/// Where dead letters go.
pub(super) struct Letters {
    topics: Topics,
    topic: String,
    publisher: Option<Arc<Publisher>>,
}

impl Letters {
    pub(super) fn new(topics: Topics) -> Self {
        let topic = topics.dead_letter();
        Self {
            topics,
            topic,
            publisher: None,
        }
    }

    /// Sends letters, for as long as it takes until all are acknowledged.
    pub(super) async fn send(&mut self, mut letters: Vec<Letter<'_>>) {
        let mut told = false;
        while !letters.is_empty() {
            let sent = match self.publisher() {
                Ok(publisher) => attempt(&publisher, &self.topic, &letters).await,
                Err(error) => Err(Some(error)),
            };
            let why = match sent {
                Ok(()) => {
                    count(&letters);
                    return;
                }
                Err(Some(PublishError::Refused {
                    index,
                    too_large: true,
                    ..
                })) if smaller(letters.get_mut(index)) => {
                    let rest = letters.split_off(index);
                    count(&letters);
                    letters = rest;
                    continue;
                }
                Err(Some(error)) => error.to_string(),
                Err(None) => "the broker does not acknowledge".to_owned(),
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    why,
                    letters = letters.len(),
                    "dead letters cannot be sent; trying on"
                );
            }
            self.publisher = None;
            tokio::time::sleep(REST).await;
        }
    }

    fn publisher(&mut self) -> Result<Arc<Publisher>, PublishError> {
        if let Some(publisher) = &self.publisher {
            return Ok(Arc::clone(publisher));
        }
        let publisher = Publisher::open(self.topics.settings(), &PublisherOptions::default())?;
        Ok(Arc::clone(self.publisher.insert(Arc::new(publisher))))
    }
}

/// Sends letters once; an error is none where time ran out.
async fn attempt(
    publisher: &Publisher,
    topic: &str,
    letters: &[Letter<'_>],
) -> Result<(), Option<PublishError>> {
    let outgoing = letters.iter().map(|letter| letter.outgoing(topic));
    match tokio::time::timeout(PATIENCE, publisher.send(outgoing.collect())).await {
        Ok(sent) => sent.map_err(Some),
        Err(_) => Err(None),
    }
}

/// Makes a letter smaller; false where it cannot be.
fn smaller(letter: Option<&mut Letter<'_>>) -> bool {
    let Some(letter) = letter else {
        return false;
    };
    letter.part = match letter.part {
        Part::Whole => Part::WithoutValue,
        Part::WithoutValue => Part::Nothing,
        Part::Nothing => return false,
    };
    true
}

fn count(letters: &[Letter<'_>]) {
    for letter in letters {
        metrics::counter!("quota_dead_letters_total", "reason" => letter.reason.code).increment(1);
        tracing::debug!(record = ?letter.record, reason = letter.reason.code, "a dead letter");
    }
}
