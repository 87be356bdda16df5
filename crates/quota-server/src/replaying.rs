//! Replaying: subjects' entitlements as they were at a time, from what was known at a time.

use crate::comparing::epochs;
use crate::loading::fold_row;
use crate::shelf::Shelf;
use quota_core::command::Address;
use quota_core::digest::SubjectKey;
use quota_core::entitlements::entitlements;
use quota_core::epoch::Epochs;
use quota_core::event::Event;
use quota_core::row::Row;
use quota_core::state::State;
use quota_core::time::Timestamp;
use quota_postgres::Ledger;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that are read at once.
const PAGE: usize = 2_000;

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// One product, or all.
    pub product: Option<String>,
    /// One subject, or all.
    pub subject: Option<String>,
    /// The instant that is asked about, included; none for now.
    pub as_of: Option<Timestamp>,
    /// Only what was recorded until then; none for everything.
    pub known_at: Option<Timestamp>,
}

/// Folds the events that the replay asks for, and hands out one subject's entitlements at a time.
///
/// # Errors
/// The ledger cannot be read, or `out` fails.
pub async fn replay(
    ledger: &Ledger,
    wanted: &Replay,
    mut out: impl FnMut(Map<String, Value>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let info = ledger.info();
    let one = match (&wanted.product, &wanted.subject) {
        (Some(product), Some(subject)) => {
            Some(Address::new(product, subject, info.partitions).partition)
        }
        _ => None,
    };
    let now = match wanted.as_of {
        Some(at) => at,
        None => ledger.clock().await?,
    };
    let shelf = Shelf::default();
    let epochs = epochs(ledger).await?;
    for (partition, head) in (0_u32..).zip(ledger.heads().await?) {
        if one.is_some_and(|one| one != partition) {
            continue;
        }
        let mut fold = PartitionFold {
            wanted,
            now,
            subjects: BTreeMap::new(),
            versions: BTreeMap::new(),
        };
        let mut pages = ledger.pages(partition, 0, head.offset + 1, PAGE);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                fold.read(row, &shelf)?;
            }
        }
        fold.tell(&shelf, &epochs, partition, &mut out)?;
    }
    Ok(())
}

struct Known {
    product: Arc<str>,
    subject: Arc<str>,
    state: State,
}

struct PartitionFold<'a> {
    wanted: &'a Replay,
    now: Timestamp,
    subjects: BTreeMap<SubjectKey, Known>,
    /// The catalog version in force at the instant, by product.
    versions: BTreeMap<Arc<str>, u32>,
}

impl PartitionFold<'_> {
    fn read(&mut self, row: &Row, shelf: &Shelf) -> anyhow::Result<()> {
        let known = self
            .wanted
            .known_at
            .is_none_or(|until| row.recorded_at <= until);
        if row.subject.is_empty() {
            shelf.take(row)?;
            let first = !self.versions.contains_key(&row.product);
            if &*row.event_type == "catalog.published"
                && known
                && (first || row.recorded_at <= self.now)
            {
                self.versions
                    .insert(Arc::clone(&row.product), row.catalog_version);
            }
            return Ok(());
        }
        let asked = self
            .wanted
            .product
            .as_ref()
            .is_none_or(|product| **product == *row.product)
            && self
                .wanted
                .subject
                .as_ref()
                .is_none_or(|subject| **subject == *row.subject);
        if !asked || !known || row.occurred_at > self.now {
            return Ok(());
        }
        let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
        let known = self
            .subjects
            .entry(row.subject_key)
            .or_insert_with(|| Known {
                product: Arc::clone(&row.product),
                subject: Arc::clone(&row.subject),
                state: State::default(),
            });
        fold_row(&mut known.state, row, &event, shelf)?;
        Ok(())
    }

    fn tell(
        self,
        shelf: &Shelf,
        epochs: &Epochs,
        partition: u32,
        out: &mut impl FnMut(Map<String, Value>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for known in self.subjects.values() {
            let version = self.versions.get(&known.product).copied();
            let Some((version, catalog)) =
                version.and_then(|v| Some((v, shelf.get(&known.product, v)?)))
            else {
                continue;
            };
            let state = &known.state;
            let mut line = entitlements(
                state,
                &catalog,
                version,
                &known.product,
                &known.subject,
                self.now,
            );
            let position = epochs.position(partition, state.subject.offset);
            line.insert("position".to_owned(), json!(position.to_string()));
            line.insert("as_of".to_owned(), json!(self.now.to_millis_text()));
            line.insert("age_ms".to_owned(), json!(0));
            out(line)?;
        }
        Ok(())
    }
}
