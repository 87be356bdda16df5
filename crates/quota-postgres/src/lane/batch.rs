//! A batch on its way into the ledger: checked, and turned from rows into columns.

use super::{APPEND, Fence};
use crate::error::AppendError;
use quota_core::row::Row;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use std::iter::Peekable;
use std::slice::Iter;

/// Rows that fit their fences.
pub(super) struct Batch<'a> {
    rows: &'a [Row],
    fences: &'a [Fence],
}

impl<'a> Batch<'a> {
    /// Checks that fences ascend by partition, that the rows of each are dense from its offset and chained to its hash,
    /// and that the table can hold them as they are.
    pub(super) fn new(
        rows: &'a [Row],
        fences: &'a [Fence],
        partitions: u32,
    ) -> Result<Self, AppendError> {
        let mut rest = rows.iter().peekable();
        let mut next_partition = 0;
        for fence in fences {
            if fence.partition < next_partition || fence.partition >= partitions {
                return Err(invalid(format_args!(
                    "the fence of partition {} is out of place",
                    fence.partition
                )));
            }
            next_partition = fence.partition + 1;
            chained(&mut rest, fence)?;
        }
        match rest.next() {
            Some(row) => Err(invalid(format_args!(
                "row {}:{} has no fence before it",
                row.partition, row.offset
            ))),
            None => Ok(Self { rows, fences }),
        }
    }

    /// The statement with all columns bound. Nothing is copied but into the message itself.
    pub(super) fn query(&self, all_or_nothing: bool) -> Query<'a, Postgres, PgArguments> {
        let fences = self.fences;
        sqlx::query(APPEND)
            .bind(
                fences
                    .iter()
                    .map(|f| signed(f.partition))
                    .collect::<Vec<_>>(),
            )
            .bind(fences.iter().map(|f| f.first_offset).collect::<Vec<_>>())
            .bind(
                fences
                    .iter()
                    .map(|f| &f.previous_hash[..])
                    .collect::<Vec<_>>(),
            )
            .bind(all_or_nothing)
            .bind(self.column(|r| signed(r.partition)))
            .bind(self.column(|r| r.offset))
            .bind(self.column(|r| &r.subject_key[..]))
            .bind(self.column(|r| r.subject_seq))
            .bind(self.column(|r| r.subject_prev))
            .bind(self.column(|r| &r.event_key[..]))
            .bind(self.column(|r| &*r.product))
            .bind(self.column(|r| &*r.subject))
            .bind(self.column(|r| &*r.source))
            .bind(self.column(|r| &*r.id))
            .bind(self.column(|r| &*r.event_type))
            .bind(self.column(|r| i32::from(r.type_version)))
            .bind(self.column(|r| r.occurred_at.micros()))
            .bind(self.column(|r| r.recorded_at.micros()))
            .bind(self.column(|r| signed(r.catalog_version)))
            .bind(self.column(|r| &*r.payload))
            .bind(self.column(|r| &r.hash[..]))
    }

    fn column<T>(&self, value: impl Fn(&'a Row) -> T) -> Vec<T> {
        self.rows.iter().map(value).collect()
    }
}

/// Takes the fence's rows off the front, checking each.
fn chained(rest: &mut Peekable<Iter<'_, Row>>, fence: &Fence) -> Result<(), AppendError> {
    let mut offset = fence.first_offset;
    let mut hash = fence.previous_hash;
    while let Some(row) = rest.next_if(|row| row.partition == fence.partition) {
        let place = format_args!("row {}:{}", row.partition, row.offset);
        if row.offset != offset {
            return Err(invalid(format_args!(
                "{place} stands where offset {offset} belongs"
            )));
        }
        if row.hash != row.expected_hash(&hash) {
            return Err(invalid(format_args!(
                "{place} is not chained to the row before it"
            )));
        }
        if i32::try_from(row.catalog_version).is_err() {
            return Err(invalid(format_args!(
                "{place} has a catalog version beyond what the table holds"
            )));
        }
        if [
            &row.product,
            &row.subject,
            &row.source,
            &row.id,
            &row.event_type,
        ]
        .iter()
        .any(|text| text.contains('\0'))
        {
            return Err(invalid(format_args!(
                "{place} has a zero character, which no text column can hold"
            )));
        }
        offset += 1;
        hash = row.hash;
    }
    Ok(())
}

/// Within range: partitions are checked against the ledger's few, catalog versions by the check above.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn invalid(reason: std::fmt::Arguments<'_>) -> AppendError {
    AppendError::Invalid(reason.to_string())
}
