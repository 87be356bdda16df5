//! Signed checkpoints: where every partition ended, told to a topic and to a file outside the database.
//!
//! Whoever changes the ledger's tables, with whatever privileges, cannot change what was told here before. `verify` holds
//! the ledger against them, and a node that finds them ahead of its ledger does not write.

mod covering;
mod marks;
mod signer;

pub use covering::{Sealed, covering};
pub use marks::{Marks, Source, newest};
pub use signer::{Signer, Trust};

use crate::node::Node;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::checkpoint::{Checkpoint, End, Signed};
use quota_kafka::{Outgoing, Publisher, PublisherOptions};
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a broker may take to acknowledge a checkpoint.
const PATIENCE: Duration = Duration::from_secs(5);

/// How checkpoints are made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The time between two of them.
    pub interval: Duration,
    /// A file that each is appended to, beside the topic.
    pub file: Option<PathBuf>,
    /// Who signs.
    pub signer: Arc<Signer>,
}

/// What each of the two was told last.
#[derive(Default)]
struct Told {
    file: Option<Vec<End>>,
    topic: Option<Vec<End>>,
}

/// Makes a checkpoint at once, then one whenever the time has come and something was recorded since, and one at the end.
pub async fn run(node: Node, topics: Topics, plan: Plan, stop: CancellationToken) {
    let mut told = Told::default();
    loop {
        let ending = stop.is_cancelled();
        if let Err(error) = tell(&node, &topics, &plan, &mut told).await {
            metrics::counter!("quota_checkpoints_failed_total").increment(1);
            tracing::warn!(
                error = format!("{error:#}"),
                "a checkpoint could not be made; the next one holds as much"
            );
        }
        if ending {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(plan.interval) => {}
        }
    }
}

/// Tells the file and the topic what they were not told yet; one does not wait for the other's trouble.
async fn tell(node: &Node, topics: &Topics, plan: &Plan, told: &mut Told) -> anyhow::Result<()> {
    let ends = ends(node).await.context("reading the ledger's heads")?;
    let file = plan
        .file
        .as_deref()
        .filter(|_| told.file.as_ref() != Some(&ends));
    let to_topic = told.topic.as_ref() != Some(&ends);
    if file.is_none() && !to_topic {
        return Ok(());
    }
    let signed = plan.signer.sign(Checkpoint {
        ledger_id: node.ledger.info().id,
        epoch: node.epoch(),
        at: node.clock.now(),
        ends: ends.clone(),
    });
    let line = signed.to_line();
    let kept = match file.map(Path::to_owned) {
        Some(file) => {
            let line = format!("{line}\n");
            tokio::task::spawn_blocking(move || append(&file, &line)).await?
        }
        None => Ok(()),
    };
    if kept.is_ok() {
        told.file = Some(ends.clone());
    }
    let published = if to_topic {
        publish(topics, &signed, &line).await
    } else {
        Ok(())
    };
    if published.is_ok() {
        told.topic = Some(ends);
        metrics::counter!("quota_checkpoints_total").increment(1);
        node.sealed.add(signed);
    }
    kept.and(published)
}

/// Where the partitions end.
async fn ends(node: &Node) -> anyhow::Result<Vec<End>> {
    let heads = node.heads().await?;
    let end = |head: quota_core::row::Head| End {
        offset: head.offset,
        hash: head.hash,
    };
    Ok(heads.into_iter().map(end).collect())
}

fn append(file: &Path, line: &str) -> anyhow::Result<()> {
    let write = || {
        let mut opened = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(file)?;
        let mut last = [b'\n'];
        if opened.seek(SeekFrom::End(0))? > 0 {
            opened.seek(SeekFrom::End(-1))?;
            opened.read_exact(&mut last)?;
        }
        if last != *b"\n" {
            // A line that was cut off while it was written; it must not spoil this one.
            opened.write_all(b"\n")?;
        }
        opened.write_all(line.as_bytes())?;
        opened.sync_data()
    };
    write().with_context(|| format!("writing to {}", file.display()))
}

async fn publish(topics: &Topics, signed: &Signed, line: &str) -> anyhow::Result<()> {
    let publisher = Publisher::open(topics.settings(), &PublisherOptions::default())?;
    let key = hex::encode(signed.checkpoint.ledger_id);
    let topic = topics.checkpoints();
    let outgoing = Outgoing {
        topic: &topic,
        // The one that there surely is: the newest is at its end.
        partition: Some(0),
        key: Some(key.as_bytes()),
        payload: Some(line.as_bytes()),
        headers: None,
    };
    let sent = tokio::time::timeout(PATIENCE, publisher.send(vec![outgoing])).await;
    Ok(sent.context("the broker does not acknowledge")??)
}
