//! The pool: everything that reads, on connections that cannot do more than the service may.

use crate::connect::{self, LedgerInfo, become_service, connect_as_service, inspect, within};
use crate::error::Error;
use crate::lane::{self, Lane};
use crate::load::{self, EventLookup, LoadRequest, Loaded};
use crate::rows::{self, Line, limit, partition, partitions};
use quota_core::digest::SubjectKey;
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, Postgres};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

/// How long the server works on one statement of the pool.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long we wait for a connection and an answer together.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The ledger's database, behind a pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) pool: PgPool,
    info: LedgerInfo,
    options: PgConnectOptions,
    lane: PgConnectOptions,
    pub(crate) fold_version: i32,
    load: sqlx::SqlStr,
}

impl Ledger {
    /// Connects to a migrated database, as the service: its role can read and append the ledger, and owns nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] when the database is not migrated as far as this binary and `fold_version` need, or runs
    /// with `fsync` or `synchronous_commit` off; [`Error::Unavailable`], within seconds, when it is down.
    pub async fn connect(
        database_url: &str,
        fold_version: i32,
        pool_size: u32,
    ) -> Result<Self, Error> {
        let options = connect::options(database_url, "quota-ledger", STATEMENT_TIMEOUT)?;
        // Looked at on a connection of its own, since a pool only says that it timed out.
        let mut first = connect_as_service(&options).await?;
        let info = inspect(&mut first, fold_version).await?;
        first.close().await.ok();
        let pool = PgPoolOptions::new()
            .max_connections(pool_size)
            .acquire_timeout(connect::CONNECT_TIMEOUT)
            .after_connect(|connection, _| Box::pin(become_service(connection)))
            .connect_lazy_with(options.clone());
        let lane = lane::options(database_url)?;
        Ok(Self {
            pool,
            info,
            options,
            lane,
            fold_version,
            load: load::statement(fold_version),
        })
    }

    /// What the ledger is.
    #[must_use]
    pub const fn info(&self) -> LedgerInfo {
        self.info
    }

    /// How the pool connects.
    pub(crate) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Opens a lane to the same ledger.
    ///
    /// # Errors
    /// As [`Ledger::connect`].
    pub async fn lane(&self) -> Result<Lane, Error> {
        Lane::with(&self.lane, self.fold_version).await
    }

