//! A node: what all of its parts share.

use crate::admission::Gate;
use crate::cache::SubjectCache;
use crate::checkpoints::Sealed;
use crate::clock::DatabaseClock;
use crate::comparing;
use crate::shelf::Shelf;
use crate::writer::Writer;
use quota_core::epoch::Epochs;
use quota_core::lane::PartitionEnd;
use quota_core::row::{Head, Row};
use quota_core::state::FOLD_VERSION;
use quota_postgres::Ledger;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, broadcast};

/// Connections for everything but the lanes.
const POOL_SIZE: u32 = 12;
/// Commits that may wait for the relay; what is more, it reads from the ledger.
const COMMITS_WAITING: usize = 256;

/// What a lane has just committed: a partition, and its rows.
pub type Commit = (u32, Vec<Arc<Row>>);
/// Subjects that are kept in memory; about 1.5 kB each.
const CACHED_SUBJECTS: usize = 50_000;

/// What the parts of a node share. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    /// The ledger.
    pub ledger: Ledger,
    /// The subject cache, and the partitions' ends.
    pub cache: Arc<SubjectCache>,
    /// The catalogs.
    pub shelf: Arc<Shelf>,
    /// The database's clock.
    pub clock: Arc<DatabaseClock>,
    /// Where the lanes of this node say what they committed.
    pub committed: broadcast::Sender<Commit>,
    /// The door to the lane.
    pub writer: Writer,
    /// The gate before it.
    pub gate: Arc<Gate>,
    /// The checkpoints that this node has made.
    pub sealed: Arc<Sealed>,
    /// Rung when the ledger has begun an epoch that this node does not know: all that it knows may be of a lost tail.
    pub outdated: Arc<Notify>,
    /// The heads that the ledger had when it was opened, by partition.
    opened_at: Arc<[i64]>,
    epochs: Epochs,
}

impl Node {
    /// Opens the ledger and learns its catalogs and ends. Commands are let in while the gate is open.
    ///
    /// # Errors
    /// The database is down, not migrated, or holds what this version cannot read.
    pub async fn open(
        database_url: &str,
        gate: Arc<Gate>,
    ) -> anyhow::Result<(Self, crate::writer::Queue)> {
        let ledger = Ledger::connect(database_url, FOLD_VERSION, POOL_SIZE).await?;
        let clock = Arc::new(DatabaseClock::default());
        clock.set(ledger.clock().await?);
        // Before the ends: an epoch that begins after this makes all of this outdated.
        let epochs = comparing::epochs(&ledger).await?;
        let ends = ends(&ledger).await?;
        // After the ends: whatever is in force there is on the shelf.
        let shelf = Arc::new(Shelf::default());
        shelf.load(&ledger).await?;
        let opened_at = ends.iter().map(|end| end.head.offset).collect();
        let cache = Arc::new(SubjectCache::new(ends, CACHED_SUBJECTS, clock.elapsed()));
        let (writer, queue) = crate::writer::queue(Arc::clone(&gate));
        let (committed, _) = broadcast::channel(COMMITS_WAITING);
        Ok((
            Self {
                ledger,
                cache,
                shelf,
                clock,
                committed,
                writer,
                gate,
                sealed: Arc::default(),
                outdated: Arc::default(),
                opened_at,
                epochs,
            },
            queue,
        ))
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.ledger.info().partitions
    }

    /// The head that a partition had before this node did anything; -1 where it was empty.
    #[must_use]
    pub fn opened_at(&self, partition: u32) -> i64 {
        let index = usize::try_from(partition).ok();
        let head = index.and_then(|index| self.opened_at.get(index));
        head.copied().unwrap_or(-1)
    }

    /// The ledger's epoch, as this node knows it.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epochs.current()
    }

    /// The ledger's epochs, as this node knows them.
    #[must_use]
    pub const fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Every partition's head, all in the epoch that this node knows.
    ///
    /// # Errors
    /// The ledger cannot be read, or has begun an epoch since.
    pub async fn heads(&self) -> anyhow::Result<Vec<Head>> {
        let heads = self.ledger.heads().await?;
        // After the heads: what is of a later epoch must not be published as if it were of this one.
        let epoch = self.ledger.epoch().await?;
        anyhow::ensure!(epoch == self.epoch(), "epoch {epoch} has begun");
        Ok(heads)
    }

    /// The topic is of an epoch that this node does not know. Either the ledger has begun it, and this node begins anew within
    /// a second; or the ledger was restored to a time before it, and must not be written.
    pub fn doubt_epoch(&self, partition: u32, epoch: u32) {
        self.gate.doubt(&format!(
            "the topic's partition {partition} is of epoch {epoch}, this node knows {}",
            self.epoch()
        ));
    }

    /// What the lane works with.
    #[must_use]
    pub fn lane_context(&self) -> crate::writer::Context {
        crate::writer::Context {
            ledger: self.ledger.clone(),
            cache: Arc::clone(&self.cache),
            shelf: Arc::clone(&self.shelf),
            clock: Arc::clone(&self.clock),
            committed: self.committed.clone(),
            epochs: self.epochs.clone(),
        }
    }
}

/// Every partition's head, and the catalogs in force there.
///
/// Heads are read first: a catalog published between the two reads is then ahead of its partition's end, and the end's
/// fence sends whoever builds on it back to read on.
async fn ends(ledger: &Ledger) -> anyhow::Result<Vec<PartitionEnd>> {
    let heads = ledger.heads().await?;
    let mut ends: Vec<PartitionEnd> = heads
        .into_iter()
        .map(|head| PartitionEnd {
            head,
            versions: BTreeMap::new(),
        })
        .collect();
    for row in ledger.latest_catalogs().await? {
        let index = usize::try_from(row.partition)?;
        if let Some(end) = ends.get_mut(index)
            && row.offset <= end.head.offset
        {
            end.versions.insert(row.product, row.catalog_version);
        }
    }
    Ok(ends)
}
