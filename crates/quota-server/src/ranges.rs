//! Reads of ranges of the ledger, many partitions in one query, beside whatever else their asker does.

use quota_core::row::Row;
use quota_postgres::Ledger;
use std::collections::{BTreeMap, VecDeque};
use tokio::task::{JoinError, JoinSet};

/// Rows that one query asks for, at most.
const QUERY_ROWS: i64 = 4_000;

/// A range that is wanted, and the ticket that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Names it.
    pub ticket: u64,
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub from: i64,
    /// The last offset.
    pub to: i64,
}

impl Ask {
    const fn rows(&self) -> i64 {
        self.to - self.from + 1
    }
}

/// What became of ranges: each with its rows, by offset; none where the ledger could not be read.
pub type Answers = Vec<(Ask, Option<Vec<(i64, Row)>>)>;

/// Ranges that wait to be read, and those that are being read.
pub struct Ranges {
    ledger: Ledger,
    waiting: VecDeque<Ask>,
    queries: JoinSet<Answers>,
    most: usize,
    away: bool,
}

impl Ranges {
    /// Reads from this ledger, with at most so many queries at once.
    #[must_use]
    pub fn new(ledger: Ledger, most: usize) -> Self {
        Self {
            ledger,
            waiting: VecDeque::new(),
            queries: JoinSet::new(),
            most,
            away: false,
        }
    }

    /// Wants a range; what was wanted of the same partition before and was not begun is of no use any more.
    pub fn ask(&mut self, ask: Ask) {
        self.waiting.retain(|old| old.partition != ask.partition);
        self.waiting.push_back(ask);
    }

    /// Starts as many queries as may run.
    pub fn start(&mut self) {
        while self.queries.len() < self.most && !self.waiting.is_empty() {
            let mut rows = 0;
            let fits = |ask: &&Ask| {
                rows += ask.rows();
                rows <= QUERY_ROWS
            };
            let count = self.waiting.iter().take_while(fits).count().max(1);
            let asks = self
                .waiting
                .drain(..count.min(self.waiting.len()))
                .collect();
            self.queries.spawn(read(self.ledger.clone(), asks));
        }
    }

    /// What the next query to end brought; waits for ever where none runs.
    pub async fn next(&mut self) -> Answers {
        let Some(answers) = self.queries.join_next().await else {
            return std::future::pending().await;
        };
        let answers = answers.unwrap_or_else(|error: JoinError| {
            tracing::error!(%error, "a read of the ledger died");
            Answers::new()
        });
        let failed = answers.iter().any(|(_, rows)| rows.is_none());
        if failed && !self.away {
            tracing::warn!("ranges of the ledger cannot be read");
        }
        self.away = failed;
        answers
    }
}

async fn read(ledger: Ledger, asks: Vec<Ask>) -> Answers {
    let wanted: Vec<(u32, i64, usize)> = asks
        .iter()
        .map(|ask| {
            (
                ask.partition,
                ask.from,
                usize::try_from(ask.rows()).unwrap_or(0),
            )
        })
        .collect();
    let rows = match ledger.ranges(&wanted).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::debug!(%error, "reading ranges of the ledger");
            return asks.into_iter().map(|ask| (ask, None)).collect();
        }
    };
    let mut found: BTreeMap<u32, Vec<(i64, Row)>> = BTreeMap::new();
    for row in rows {
        found
            .entry(row.partition)
            .or_default()
            .push((row.offset, row));
    }
    asks.into_iter()
        .map(|ask| (ask, Some(found.remove(&ask.partition).unwrap_or_default())))
        .collect()
}
