//! Publishing a catalog: the same event in every partition, so that each has an exact point from which it holds.

use crate::command::CATALOG_SOURCE;
use crate::digest::{event_key, subject_key};
use crate::event::{CatalogPublished, Event};
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
    /// The product's catalog before this one in the partition: its sequence number and its offset.
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
    let payload: Arc<[u8]> = event.encode().into();
    let id: Arc<str> = format!("catalog-{version}").into();
    let key = subject_key(product, "");
    let source = CATALOG_SOURCE;
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