    /// Closes the pool, once its connections are free.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The head of every partition, by its number.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn heads(&self) -> Result<Vec<Head>, Error> {
        let all = partitions(0..self.info.partitions)?;
        let lines = self
            .read(sqlx::query(include_str!("../queries/heads.sql")).bind(all))
            .await?;
        let heads = rows::heads(&lines, &self.info.id).map_err(Error::read)?;
        Ok(heads.into_iter().map(|(_, head)| head).collect())
    }

    /// Rows of several partitions, in one query: each from an offset on, each at most so many; by partition and offset
    /// as asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ranges(&self, ranges: &[(u32, i64, usize)]) -> Result<Vec<Row>, Error> {
        let query = sqlx::query(include_str!("../queries/ranges.sql"))
            .bind(partitions(ranges.iter().map(|range| range.0))?)
            .bind(ranges.iter().map(|range| range.1).collect::<Vec<_>>())
            .bind(
                ranges
                    .iter()
                    .map(|range| limit(range.2))
                    .collect::<Vec<_>>(),
            );
        self.rows(query).await
    }

    /// Up to `most` rows of a partition from an offset on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn range(&self, number: u32, from: i64, most: usize) -> Result<Vec<Row>, Error> {
        self.ranges(&[(number, from, most)]).await
    }

    /// The rows at these places, partition and offset, where there are any. A place may be named twice.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rows_at(
        &self,
        places: impl IntoIterator<Item = (u32, i64)>,
    ) -> Result<BTreeMap<(u32, i64), Row>, Error> {
        let places: BTreeSet<(u32, i64)> = places.into_iter().collect();
        if places.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.rows(rows::at(places)?).await?;
        Ok(rows
            .into_iter()
            .map(|row| ((row.partition, row.offset), row))
            .collect())
    }

    /// The epoch that the ledger is in now; [`Ledger::info`] has the one that it was in at the connection.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn epoch(&self) -> Result<u32, Error> {
        let lines = self
            .read(sqlx::query("SELECT epoch FROM ledger_meta"))
            .await?;
        let line = lines
            .first()
            .ok_or_else(|| Error::Corrupt("ledger_meta is empty".into()))?;
        Line(line).unsigned(0).map_err(Error::read)
    }

    /// All rows of a subject of every partition's own, such as the one that epochs are told of, by partition and offset.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rows_everywhere(&self, subject_key: &SubjectKey) -> Result<Vec<Row>, Error> {
        let all = partitions(0..self.info.partitions)?;
        let query = sqlx::query(include_str!("../queries/rows_everywhere.sql"))
            .bind(all)
            .bind(&subject_key[..]);
        self.rows(query).await
    }

    /// The last offset of each of these subjects of one partition that has a row there, in no order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn last_offsets(
        &self,
        number: u32,
        subject_keys: &[SubjectKey],
    ) -> Result<Vec<(SubjectKey, i64)>, Error> {
        let keys: Vec<&[u8]> = subject_keys.iter().map(|key| &key[..]).collect();
        let query = sqlx::query(include_str!("../queries/last_offsets.sql"))
            .bind(partition(number)?)
            .bind(keys);
        let lines = self.read(query).await?;
        lines
            .iter()
            .map(|line| Ok((Line(line).get(0)?, Line(line).get(1)?)))
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }

    /// The rows of a partition from one offset up to (and without) another, in pages.
    #[must_use]
    pub fn pages(&self, number: u32, from: i64, to: i64, page: usize) -> Pages {
        Pages {
            ledger: self.clone(),
            partition: number,
            next: from,
            to,
            page: page.max(1),
        }
    }

    /// The rows of these events, where they are recorded; in no order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn by_event_keys(&self, events: &[EventLookup]) -> Result<Vec<Row>, Error> {
        let query = sqlx::query(include_str!("../queries/by_event_keys.sql"))
            .bind(partitions(events.iter().map(|event| event.partition))?)
            .bind(
                events
                    .iter()
                    .map(|event| &event.subject_key[..])
                    .collect::<Vec<_>>(),
            )
            .bind(
                events
                    .iter()
                    .map(|event| &event.event_key[..])
                    .collect::<Vec<_>>(),
            );
        self.rows(query).await
    }

    /// Up to `most` rows of one subject after an offset (-1: from the first), oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn subject_page(
        &self,
        number: u32,
        subject_key: &SubjectKey,
        after: i64,
        most: usize,
    ) -> Result<Vec<Row>, Error> {
        let query = sqlx::query(include_str!("../queries/subject_page.sql"))
            .bind(partition(number)?)
            .bind(&subject_key[..])
            .bind(after)
            .bind(limit(most));
        self.rows(query).await
    }

    /// The ids of the events at these offsets of a partition, in the order asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ids_at(&self, number: u32, offsets: &[i64]) -> Result<Vec<String>, Error> {
        let query = sqlx::query(include_str!("../queries/ids_at.sql"))
            .bind(partition(number)?)
            .bind(offsets);
        let lines = self.read(query).await?;
        lines
            .iter()
            .map(|line| Line(line).get(0))
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }

    /// Every catalog of one product or of all, oldest first, as partition 0 has them (each partition has the same).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn catalog_rows(&self, product: Option<&str>) -> Result<Vec<Row>, Error> {
        self.rows(
            sqlx::query(include_str!("../queries/catalogs.sql"))
                .bind(0_i32)
                .bind(product),
        )
        .await
    }

    /// The newest catalog of every product in every partition, by partition and product.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn latest_catalogs(&self) -> Result<Vec<Row>, Error> {
        let all = partitions(0..self.info.partitions)?;
        self.rows(
            sqlx::query(include_str!("../queries/latest_catalogs.sql"))
                .bind(all)
                .bind(None::<&str>),
        )
        .await
    }

    /// The database's clock.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn clock(&self) -> Result<Timestamp, Error> {
        let lines = self.read(sqlx::query(CLOCK)).await?;
        let line = lines
            .first()
            .ok_or_else(|| Error::Corrupt("the clock did not answer".into()))?;
        Line(line).time(0).map_err(Error::read)
    }

    /// Everything that checks on these subjects are built on, in one snapshot and one round trip.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn load(&self, request: &LoadRequest) -> Result<Loaded, Error> {
        let query = load::Arguments::new(request)?.query(self.load.clone());
        load::read(&self.read(query).await?, request, &self.info)
    }

    async fn rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<Row>, Error> {
        rows::rows(&self.read(query).await?).map_err(Error::read)
    }

    pub(crate) async fn read(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        self.run(query.fetch_all(&self.pool)).await
    }

    /// One statement, with our patience.
    pub(crate) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        within(ANSWER_TIMEOUT, work).await.map_err(Error::read)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the options: they hold a password.
        f.debug_struct("Ledger")
            .field("info", &self.info)
            .field("fold_version", &self.fold_version)
            .finish_non_exhaustive()
    }
}

/// A partition's rows in pages, so that a ledger of any size can be read through.
#[derive(Debug)]
pub struct Pages {
    ledger: Ledger,
    partition: u32,
    next: i64,
    to: i64,
    page: usize,
}

impl Pages {
    /// The next page; empty at the end of the range, or of the partition. Calling again after an error tries that page
    /// again.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn next(&mut self) -> Result<Vec<Row>, Error> {
        let left = usize::try_from(self.to.saturating_sub(self.next)).unwrap_or(0);
        if left == 0 {
            return Ok(Vec::new());
        }
        let rows = self
            .ledger
            .range(self.partition, self.next, left.min(self.page))
            .await?;
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| row.offset < self.to)
            .collect();
        self.next = rows.last().map_or(self.to, |row| row.offset + 1);
        Ok(rows)
    }
}
