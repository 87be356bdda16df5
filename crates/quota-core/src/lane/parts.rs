//! What goes into a batch, and what comes out of it.

use crate::command::{Answer, Command};
use crate::digest::{EventKey, Hash, SubjectKey};
use crate::row::{Head, Row};
use crate::state::{RowKey, State};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a partition ends, and which catalogs are in force there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionEnd {
    /// Its last row.
    pub head: Head,
    /// The catalog version in force, by product.
    pub versions: BTreeMap<Arc<str>, u32>,
}

/// What must be known before a batch can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Subjects whose state, or some of whose things, are not there.
    pub subjects: Vec<WantedSubject>,
    /// Events to look up.
    pub events: Vec<(u32, SubjectKey, EventKey)>,
}

/// A subject to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSubject {
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub key: SubjectKey,
    /// The things of it that are wanted.
    pub things: Vec<RowKey>,
}

/// What a partition's rows build on: they go in only where its last row is this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The partition.
    pub partition: u32,
    /// The offset that its next row gets.
    pub first_offset: i64,
    /// The hash of the row before it.
    pub previous_hash: Hash,
}

/// Rows to append, and the fences that guard them.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// Rows, ascending by partition and offset.
    pub rows: Vec<Row>,
    /// One fence for each partition that an answer rests on, ascending; some have no rows.
    pub fences: Vec<Fence>,
}

/// What a settled batch comes to.
#[derive(Debug, Default)]
pub struct Settled {
    /// Answers, by the index that the command was given with.
    pub answers: Vec<(usize, Answer)>,
    /// Commands that lost a race and must be decided again, in their order.
    pub again: Vec<(usize, Command)>,
    /// The new ends of the partitions that rows went into.
    pub heads: Vec<(u32, Head)>,
    /// The rows that went in, by partition, in order.
    pub rows: Vec<(u32, Vec<Arc<Row>>)>,
    /// The new states of the subjects that rows went in for.
    pub states: Vec<(u32, SubjectKey, State)>,
}
