//! What decisions and checks are built on: views, their checkpoint and the tail after it, in one snapshot.

use crate::connect::LedgerInfo;
use crate::error::Error;
use crate::rows::{self, Line, partitions};
use crate::views::{SubjectRow, View};
use quota_core::digest::{EventKey, SubjectKey};
use quota_core::row::{Head, Row};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, SqlSafeStr as _};
use std::collections::HashMap;

/// What to load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// Subjects, each at most once.
    pub subjects: Vec<SubjectLookup>,
    /// Events to look up by their key.
    pub events: Vec<EventLookup>,
}

/// A subject to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectLookup {
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub subject_key: SubjectKey,
    /// The rows of its own that are wanted.
    pub rows: Vec<RowName>,
    /// Whether all of its rows are wanted.
    pub all_rows: bool,
}

/// Names a row of a subject's view.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowName {
    /// What kind of row.
    pub kind: i16,
    /// Its id within the kind.
    pub id: String,
}

/// An event to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventLookup {
    /// The partition of its subject.
    pub partition: u32,
    /// The key of its subject.
    pub subject_key: SubjectKey,
    /// Its own key.
    pub event_key: EventKey,
}

/// What was found, all in one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// One per asked subject, in the order asked.
    pub subjects: Vec<LoadedSubject>,
    /// One per partition of the asked subjects, ascending.
    pub partitions: Vec<LoadedPartition>,
    /// The rows of the looked-up events that are recorded, in no order.
    pub events: Vec<Row>,
}

/// What was found of a subject: fold `tail` into `view` (or into nothing) and it is up to the partition's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedSubject {
    /// Its view, up to the partition's checkpoint; none if it had no event until there.
    pub view: Option<View>,
    /// Those of the wanted rows that exist.
    pub rows: Vec<SubjectRow>,
    /// Its events since the checkpoint, oldest first.
    pub tail: Vec<Row>,
}

/// What was found of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedPartition {
    /// The partition.
    pub partition: u32,
    /// Its last row.
    pub head: Head,
    /// The next offset that its projector will fold.
    pub checkpoint: i64,
}

/// The statement for the view tables of this fold version.
pub(crate) fn statement(fold_version: i32) -> sqlx::SqlStr {
    let text = include_str!("../queries/load.sql").replace("{v}", &fold_version.to_string());
    sqlx::AssertSqlSafe(text).into_sql_str()
}

/// A request as arrays.
pub(crate) struct Arguments<'a> {
    partition: Vec<i32>,
    subject_key: Vec<&'a [u8]>,
    all_rows: Vec<bool>,
    row_subject: Vec<i32>,
    row_kind: Vec<i16>,
    row_id: Vec<&'a str>,
    event_partition: Vec<i32>,
    event_subject: Vec<&'a [u8]>,
    event_key: Vec<&'a [u8]>,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(request: &'a LoadRequest) -> Result<Self, Error> {
        let subjects = &request.subjects;
        let wanted = || {
            (1_i32..)
                .zip(subjects)
                .flat_map(|(n, s)| s.rows.iter().map(move |row| (n, row)))
        };
        Ok(Self {
            partition: partitions(subjects.iter().map(|s| s.partition))?,
            subject_key: subjects.iter().map(|s| &s.subject_key[..]).collect(),
            all_rows: subjects.iter().map(|s| s.all_rows).collect(),
            row_subject: wanted().map(|(n, _)| n).collect(),
            row_kind: wanted().map(|(_, row)| row.kind).collect(),
            row_id: wanted().map(|(_, row)| row.id.as_str()).collect(),
            event_partition: partitions(request.events.iter().map(|e| e.partition))?,
            event_subject: request.events.iter().map(|e| &e.subject_key[..]).collect(),
            event_key: request.events.iter().map(|e| &e.event_key[..]).collect(),
        })
    }

    pub(crate) fn query(self, statement: sqlx::SqlStr) -> Query<'a, Postgres, PgArguments> {
        sqlx::query(statement)
            .bind(self.partition)
            .bind(self.subject_key)
            .bind(self.all_rows)
            .bind(self.row_subject)
            .bind(self.row_kind)
            .bind(self.row_id)
            .bind(self.event_partition)
            .bind(self.event_subject)
            .bind(self.event_key)
    }
}

/// Tails by partition and subject: the ledger's own subjects are in every partition.
type Tails = HashMap<(u32, SubjectKey), Vec<Row>>;

/// Sorts the lines of the answer back to whom they belong.
pub(crate) fn read(
    lines: &[PgRow],
    request: &LoadRequest,
    info: &LedgerInfo,
) -> Result<Loaded, Error> {
    let mut loaded = Loaded {
        subjects: vec![LoadedSubject::default(); request.subjects.len()],
        ..Loaded::default()
    };
    let mut tails = Tails::new();
    for line in lines {
        sort_in(&Line(line), &mut loaded, &mut tails, info).map_err(Error::read)?;
    }
    loaded
        .partitions
        .sort_unstable_by_key(|partition| partition.partition);
    for (asked, found) in request.subjects.iter().zip(&mut loaded.subjects) {
        let mut tail = tails
            .remove(&(asked.partition, asked.subject_key))
            .unwrap_or_default();
        tail.sort_unstable_by_key(|row| row.offset);
        found.tail = tail;
    }
    Ok(loaded)
}

/// The columns after those of a ledger row.
const WHAT: usize = 17;
const SUBJECT: usize = 18;

fn sort_in(
    line: &Line<'_>,
    loaded: &mut Loaded,
    tails: &mut Tails,
    info: &LedgerInfo,
) -> Result<(), sqlx::Error> {
    let n: i32 = line.get(SUBJECT)?;
    let index = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
    let subject = index.and_then(|index| loaded.subjects.get_mut(index));
    match (line.get::<i32>(WHAT)?, subject) {
        (0, _) => {
            let partition = line.unsigned(0)?;
            let head = rows::head(
                &info.id,
                partition,
                line.get(1)?,
                line.get(16)?,
                line.get(13)?,
            );
            loaded.partitions.push(LoadedPartition {
                partition,
                head,
                checkpoint: line.get(3)?,
            });
        }
        (1, Some(subject)) => {
            subject.view = Some(View {
                partition: line.unsigned(0)?,
                subject_key: line.get(2)?,
                product: line.text(6)?,
                subject: line.text(7)?,
                subject_seq: line.get(3)?,
                offset: line.get(1)?,
                row_count: line.get(12)?,
                next_due: line
                    .get::<Option<i64>>(4)?
                    .map(quota_core::time::Timestamp::from_micros),
                state: line.get(15)?,
            });
        }
        (2, Some(subject)) => subject.rows.push(SubjectRow {
            partition: line.unsigned(0)?,
            subject_key: line.get(2)?,
            kind: line.unsigned(11)?,
            id: line.get(9)?,
            body: line.get(15)?,
        }),
        (3, _) => {
            let row = line.row()?;
            tails
                .entry((row.partition, row.subject_key))
                .or_default()
                .push(row);
        }
        (4, _) => loaded.events.push(line.row()?),
        (what, _) => {
            return Err(sqlx::Error::Decode(
                format!("no line {what} of subject {n} was asked for").into(),
            ));
        }
    }
    Ok(())
}
