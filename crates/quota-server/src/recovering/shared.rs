//! What a ledger and those who know it from before have in common: where a history that was gone on with, after a restore and
//! without a look at the topic, parted from the one that the topic carries.

use crate::checkpoints::{Marks, Source, Trust};
use crate::comparing::epochs;
use crate::topics::Topics;
use quota_core::digest::Hash;
use quota_core::epoch::Epochs;
use quota_core::record::from_record;
use quota_core::row::Row;
use quota_kafka::{From, Reading};
use quota_postgres::Ledger;
use std::collections::BTreeMap;
use std::path::Path;

/// Marks that are compared at once.
const PAGE: usize = 1_000;

/// The last offset of each of these partitions that everybody agrees on, as far as they reach; -1 where there is none.
///
/// # Errors
/// Something cannot be read.
pub(super) async fn ends(
    ledger: &Ledger,
    topics: &Topics,
    file: Option<&Path>,
    partitions: &[u32],
) -> anyhow::Result<BTreeMap<u32, i64>> {
    let mut sources: Vec<Source> = file
        .map(|file| Source::File(file.to_owned()))
        .into_iter()
        .collect();
    sources.push(Source::Topic(topics.clone()));
    let marks = Marks::read(&sources, &ledger.info().id, &Trust::default()).await?;
    let epochs = epochs(ledger).await?;
    let mut shared = BTreeMap::new();
    for partition in partitions {
        let by_topic = first_other(ledger, &epochs, topics, *partition).await?;
        let by_marks = last_good(ledger, &epochs, &marks, *partition).await?;
        let ends = by_topic.map(|first| first - 1).into_iter().chain(by_marks);
        if let Some(end) = ends.min() {
            shared.insert(*partition, end);
        }
    }
    Ok(shared)
}

/// The first offset at which the topic has another event than the ledger.
async fn first_other(
    ledger: &Ledger,
    epochs: &Epochs,
    topics: &Topics,
    partition: u32,
) -> anyhow::Result<Option<i64>> {
    let starts = vec![(i32::try_from(partition)?, From::Offset(0))];
    let mut reading = Reading::begin(topics.settings(), &topics.ledger(), starts);
    let mut first: Option<i64> = None;
    while let Some(chunk) = reading.next().await? {
        let mut told: Vec<(i64, Hash)> = Vec::new();
        for record in &chunk.records {
            let received = from_record(record.headers(), record.payload())?;
            let row = received.as_row();
            let known = received.epoch <= epochs.current();
            if !known || epochs.holds(row.position(received.epoch)) {
                told.push((row.offset, row.hash));
            }
        }
        let hashes = hashes(ledger, partition, told.iter().map(|(offset, _)| *offset)).await?;
        let others = told
            .iter()
            .filter(|(offset, hash)| hashes.get(offset).is_some_and(|known| known != hash));
        first = others.map(|(offset, _)| *offset).chain(first).min();
    }
    Ok(first)
}

/// The last offset that checkpoints agree on with the ledger, where a later one does not.
async fn last_good(
    ledger: &Ledger,
    epochs: &Epochs,
    marks: &Marks,
    partition: u32,
) -> anyhow::Result<Option<i64>> {
    let told: Vec<(i64, Hash)> = marks
        .of(partition)
        .filter(|mark| mark.offset >= 0)
        .filter(|mark| {
            let left = epochs.left(partition, mark.epoch);
            left.is_none_or(|left| mark.offset < left)
        })
        .map(|mark| (mark.offset, mark.hash))
        .collect();
    let mut last = -1;
    for page in told.chunks(PAGE) {
        let hashes = hashes(ledger, partition, page.iter().map(|(offset, _)| *offset)).await?;
        for (offset, hash) in page {
            match hashes.get(offset) {
                Some(known) if known == hash => last = *offset,
                Some(_) => return Ok(Some(last)),
                // Beyond the ledger's end: lost, and no contradiction.
                None => return Ok(None),
            }
        }
    }
    Ok(None)
}

async fn hashes(
    ledger: &Ledger,
    partition: u32,
    offsets: impl Iterator<Item = i64>,
) -> anyhow::Result<BTreeMap<i64, Hash>> {
    let places = offsets.map(|offset| (partition, offset));
    let rows = ledger.rows_at(places).await?;
    let hash = |((_, offset), row): ((u32, i64), Row)| (offset, row.hash);
    Ok(rows.into_iter().map(hash).collect())
}
