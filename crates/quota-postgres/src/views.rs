//! Folded views and how far the projectors got. What is in a state or a row is the core's business.

mod stored;

use crate::error::Error;
use crate::ledger::Ledger;
use crate::rows::{Line, limit, partition, partitions};
use quota_core::digest::SubjectKey;
use quota_core::time::Timestamp;
use sqlx::SqlSafeStr as _;
use std::sync::Arc;

/// One subject's folded state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The subject's partition.
    pub partition: u32,
    /// The subject's key.
    pub subject_key: SubjectKey,
    /// The product.
    pub product: Arc<str>,
    /// The subject.
    pub subject: Arc<str>,
    /// The sequence number of the last of its events that is folded in.
    pub subject_seq: i64,
    /// The offset of that event.
    pub offset: i64,
    /// How many rows of its own the subject has.
    pub row_count: i64,
    /// When its earliest expiry falls due.
    pub next_due: Option<Timestamp>,
    /// The fold's bytes.
    pub state: Vec<u8>,
}

/// A row of a subject's own, beside its view: a resource, a session, a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectRow {
    /// The subject's partition.
    pub partition: u32,
    /// The subject's key.
    pub subject_key: SubjectKey,
    /// What kind of row.
    pub kind: i16,
    /// Its id within the kind.
    pub id: String,
    /// The fold's bytes.
    pub body: Vec<u8>,
}

/// A projector's step in one partition: from the checkpoint that it started at to the one that it reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: u32,
    /// The next offset, as the projector last knew it.
    pub from: i64,
    /// The next offset, once this is saved.
    pub to: i64,
}

/// What became of a projector's step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The partitions that moved, with all their views, ascending.
    pub moved: Vec<u32>,
    /// The partitions where the checkpoint was not where the projector believed: nothing was written there, since
    /// another projector is at it. Ascending.
    pub lost: Vec<u32>,
}

/// A subject with an expiry that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The subject's partition.
    pub partition: u32,
    /// The product.
    pub product: Arc<str>,
    /// The subject.
    pub subject: Arc<str>,
    /// When it fell due.
    pub at: Timestamp,
}

