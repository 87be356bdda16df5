//! Publishing: the same event in every partition, so that each has an exact point from which it holds.

use crate::command::{CATALOG_SOURCE, EPOCH_SOURCE};
use crate::digest::{event_key, subject_key};
use crate::event::{CatalogPublished, EpochStarted, Event};
use crate::row::{Head, Row};
use crate::time::Timestamp;
use std::sync::Arc;

/// Where a partition's row of a publication goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// Its head.
    pub head: Head,
    /// The row of the same subject before this one in the partition: its sequence number and its offset.
    pub before: Option<(i64, i64)>,
}

/// The rows that publish a catalog: one for each partition, after its head.
#[must_use]
pub fn publication(
    product: &str,
    version: u32,
    text: &str,
    places: &[Place],
    now: Timestamp,
) -> Vec<Row> {
    let event = Event::CatalogPublished(CatalogPublished {
        version,
        text: text.to_owned(),
    });
    let whose = (product, CATALOG_SOURCE, format!("catalog-{version}"));
    everywhere(whose, version, &event, places, now)
}

/// The rows that start an epoch, one for each partition after its head; beside each place, the first offset that may be
/// another event than before. They are no product's.
#[must_use]
pub fn epoch_start(epoch: u32, reason: &str, places: &[(Place, i64)], now: Timestamp) -> Vec<Row> {
    let row = |(place, from): &(Place, i64)| {
        let event = Event::EpochStarted(EpochStarted {
            epoch,
            reason: reason.to_owned(),
            from: *from,
        });
        let whose = ("", EPOCH_SOURCE, format!("epoch-{epoch}"));
        everywhere(whose, 0, &event, &[*place], now)
    };
    places.iter().flat_map(row).collect()
}

/// An event of a product's own subject, with this source and id, in every partition.
fn everywhere(
    (product, source, id): (&str, &str, String),
    version: u32,
    event: &Event,
    places: &[Place],
    now: Timestamp,
) -> Vec<Row> {
    let payload: Arc<[u8]> = event.encode().into();
    let id: Arc<str> = id.into();
    let key = subject_key(product, "");
    let key_of_event = event_key(product, "", source, &id);
    let product: Arc<str> = product.into();
    let rows = places.iter().map(
        |Place {
             partition,
             head,
             before,
         }| {
            let at = now.max(head.recorded_at);
            let mut row = Row {
                partition: *partition,
                offset: head.offset + 1,
                subject_key: key,
                subject_seq: before.map_or(0, |(seq, _)| seq) + 1,
                subject_prev: before.map(|(_, offset)| offset),
                event_key: key_of_event,
                product: Arc::clone(&product),
                subject: "".into(),
                source: source.into(),
                id: Arc::clone(&id),
                event_type: event.type_name().into(),
                type_version: 1,
                occurred_at: at,
                recorded_at: at,
                catalog_version: version,
                payload: Arc::clone(&payload),
                hash: [0; 32],
            };
            row.hash = row.expected_hash(&head.hash);
            row
        },
    );
    rows.collect()
}
