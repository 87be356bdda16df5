//! Doors: from what a service sends to a fact that may be recorded.
//!
//! Bytes become an [`Envelope`] ([`parse_structured`], [`parse_batch`], [`parse_http`], [`parse_kafka`]); an envelope
//! becomes a subject and a [`Fact`](crate::command::Fact) ([`admit`]). The ledger is for ever and holds no personal
//! data, so a door is strict: members that a type does not have are refused by name, and duplicates are refused at
//! all. Readers of the ledger are tolerant instead ([`crate::event`]).
//!
//! A catalog's retired features and plans are admitted: what happened, happened, and money that was paid for a plan
//! no longer sold must still be counted.

mod admit;
mod data;
mod envelope;
mod fact;
mod import;
mod json;
mod members;
mod schema;

pub use admit::admit;
pub use envelope::{Envelope, Mode, mode, parse_batch, parse_http, parse_kafka, parse_structured};
pub(crate) use fact::fact;
pub use import::{IMPORT_SOURCE, import};
pub use json::parse as parse_json;
pub use members::Members;
pub use schema::{event_schemas, publish_schemas};

use thiserror::Error;

/// The most events that one batch may hold.
pub const MAX_BATCH: usize = 1_000;
/// The most bytes that one event may have.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// The most Unicode scalars that a name may have: an id, a source, a subject, a feature, a resource.
pub const MAX_NAME: usize = 128;
/// The most Unicode scalars that a reason in a caller's words may have.
pub const MAX_WORDS: usize = 512;
/// The most units that one event may speak of.
pub const MAX_UNITS: i64 = 1_000_000_000;
/// The most money that one event may speak of, in the smallest unit: what every JSON reader holds exactly.
pub const MAX_MONEY: i64 = 9_007_199_254_740_991;
/// How far ahead of the decision's clock an event may say it happened, in microseconds.
pub const MAX_AHEAD: i64 = 300 * crate::time::SECOND;

/// Why something did not get in. Nothing was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Rejection {
    /// The stable code.
    pub code: &'static str,
    /// The member that is wrong, where one is, for example `data.feature`.
    pub field: Option<String>,
    /// What a person reads: what is wrong and what to do.
    pub message: String,
    /// It could not be read at all (400), rather than read and refused (422).
    pub malformed: bool,
}

impl Rejection {
    /// It speaks of what the catalog does not have, and a newer one might.
    #[must_use]
    pub fn is_of_catalog(&self) -> bool {
        ["unknown_feature", "unknown_plan"].contains(&self.code)
    }

    /// It could not be read at all.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self {
            code: "malformed",
            field: None,
            message: message.into(),
            malformed: true,
        }
    }

    /// One member is wrong.
    pub(crate) fn field(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            field: Some(field.into()),
            message: message.into(),
            malformed: false,
        }
    }

    /// The whole is wrong, though it could be read.
    pub(crate) fn whole(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            field: None,
            message: message.into(),
            malformed: false,
        }
    }
}

/// Whether a text can name something: 1 to `max` Unicode scalars, no control characters, no space at the ends.
#[must_use]
pub fn is_visible(text: &str, max: usize) -> bool {
    // A scalar has at most four bytes, so that a long text is refused without being counted.
    let fits =
        !text.is_empty() && text.len() <= max.saturating_mul(4) && text.chars().count() <= max;
    let spaced = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    fits && !spaced && !text.chars().any(char::is_control)
}

/// The beginning of a text that a stranger sent, short enough to be told in a message.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    text.char_indices()
        .nth(max)
        .map_or(text, |(at, _)| text.split_at(at).0)
}

/// The same where it stands bare: without control characters, which a terminal or a reader of lines would obey.
pub(crate) fn plain(text: &str, max: usize) -> String {
    let mut plain = String::new();
    for letter in clip(text, max).chars() {
        if letter.is_control() {
            plain.extend(letter.escape_unicode());
        } else {
            plain.push(letter);
        }
    }
    plain
}
