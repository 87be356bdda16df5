//! Ledger rows, between the core's type and the table's columns.

use crate::error::Error;
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use std::sync::Arc;

/// Columns of a line of a query, by place. Ledger rows take the first seventeen, in the order of this file's reader.
pub(crate) struct Line<'a>(pub(crate) &'a PgRow);

impl<'a> Line<'a> {
    pub(crate) fn get<T>(&self, column: usize) -> Result<T, sqlx::Error>
    where
        T: sqlx::Decode<'a, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.0.try_get(column)
    }

    pub(crate) fn text(&self, column: usize) -> Result<Arc<str>, sqlx::Error> {
        Ok(Arc::from(self.get::<&str>(column)?))
    }

    pub(crate) fn time(&self, column: usize) -> Result<Timestamp, sqlx::Error> {
        self.get(column).map(Timestamp::from_micros)
    }

    /// A number that the table keeps signed and we do not.
    pub(crate) fn unsigned<T: TryFrom<i32, Error: std::error::Error + Send + Sync + 'static>>(
        &self,
        column: usize,
    ) -> Result<T, sqlx::Error> {
        let value: i32 = self.get(column)?;
        T::try_from(value).map_err(|e| sqlx::Error::Decode(Box::new(e)))
    }

    /// The ledger row of this line.
    pub(crate) fn row(&self) -> Result<Row, sqlx::Error> {
        Ok(Row {
            partition: self.unsigned(0)?,
            offset: self.get(1)?,
            subject_key: self.get(2)?,
            subject_seq: self.get(3)?,
            subject_prev: self.get(4)?,
            event_key: self.get(5)?,
            product: self.text(6)?,
            subject: self.text(7)?,
            source: self.text(8)?,
            id: self.text(9)?,
            event_type: self.text(10)?,
            type_version: self.unsigned(11)?,
            occurred_at: self.time(12)?,
            recorded_at: self.time(13)?,
            catalog_version: self.unsigned(14)?,
            payload: Arc::from(self.get::<&[u8]>(15)?),
            hash: self.get(16)?,
        })
    }
}

/// The ledger rows of these lines.
pub(crate) fn rows(lines: &[PgRow]) -> Result<Vec<Row>, sqlx::Error> {
    lines.iter().map(|line| Line(line).row()).collect()
}

/// Asks for the rows at these places, partition and offset.
pub(crate) fn at(
    places: impl IntoIterator<Item = (u32, i64)>,
) -> Result<Query<'static, Postgres, PgArguments>, Error> {
    let (numbers, offsets): (Vec<u32>, Vec<i64>) = places.into_iter().unzip();
    Ok(sqlx::query(include_str!("../queries/rows_at.sql"))
        .bind(partitions(numbers)?)
        .bind(offsets))
}

/// The heads of these lines (partition, offset, hash, recorded_at), with the genesis where a partition is empty.
pub(crate) fn heads(
    lines: &[PgRow],
    ledger_id: &[u8; 16],
) -> Result<Vec<(u32, Head)>, sqlx::Error> {
    lines
        .iter()
        .map(|line| {
            let line = Line(line);
            let partition = line.unsigned(0)?;
            Ok((
                partition,
                head(
                    ledger_id,
                    partition,
                    line.get(1)?,
                    line.get(2)?,
                    line.get(3)?,
                ),
            ))
        })
        .collect()
}

pub(crate) fn head(
    ledger_id: &[u8; 16],
    partition: u32,
    offset: Option<i64>,
    hash: Option<[u8; 32]>,
    recorded_at: Option<i64>,
) -> Head {
    match (offset, hash, recorded_at) {
        (Some(offset), Some(hash), Some(recorded_at)) => Head {
            offset,
            hash,
            recorded_at: Timestamp::from_micros(recorded_at),
        },
        _ => Head {
            offset: -1,
            hash: quota_core::digest::genesis(ledger_id, partition),
            recorded_at: Timestamp::MIN,
        },
    }
}

/// A partition as the table has it.
pub(crate) fn partition(number: u32) -> Result<i32, Error> {
    i32::try_from(number).map_err(|_| Error::Invalid(format!("there is no partition {number}")))
}

/// Partitions as the table has them.
pub(crate) fn partitions(numbers: impl IntoIterator<Item = u32>) -> Result<Vec<i32>, Error> {
    numbers.into_iter().map(partition).collect()
}

/// A count of rows for LIMIT.
pub(crate) fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
