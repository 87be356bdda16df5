//! What projectors build on: views and rows as they are stored, without the tail that [`Ledger::load`] brings along.

use super::{SubjectRow, View};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::load::SubjectLookup;
use crate::rows::{Line, partitions};
use quota_core::time::Timestamp;

impl Ledger {
    /// The stored views of these subjects (none where a subject has no event up to its partition's checkpoint) and those
    /// of their rows that are named and exist, in the order asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stored(
        &self,
        subjects: &[SubjectLookup],
    ) -> Result<Vec<(Option<View>, Vec<SubjectRow>)>, Error> {
        let wanted = || {
            let numbered = (1_i32..).zip(subjects);
            numbered.flat_map(|(n, subject)| subject.rows.iter().map(move |row| (n, subject, row)))
        };
        let statement = self.statement(include_str!("../../queries/stored.sql"));
        let query = sqlx::query(statement)
            .bind(partitions(
                subjects.iter().map(|subject| subject.partition),
            )?)
            .bind(
                subjects
                    .iter()
                    .map(|subject| &subject.subject_key[..])
                    .collect::<Vec<_>>(),
            )
            .bind(wanted().map(|(n, _, _)| n).collect::<Vec<_>>())
            .bind(partitions(
                wanted().map(|(_, subject, _)| subject.partition),
            )?)
            .bind(
                wanted()
                    .map(|(_, subject, _)| &subject.subject_key[..])
                    .collect::<Vec<_>>(),
            )
            .bind(wanted().map(|(_, _, row)| row.kind).collect::<Vec<_>>())
            .bind(
                wanted()
                    .map(|(_, _, row)| row.id.as_str())
                    .collect::<Vec<_>>(),
            );
        let lines = self.read(query).await?;
        let mut stored = vec![(None, Vec::new()); subjects.len()];
        for line in &lines {
            sort_in(&Line(line), &mut stored).map_err(Error::read)?;
        }
        Ok(stored)
    }
}

fn sort_in(
    line: &Line<'_>,
    stored: &mut [(Option<View>, Vec<SubjectRow>)],
) -> Result<(), sqlx::Error> {
    let n: i32 = line.get(1)?;
    let index = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
    let Some(subject) = index.and_then(|index| stored.get_mut(index)) else {
        let message = format!("no subject {n} was asked for");
        return Err(sqlx::Error::Decode(message.into()));
    };
    if line.get::<i32>(0)? == 0 {
        subject.0 = Some(View {
            partition: line.unsigned(2)?,
            subject_key: line.get(3)?,
            product: line.text(4)?,
            subject: line.text(5)?,
            subject_seq: line.get(6)?,
            offset: line.get(7)?,
            row_count: line.get(8)?,
            next_due: line.get::<Option<i64>>(9)?.map(Timestamp::from_micros),
            state: line.get(10)?,
        });
    } else {
        subject.1.push(SubjectRow {
            partition: line.unsigned(2)?,
            subject_key: line.get(3)?,
            kind: line.get(11)?,
            id: line.get(12)?,
            body: line.get(10)?,
        });
    }
    Ok(())
}
