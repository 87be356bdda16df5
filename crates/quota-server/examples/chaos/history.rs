//! What clients did, and what they were told.

use crate::client::{Answer, Client, Outcome};
use serde_json::Value;
use std::time::Instant;

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To use so much of a feature.
    Consume { feature: &'static str, amount: i64 },
    /// To hold so much of it, for so many seconds.
    Hold {
        feature: &'static str,
        amount: i64,
        seconds: i64,
    },
    /// To end a hold: `confirm` or `release`.
    End { hold: String, end: &'static str },
    /// To tell that so much was used.
    Tell { feature: &'static str, amount: i64 },
}

/// One wish, however often it was sent.
#[derive(Clone, Debug)]
pub struct Op {
    pub subject: String,
    pub wish: Wish,
    /// The caller's key or the event's id; none where the caller has none, and so cannot retry.
    pub id: Option<String>,
    pub attempts: Vec<Attempt>,
}

/// One sending of it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub started: Instant,
    pub ended: Instant,
    pub outcome: Outcome,
}

/// What an attempt tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is decided, and in the ledger for ever.
    Settled,
    /// Surely nothing of it is recorded.
    Refused,
    /// Nobody knows.
    Unknown,
    /// What no answer may be.
    Never,
}

impl Attempt {
    pub fn told(&self, op: &Op) -> Told {
        let Outcome::Answer(answer) = &self.outcome else {
            return Told::Unknown;
        };
        match (answer.status, &op.wish) {
            (200, Wish::End { .. }) => match text(&answer.json(), "status") {
                "expired" => Told::Refused,
                _ => Told::Settled,
            },
            (200, _) => Told::Settled,
            (402 | 403, Wish::Consume { .. } | Wish::Hold { .. }) => Told::Settled,
            // Of a hold whose time is over, or that was ended the other way.
            (409, Wish::End { .. }) => Told::Refused,
            (429 | 503, _) => Told::Refused,
            (504, _) => Told::Unknown,
            _ => Told::Never,
        }
    }

    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answer(answer) => Some(answer),
            Outcome::Lost => None,
        }
    }
}

/// A member that is a text; empty where it is not.
pub fn text<'v>(body: &'v Value, name: &str) -> &'v str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

impl Op {
    /// What is known of it, from all its attempts.
    pub fn told(&self) -> Told {
        let mut whole = Told::Refused;
        for attempt in &self.attempts {
            match attempt.told(self) {
                Told::Settled => return Told::Settled,
                Told::Unknown => whole = Told::Unknown,
                Told::Never | Told::Refused => {}
            }
        }
        whole
    }

    /// The attempts that settled it.
    pub fn settled(&self) -> impl Iterator<Item = (&Attempt, &Answer)> {
        let settled = |attempt: &&Attempt| attempt.told(self) == Told::Settled;
        let attempts = self.attempts.iter().filter(settled);
        attempts.filter_map(|attempt| Some((attempt, attempt.answer()?)))
    }

    /// The source under which its event stands.
    pub const fn source(&self) -> &'static str {
        match self.wish {
            Wish::Consume { .. } | Wish::Hold { .. } => "quota:consume",
            Wish::End { .. } => "quota:hold",
            Wish::Tell { .. } => "/chaos",
        }
    }

    /// The position that an answer names.
    pub fn position(&self, answer: &Answer) -> String {
        let body = answer.json();
        let place = match self.wish {
            Wish::Tell { .. } => body.pointer("/results/0/position"),
            _ => body.get("position"),
        };
        place.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Sends it once.
    pub async fn send(&self, client: &Client) -> Attempt {
        let started = Instant::now();
        let (subject, id) = (self.subject.as_str(), self.id.as_deref());
        let outcome = match &self.wish {
            Wish::Consume { feature, amount } => {
                client.consume(subject, feature, *amount, None, id).await
            }
            Wish::Hold {
                feature,
                amount,
                seconds,
            } => {
                client
                    .consume(subject, feature, *amount, Some(*seconds), id)
                    .await
            }
            Wish::End { hold, end } => client.end_hold(subject, hold, end).await,
            Wish::Tell { feature, amount } => {
                let id = id.unwrap_or_default();
                client.tell(subject, feature, *amount, id).await
            }
        };
        Attempt {
            started,
            ended: Instant::now(),
            outcome,
        }
    }
}

/// An answer that changed nothing: what it said must be so at the position that it names.
#[derive(Clone, Debug)]
pub struct Claim {
    pub subject: String,
    pub feature: &'static str,
    /// Partition and offset.
    pub position: (usize, i64),
    pub used: i64,
    pub held: i64,
    /// The millisecond, in microseconds, that it was so in; none where the answer tells when it was made, and not this.
    pub as_of: Option<i64>,
}

impl Claim {
    /// What a decision claims, where its body can be read.
    pub fn of(subject: &str, feature: &'static str, body: &Value) -> Option<Self> {
        Some(Self {
            subject: subject.to_owned(),
            feature,
            position: place(text(body, "position"))?,
            used: body.get("used")?.as_i64()?,
            held: body.get("held")?.as_i64()?,
            as_of: None,
        })
    }

    /// What a check claims, where its body can be read.
    pub fn checked(subject: &str, feature: &'static str, body: &Value) -> Option<Self> {
        Some(Self {
            as_of: Some(instant(text(body, "as_of"))?),
            ..Self::of(subject, feature, body)?
        })
    }
}

/// Partition and offset of a position in the first epoch.
pub fn place(position: &str) -> Option<(usize, i64)> {
    let (partition, offset) = position.split_once(':')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The microseconds since 1970 that a time in UTC with milliseconds stands for, such as `2026-11-21T18:30:05.125Z`.
fn instant(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut numbers = date.split('-').chain(time.split([':', '.']));
    let mut next = || numbers.next()?.parse::<i64>().ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let (hours, minutes, seconds, millis) = (next()?, next()?, next()?, next()?);
    // A year begins in March here, so that a leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let minutes = (days * 24 + hours) * 60 + minutes;
    Some(((minutes * 60 + seconds) * 1_000 + millis) * 1_000)
}

/// Everything that clients did in one round.
#[derive(Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub claims: Vec<Claim>,
    /// Answers that no answer may be, in words.
    pub wrong: Vec<String>,
}

impl History {
    pub fn merge(&mut self, other: Self) {
        self.ops.extend(other.ops);
        self.claims.extend(other.claims);
        self.wrong.extend(other.wrong);
    }
}
