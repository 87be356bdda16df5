//! The checkpoints that were told before, from the file and from the topic.

use super::Trust;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::audit::Mark;
use quota_core::checkpoint::{Checkpoint, Signed};
use quota_kafka::{From, Reading, TopicError};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Where checkpoints are read from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, a line each.
    File(PathBuf),
    /// The checkpoints' topic.
    Topic(Topics),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Topic(topics) => write!(f, "the topic {}", topics.checkpoints()),
        }
    }
}

/// Marks that are kept for each partition: with more of them, a change is found sooner after its place, and that is all.
const KEPT: usize = 4_096;
/// Faults that are told one by one.
const FAULTS: usize = 16;

/// What the checkpoints of one ledger say, in bounded memory: of very many, every other one is left out, never the newest.
#[derive(Debug, Default)]
pub struct Marks {
    partitions: Vec<BTreeMap<(i64, u32), Mark>>,
    /// A mark that contradicts another one, by partition.
    contradictions: BTreeMap<u32, Mark>,
    count: usize,
    /// Those that nobody we trust has signed, and why.
    pub faults: Vec<String>,
}

impl Marks {
    /// Reads what there is of this ledger. Others may share the topic; theirs are left out.
    ///
    /// # Errors
    /// A source cannot be read.
    pub async fn read(
        sources: &[Source],
        ledger_id: &[u8; 16],
        trust: &Trust,
    ) -> anyhow::Result<Self> {
        let mut marks = Self::default();
        for source in sources {
            let mut number = 0_usize;
            let mut take = |line: &[u8]| {
                number += 1;
                marks.take(line, number, source, ledger_id, trust);
                ControlFlow::Continue(())
            };
            match source {
                Source::File(file) => lines(file, take)?,
                Source::Topic(topics) => {
                    let starts = vec![(0, From::Offset(0))];
                    let mut reading =
                        Reading::begin(topics.settings(), &topics.checkpoints(), starts);
                    let place = || format!("reading {source}");
                    while let Some(chunk) = reading.next().await.with_context(place)? {
                        for record in &chunk.records {
                            let _ = take(record.payload().unwrap_or_default());
                        }
                    }
                }
            }
        }
        Ok(marks)
    }

    fn take(
        &mut self,
        line: &[u8],
        number: usize,
        source: &Source,
        ledger_id: &[u8; 16],
        trust: &Trust,
    ) {
        match Signed::parse(line) {
            Ok(signed) if signed.checkpoint.ledger_id != *ledger_id => {}
            Ok(signed) => match trust.objection(&signed) {
                Some(why) if self.faults.len() < FAULTS => self
                    .faults
                    .push(format!("checkpoint {number} of {source}: {why}")),
                Some(_) => {}
                None => self.keep(&signed.checkpoint),
            },
            // Cut off, or not ours: it says nothing, as if it were not there.
            Err(error) => tracing::warn!("line {number} of {source}: {error}"),
        }
    }

    fn keep(&mut self, checkpoint: &Checkpoint) {
        self.count += 1;
        if self.partitions.len() < checkpoint.ends.len() {
            self.partitions
                .resize_with(checkpoint.ends.len(), BTreeMap::new);
        }
        let partitions = self.partitions.iter_mut().zip(&checkpoint.ends);
        for (partition, (kept, end)) in (0_u32..).zip(partitions) {
            let mark = Mark {
                epoch: checkpoint.epoch,
                offset: end.offset,
                hash: end.hash,
                at: checkpoint.at,
            };
            let known = kept.entry((mark.offset, mark.epoch)).or_insert(mark);
            if known.hash != mark.hash {
                self.contradictions.entry(partition).or_insert(mark);
            }
            if kept.len() > KEPT {
                let (mut place, newest) = (0_usize, kept.last_key_value().map(|(key, _)| *key));
                kept.retain(|key, _| {
                    place += 1;
                    place.is_multiple_of(2) || Some(*key) == newest
                });
            }
        }
    }

    /// How many checkpoints there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// What they say of one partition.
    pub fn of(&self, partition: u32) -> impl Iterator<Item = Mark> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let kept = self.partitions.get(index).into_iter().flatten();
        let against = self.contradictions.get(&partition);
        kept.map(|(_, mark)| *mark).chain(against.copied())
    }
}

/// The newest checkpoints of a ledger, from the file and from the topic's end.
///
/// Those with a bad signature say nothing: whoever can write to the topic could stop every node with one.
///
/// # Errors
/// The file or the topic cannot be read.
pub async fn newest(
    topics: &Topics,
    file: Option<&Path>,
    ledger_id: &[u8; 16],
) -> anyhow::Result<Vec<Checkpoint>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    if let Some(file) = file {
        let mut last = Vec::new();
        lines(file, |line| {
            line.clone_into(&mut last);
            ControlFlow::Continue(())
        })?;
        found.push(last);
    }
    // The broker in this process forgets: what it has is of this process.
    if !topics.is_embedded() {
        let (settings, topic) = (topics.settings(), topics.checkpoints());
        let tails = match quota_kafka::topic::tails(settings, &topic, 1).await {
            Err(TopicError::Missing { .. }) => Vec::new(),
            tails => tails?,
        };
        let tails = tails.iter().flatten();
        found.extend(tails.filter_map(|record| record.payload().map(<[u8]>::to_vec)));
    }
    let read = found.iter().filter_map(|line| Signed::parse(line).ok());
    let good = read
        .filter(|signed| signed.checkpoint.ledger_id == *ledger_id)
        .filter(|signed| Trust::default().objection(signed).is_none());
    Ok(good.map(|signed| signed.checkpoint).collect())
}

/// Takes the whole lines of a file, one after the other; none where there is none. A line without its end was cut off
/// while it was written.
pub(super) fn lines(
    file: &Path,
    mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> anyhow::Result<()> {
    let place = || format!("reading {}", file.display());
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(place),
    };
    let mut reader = BufReader::new(opened);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line).with_context(place)?;
        if line.pop() != Some(b'\n') {
            return Ok(());
        }
        if !line.is_empty() && take(&line).is_break() {
            return Ok(());
        }
    }
}