impl Ledger {
    /// Saves a projector's step: checkpoints by compare-and-set, and with those that moved the views and rows of their
    /// partitions. One statement, so all of it happens or nothing; views and rows in lost partitions are left out.
    /// At most one view per subject and one row per name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn save_views(
        &self,
        steps: &[Advance],
        views: &[View],
        rows: &[SubjectRow],
    ) -> Result<Saved, Error> {
        let statement = self.statement(include_str!("../queries/save_views.sql"));
        let query = sqlx::query(statement)
            .bind(partitions(steps.iter().map(|step| step.partition))?)
            .bind(steps.iter().map(|step| step.from).collect::<Vec<_>>())
            .bind(steps.iter().map(|step| step.to).collect::<Vec<_>>())
            .bind(partitions(views.iter().map(|view| view.partition))?)
            .bind(
                views
                    .iter()
                    .map(|view| &view.subject_key[..])
                    .collect::<Vec<_>>(),
            )
            .bind(views.iter().map(|view| &*view.product).collect::<Vec<_>>())
            .bind(views.iter().map(|view| &*view.subject).collect::<Vec<_>>())
            .bind(
                views
                    .iter()
                    .map(|view| view.subject_seq)
                    .collect::<Vec<_>>(),
            )
            .bind(views.iter().map(|view| view.offset).collect::<Vec<_>>())
            .bind(views.iter().map(|view| view.row_count).collect::<Vec<_>>())
            .bind(
                views
                    .iter()
                    .map(|view| view.next_due.map(Timestamp::micros))
                    .collect::<Vec<_>>(),
            )
            .bind(views.iter().map(|view| &view.state[..]).collect::<Vec<_>>())
            .bind(partitions(rows.iter().map(|row| row.partition))?)
            .bind(
                rows.iter()
                    .map(|row| &row.subject_key[..])
                    .collect::<Vec<_>>(),
            )
            .bind(rows.iter().map(|row| row.kind).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| &row.body[..]).collect::<Vec<_>>());
        let lines = self.read(query).await?;
        let moved = lines
            .iter()
            .map(|line| Line(line).unsigned(0))
            .collect::<Result<Vec<u32>, _>>();
        let mut moved = moved.map_err(Error::read)?;
        moved.sort_unstable();
        let mut lost: Vec<u32> = steps
            .iter()
            .map(|s| s.partition)
            .filter(|p| moved.binary_search(p).is_err())
            .collect();
        lost.sort_unstable();
        Ok(Saved { moved, lost })
    }

    /// The next offset that each partition's projector will fold, by the partition's number.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn checkpoints(&self) -> Result<Vec<i64>, Error> {
        let text = "SELECT next_offset FROM projector_checkpoints_v{v} ORDER BY partition";
        let lines = self.read(sqlx::query(self.statement(text))).await?;
        lines
            .iter()
            .map(|line| Line(line).get(0))
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }

    /// Forgets all that was folded in these partitions, so that their projectors begin anew.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn reset_views(&self, numbers: &[u32]) -> Result<(), Error> {
        let statement = self.statement(include_str!("../queries/reset_views.sql"));
        let query = sqlx::query(statement).bind(partitions(numbers.iter().copied())?);
        self.run(query.execute(&self.pool)).await.map(drop)
    }

    /// Subjects whose earliest expiry is due at `now`, longest overdue first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn due(&self, now: Timestamp, most: usize) -> Result<Vec<Due>, Error> {
        let statement = self.statement(include_str!("../queries/due.sql"));
        let lines = self
            .read(sqlx::query(statement).bind(now.micros()).bind(limit(most)))
            .await?;
        let due = lines.iter().map(|line| {
            let line = Line(line);
            Ok(Due {
                partition: line.unsigned(0)?,
                product: line.text(1)?,
                subject: line.text(2)?,
                at: line.time(3)?,
            })
        });
        due.collect::<Result<_, sqlx::Error>>().map_err(Error::read)
    }

    /// Up to `most` views in the order of partition and subject key, after a place (none: from the first).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn views_page(
        &self,
        after: Option<(u32, SubjectKey)>,
        most: usize,
    ) -> Result<Vec<View>, Error> {
        let statement = self.statement(include_str!("../queries/views_page.sql"));
        let (number, key) = match after {
            Some((number, key)) => (partition(number)?, key.to_vec()),
            None => (-1, Vec::new()),
        };
        let lines = self
            .read(
                sqlx::query(statement)
                    .bind(number)
                    .bind(key)
                    .bind(limit(most)),
            )
            .await?;
        let views = lines.iter().map(|line| {
            let line = Line(line);
            Ok(View {
                partition: line.unsigned(0)?,
                subject_key: line.get(1)?,
                product: line.text(2)?,
                subject: line.text(3)?,
                subject_seq: line.get(4)?,
                offset: line.get(5)?,
                row_count: line.get(6)?,
                next_due: line.get::<Option<i64>>(7)?.map(Timestamp::from_micros),
                state: line.get(8)?,
            })
        });
        views
            .collect::<Result<_, sqlx::Error>>()
            .map_err(Error::read)
    }

    /// All rows of one subject, by kind and id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rows_of(
        &self,
        number: u32,
        subject_key: &SubjectKey,
    ) -> Result<Vec<SubjectRow>, Error> {
        let statement = self.statement(include_str!("../queries/rows_of.sql"));
        let lines = self
            .read(
                sqlx::query(statement)
                    .bind(partition(number)?)
                    .bind(&subject_key[..]),
            )
            .await?;
        let rows = lines.iter().map(|line| {
            let line = Line(line);
            Ok(SubjectRow {
                partition: line.unsigned(0)?,
                subject_key: line.get(1)?,
                kind: line.get(2)?,
                id: line.get(3)?,
                body: line.get(4)?,
            })
        });
        rows.collect::<Result<_, sqlx::Error>>()
            .map_err(Error::read)
    }

    /// A statement on the view tables of our fold version.
    pub(crate) fn statement(&self, text: &'static str) -> sqlx::SqlStr {
        sqlx::AssertSqlSafe(text.replace("{v}", &self.fold_version.to_string())).into_sql_str()
    }
}
