//! The ledger's topic as any consumer reads it: without what it has seen before, it must be the ledger.

use crate::servers::LIMIT;
use anyhow::{Context as _, bail, ensure};
use quota_kafka::{
    GroupMember, GroupOptions, Headers, Outgoing, Publisher, PublisherOptions, Record, Settings,
    StartAt,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TOPIC: &str = "quota.ledger.v1";
/// Records that are kept, to be told again.
const KEPT: usize = 2_000;

/// Reads the topic along with the ledger.
pub struct Topic {
    settings: Settings,
    member: GroupMember,
    /// The hash of each partition's records, by the ledger's offset, up to the first that is missing.
    seen: Vec<Vec<String>>,
    /// Records beyond a hole; none where the topic has lost nothing.
    beyond: Vec<BTreeMap<usize, String>>,
    /// Whether the broker has lost records: what was told before comes again then, and what comes next may come first.
    lossy: bool,
    /// Records that were seen before, and so are dropped.
    pub again: usize,
    kept: Vec<Record>,
}

fn header<'r>(record: &'r Record, name: &str) -> anyhow::Result<&'r str> {
    let bytes = record
        .header(name)
        .with_context(|| format!("no header {name}: {record:?}"))?;
    Ok(std::str::from_utf8(bytes)?)
}

impl Topic {
    /// Reads from the very beginning; `lossy` says that the broker has lost records.
    pub fn open(brokers: &str, partitions: usize, lossy: bool) -> anyhow::Result<Self> {
        let settings = Settings::new(brokers, "chaos");
        let options = GroupOptions {
            group: format!("chaos-{}", uuid::Uuid::new_v4().simple()),
            topics: vec![TOPIC.to_owned()],
            start: StartAt::Committed { or_beginning: true },
        };
        let member = GroupMember::open(&settings, &options)?;
        Ok(Self {
            settings,
            member,
            seen: vec![Vec::new(); partitions],
            beyond: vec![BTreeMap::new(); partitions],
            lossy,
            again: 0,
            kept: Vec::new(),
        })
    }

    /// Reads until so many rows of each partition were met; each must come when its turn is.
    pub async fn reaches(&mut self, rows: &[i64]) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.behind(rows) {
            ensure!(
                started.elapsed() < LIMIT,
                "the topic does not reach the ledger: it has {:?} rows, the ledger {rows:?}",
                self.seen.iter().map(Vec::len).collect::<Vec<_>>(),
            );
            let wait = Duration::from_millis(200);
            for record in self.member.next_batch(2_000, wait).await? {
                self.read(record)?;
            }
        }
        Ok(())
    }

    /// Reads until every row was met; each must be its row.
    pub async fn meets(&mut self, hashes: &[Vec<Vec<u8>>]) -> anyhow::Result<()> {
        let rows: Vec<i64> = hashes.iter().map(|rows| rows.len() as i64).collect();
        self.reaches(&rows).await?;
        for (number, (seen, rows)) in self.seen.iter().zip(hashes).enumerate() {
            let differs = |(seen, hash): (&String, &Vec<u8>)| *seen != hex::encode(hash);
            if let Some(offset) = seen.iter().zip(rows).position(differs) {
                bail!("the topic's {number}:{offset} is not the ledger's");
            }
        }
        Ok(())
    }

    fn behind(&self, rows: &[i64]) -> bool {
        let mut both = self.seen.iter().zip(rows);
        both.any(|(seen, rows)| (seen.len() as i64) < *rows)
    }

    fn read(&mut self, record: Record) -> anyhow::Result<()> {
        let number = usize::try_from(record.partition)?;
        let (Some(seen), Some(beyond)) = (self.seen.get_mut(number), self.beyond.get_mut(number))
        else {
            bail!("the topic has a partition {number}");
        };
        let offset: usize = header(&record, "ce_offset")?.parse()?;
        let hash = header(&record, "ce_hash")?.to_owned();
        ensure!(
            offset <= seen.len() || self.lossy,
            "the topic has a gap: in partition {number}, {offset} came before {}",
            seen.len()
        );
        if let Some(known) = seen.get(offset) {
            ensure!(
                *known == hash,
                "the topic has two rows at {number}:{offset}"
            );
            self.again += 1;
            return Ok(());
        }
        beyond.insert(offset, hash);
        while let Some(hash) = beyond.remove(&seen.len()) {
            seen.push(hash);
        }
        self.kept.push(record);
        if self.kept.len() > KEPT {
            self.kept.drain(..KEPT / 2);
        }
        Ok(())
    }

    /// Tells old records again, as they were, in another order.
    pub async fn repeat(&self, order: impl Fn(usize) -> u64) -> anyhow::Result<usize> {
        let mut numbered: Vec<(u64, &Record)> = (0..).map(order).zip(&self.kept).collect();
        numbered.sort_by_key(|(turn, _)| *turn);
        numbered.truncate(200);
        let publisher = Publisher::open(&self.settings, &PublisherOptions::default())?;
        let records: Vec<Outgoing<'_>> = numbered.iter().map(|(_, record)| copy(record)).collect();
        let count = records.len();
        tokio::time::timeout(LIMIT, publisher.send(records)).await??;
        Ok(count)
    }
}

fn copy(record: &Record) -> Outgoing<'_> {
    let all = record.headers();
    let headers = all.fold(Headers::with_capacity(16), |headers, (name, value)| {
        headers.add_nullable(name, value)
    });
    Outgoing {
        topic: TOPIC,
        partition: Some(record.partition),
        key: record.key(),
        payload: record.payload(),
        headers: Some(headers),
    }
}
