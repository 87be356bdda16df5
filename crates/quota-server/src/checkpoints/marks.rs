//! The checkpoints that were told before, from the file and from the topic.

use super::Trust;
use crate::node::Node;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::audit::Mark;
use quota_core::checkpoint::{Checkpoint, Signed};
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
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

/// The checkpoints of one ledger, in one epoch of it.
#[derive(Debug, Default)]
pub struct Marks {
    checkpoints: Vec<Checkpoint>,
    /// Those that nobody we trust has signed, and why.
    pub faults: Vec<String>,
}

impl Marks {
    /// Reads what there is of this ledger and epoch. Others may share the topic; theirs are left out.
    ///
    /// # Errors
    /// A source cannot be read.
    pub async fn read(
        sources: &[Source],
        ledger_id: &[u8; 16],
        epoch: u32,
        trust: &Trust,
    ) -> anyhow::Result<Self> {
        let mut marks = Self::default();
        for source in sources {
            let lines = match source {
                Source::File(file) => lines(file)?,
                Source::Topic(topics) => {
                    let read = |record: &quota_kafka::Record| record.payload().map(<[u8]>::to_vec);
                    let (settings, topic) = (topics.settings(), topics.checkpoints());
                    let read = quota_kafka::topic::scan(settings, &topic, read).await;
                    read.with_context(|| format!("reading {source}"))?
                }
            };
            for (number, line) in (1_usize..).zip(lines) {
                match Signed::parse(&line) {
                    Ok(signed) if signed.checkpoint.ledger_id != *ledger_id => {}
                    Ok(signed) => match trust.objection(&signed) {
                        Some(why) => marks
                            .faults
                            .push(format!("checkpoint {number} of {source}: {why}")),
                        None if signed.checkpoint.epoch == epoch => {
                            marks.checkpoints.push(signed.checkpoint);
                        }
                        None => {}
                    },
                    // Cut off, or not ours: it says nothing, as if it were not there.
                    Err(error) => tracing::warn!("line {number} of {source}: {error}"),
                }
            }
        }
        Ok(marks)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.checkpoints.len()
    }

    /// What they say of one partition.
    pub fn of(&self, partition: u32) -> impl Iterator<Item = Mark> {
        self.checkpoints.iter().filter_map(move |checkpoint| {
            let end = checkpoint.ends.get(usize::try_from(partition).ok()?)?;
            Some(Mark {
                offset: end.offset,
                hash: end.hash,
                at: checkpoint.at,
            })
        })
    }
}

/// The newest checkpoints of a node's ledger, from the file and from the topic's end.
///
/// Those with a bad signature say nothing: whoever can write to the topic could stop every node with one.
///
/// # Errors
/// The file or the topic cannot be read.
pub async fn newest(
    topics: &Topics,
    file: Option<&Path>,
    node: &Node,
) -> anyhow::Result<Vec<Checkpoint>> {
    let mut found = Vec::new();
    if let Some(file) = file {
        found.extend(lines(file)?.pop());
    }
    // The broker in this process forgets: what it has is of this process.
    if !topics.is_embedded() {
        let (settings, topic) = (topics.settings(), topics.checkpoints());
        let tails = quota_kafka::topic::tails(settings, &topic, 1).await?;
        let tails = tails.iter().flatten();
        found.extend(tails.filter_map(|record| record.payload().map(<[u8]>::to_vec)));
    }
    let ours = |signed: &Signed| {
        (signed.checkpoint.ledger_id, signed.checkpoint.epoch)
            == (node.ledger.info().id, node.epoch())
    };
    let read = found.iter().filter_map(|line| Signed::parse(line).ok());
    let good = read
        .filter(ours)
        .filter(|signed| Trust::default().objection(signed).is_none());
    Ok(good.map(|signed| signed.checkpoint).collect())
}

/// The whole lines of a file; none where there is none. A line without its end was cut off while it was written.
fn lines(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let place = || format!("reading {}", file.display());
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(place),
    };
    let mut reader = BufReader::new(opened);
    let mut found = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).with_context(place)?;
        if line.pop() != Some(b'\n') {
            return Ok(found);
        }
        if !line.is_empty() {
            found.push(line);
        }
    }
}
