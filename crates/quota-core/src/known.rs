//! What a node knows of a partition: its end, and the subjects' states that are true up to there.
//!
//! Whatever is kept reflects every event up to the end, so a lane that builds on the end builds on the whole truth, and
//! the fence finds out when it is not. The shell keeps the states, and asks here which of them it may keep.

use crate::catalog::Catalog;
use crate::event::{DecodeError, Event};
use crate::fold::{fold_event, missing};
use crate::lane::PartitionEnd;
use crate::row::{Head, Row};
use crate::state::{Kind, RowKey, State};
use std::sync::Arc;
use thiserror::Error;

/// A partition's end, and since when it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    end: PartitionEnd,
    at_head: i64,
}

/// How a row fits on to a partition's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits {
    /// It is the next one.
    Next,
    /// It was taken before.
    Seen,
    /// What lies between must come first.
    Hole,
}

impl Known {
    /// A partition that was read to this end at `now`, by the node's steady clock.
    #[must_use]
    pub const fn new(end: PartitionEnd, now: i64) -> Self {
        Self { end, at_head: now }
    }

    /// The end.
    #[must_use]
    pub const fn end(&self) -> &PartitionEnd {
        &self.end
    }

    /// When the partition was last known to be at its head, by the node's steady clock, in microseconds.
    #[must_use]
    pub const fn at_head(&self) -> i64 {
        self.at_head
    }

    /// Whether a state may be kept that was loaded from a snapshot whose partition ended at `through`: not where the end
    /// has gone on since, as an event between would be missing from it for ever.
    #[must_use]
    pub const fn may_keep(&self, through: i64) -> bool {
        through >= self.end.head.offset
    }

    /// This node appended up to this head, and began to at `asked_at`: then or later it was the partition's head. By the time
    /// of the answer others may have gone on. Whether the states that it came to may be kept: not where it is known that others
    /// have appended beyond it, as an event of theirs may be missing from them.
    pub fn settled(&mut self, head: Head, asked_at: i64) -> bool {
        let current = self.end.head.offset <= head.offset;
        if current {
            self.end.head = head;
            self.at_head = self.at_head.max(asked_at);
        }
        current
    }

    /// How a row fits on.
    #[must_use]
    pub const fn fits(&self, row: &Row) -> Fits {
        let expected = self.end.head.offset + 1;
        if row.offset < expected {
            Fits::Seen
        } else if row.offset > expected {
            Fits::Hole
        } else {
            Fits::Next
        }
    }

    /// Takes the next row in; the states that it concerns are [`advanced`] before anybody asks for them.
    pub fn take(&mut self, row: &Row) {
        if &*row.event_type == "catalog.published" {
            let product = Arc::clone(&row.product);
            self.end.versions.insert(product, row.catalog_version);
        }
        self.end.head = row.head();
    }

    /// At `now` the partition's head was at `offset`.
    pub fn saw_head(&mut self, offset: i64, now: i64) {
        if self.end.head.offset >= offset {
            self.at_head = self.at_head.max(now);
        }
    }

    /// Whether a row that others appended contradicts what is known: after a restore it would.
    #[must_use]
    pub fn is_contradicted_by(&self, row: &Row) -> bool {
        let head = &self.end.head;
        row.offset == head.offset + 1 && row.hash != row.expected_hash(&head.hash)
    }
}

/// A state after one more row of its subject; itself where it has seen it; none where it must be loaded anew.
#[must_use]
pub fn advanced(
    state: &State,
    row: &Row,
    catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
) -> Option<State> {
    if row.subject_seq <= state.subject.seq {
        return Some(state.clone());
    }
    // What this build cannot read fails where that subject is loaded, and there alone.
    let event = Event::decode(&row.event_type, row.type_version, &row.payload).ok()?;
    let (Some(catalog), true) = (
        catalogs(&row.product, row.catalog_version),
        row.subject_seq == state.subject.seq + 1 && missing(state, &event).is_empty(),
    ) else {
        return None;
    };
    let mut next = state.clone();
    fold_event(&mut next, &catalog, row, &event);
    Some(next)
}

/// What is stored of a subject, in one snapshot: its view, things of it by kind and id, and its rows since the view.
pub struct Stored<'a, R> {
    /// The bytes of its view, where it has one.
    pub view: Option<&'a [u8]>,
    /// Those of the wanted things that there are.
    pub things: Vec<(i16, String, Vec<u8>)>,
    /// Its rows since the view, in order.
    pub tail: R,
}

/// What was stored, folded.
#[derive(Debug)]
pub enum FoldedUp {
    /// The state, up to the end of the snapshot.
    State(Box<State>),
    /// These things are wanted too: read again with them.
    Wants(Vec<RowKey>),
}

/// Stored bytes that this build cannot fold.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// A view or a thing is none of this fold version.
    #[error("what is stored cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
    /// A thing of a kind that this build does not know.
    #[error("kind {0} of a stored row is not known to this version")]
    Kind(i16),
    /// An event that this build has no rule for.
    #[error(transparent)]
    Event(#[from] DecodeError),
    /// An event's catalog is not known here.
    #[error("catalog {version} of {product} is not known yet")]
    Catalog {
        /// The product.
        product: Arc<str>,
        /// The version.
        version: u32,
    },
}

/// Folds a subject's rows on top of its stored view; `wanted` are the things that were asked for.
///
/// # Errors
/// What this build cannot read.
pub fn fold_up<'r>(
    stored: Stored<'_, impl IntoIterator<Item = &'r Row>>,
    wanted: &[RowKey],
    catalogs: &impl Fn(&str, u32) -> Option<Arc<Catalog>>,
) -> Result<FoldedUp, Unreadable> {
    let mut state = match stored.view {
        Some(view) => State::from_stored(view, &[])?,
        None => State::default(),
    };
    for key in wanted {
        state.add_stored(key.clone(), None)?;
    }
    for (number, id, body) in stored.things {
        let kind = Kind::from_number(number).ok_or(Unreadable::Kind(number))?;
        state.add_stored(RowKey { kind, id }, Some(&body))?;
    }
    for row in stored.tail {
        let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
        let missing = missing(&state, &event);
        if !missing.is_empty() {
            return Ok(FoldedUp::Wants([wanted, &missing].concat()));
        }
        let catalog = catalogs(&row.product, row.catalog_version);
        let catalog = catalog.ok_or_else(|| Unreadable::Catalog {
            product: Arc::clone(&row.product),
            version: row.catalog_version,
        })?;
        fold_event(&mut state, &catalog, row, &event);
    }
    Ok(FoldedUp::State(Box::new(state)))
}
