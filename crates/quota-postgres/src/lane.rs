//! One connection of its own: what appends, and what decisions read.

mod batch;

use crate::connect::{self, LedgerInfo, connect_as_service, inspect, within};
use crate::error::{AppendError, Error, lost};
use crate::load::{self, LoadRequest, Loaded};
use crate::rows::{self, Line, partition, partitions};
use batch::Batch;
use quota_core::digest::{Hash, SubjectKey};
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use std::time::Duration;

/// How long the server works on one statement of a lane.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long we wait for the server's answer, after which the connection is taken for lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

pub(crate) const APPEND: &str = include_str!("../queries/append.sql");

/// What a partition's rows are built on: they go in only if this is its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The partition.
    pub partition: u32,
    /// The offset of the batch's first row there; one more than the head's.
    pub first_offset: i64,
    /// The head's hash; the genesis hash in an empty partition.
    pub previous_hash: Hash,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partitions whose rows went in, ascending; the others were stale: somebody else was faster.
    pub partitions: Vec<u32>,
    /// The database's clock, right after the insert.
    pub clock: Timestamp,
}

/// A connection outside the pool, for one writer.
///
/// Outside a transaction an append is durable when it returns. After [`Lane::lock`], everything is part of one
/// transaction until [`Lane::commit`] or [`Lane::rollback`], which the server cuts after 2 s of idling.
///
/// When a call is cancelled, or loses the connection, the lane is closed: all further calls fail, and the server rolls
/// back what was not committed. Open a new one.
pub struct Lane {
    connection: PgConnection,
    info: LedgerInfo,
    load: sqlx::SqlStr,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Every statement is a transaction of its own.
    Ready,
    /// Inside a transaction.
    Open,
    /// Inside a transaction that an error has undone.
    Undone,
    /// Of no more use.
    Closed,
}

impl Lane {
    /// Opens a lane to the ledger at `database_url`, with the view tables of `fold_version`.
    ///
    /// # Errors
    /// As [`crate::Ledger::connect`].
    pub async fn open(database_url: &str, fold_version: i32) -> Result<Self, Error> {
        Self::with(&options(database_url)?, fold_version).await
    }

    pub(crate) async fn with(options: &PgConnectOptions, fold_version: i32) -> Result<Self, Error> {
        Self::on(connect_as_service(options).await?, fold_version).await
    }

    /// A lane with its login's own rights.
    pub(crate) async fn open_as_owner(
        database_url: &str,
        fold_version: i32,
    ) -> Result<Self, Error> {
        Self::on(
            connect::connect(&options(database_url)?).await?,
            fold_version,
        )
        .await
    }

    async fn on(mut connection: PgConnection, fold_version: i32) -> Result<Self, Error> {
        let info = inspect(&mut connection, fold_version).await?;
        let load = load::statement(fold_version);
        // Prepared ahead, so that the first append is one round trip like all others.
        for statement in [sqlx::SqlStr::from_static(APPEND), load.clone()] {
            let prepared = within(ANSWER_TIMEOUT, connection.prepare(statement)).await;
            prepared.map_err(Error::read)?;
        }
        Ok(Self {
            connection,
            info,
            load,
            state: State::Ready,
        })
    }

    /// What the ledger is.
    #[must_use]
    pub const fn info(&self) -> LedgerInfo {
        self.info
    }

    /// Whether the lane can be used no more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Appends rows in one round trip. Rows ascend by partition and offset, are dense in each partition and chained to
    /// its fence, and each partition has one fence: all of that is checked before anything is sent, since a wrong row
    /// could never be taken back. A stale partition's rows stay out and hold no others up, unless `all_or_nothing`.
    /// A fence without rows is only compared: an answer that records nothing rests on a head too.
    ///
    /// # Errors
    /// See [`AppendError`]. Inside a transaction nothing is ever ambiguous before [`Lane::commit`].
    pub async fn append(
        &mut self,
        rows: &[Row],
        fences: &[Fence],
        all_or_nothing: bool,
    ) -> Result<Appended, AppendError> {
        let batch = Batch::new(rows, fences, self.info.partitions)?;
        let before = self.enter()?;
        let query = batch.query(all_or_nothing);
        // fetch_all and fetch_one read on until the server is ready again, which is after the commit: an acknowledgement
        // that came with the row would come too early.
        let outcome = within(ANSWER_TIMEOUT, query.fetch_one(&mut self.connection)).await;
        let outcome = outcome.and_then(|line| {
            let line = Line(&line);
            Ok((line.get::<Vec<i32>>(0)?, line.time(1)?))
        });
        self.leave(before, &outcome);
        match outcome {
            Ok((partitions, clock)) => {
                let mut partitions: Vec<u32> = partitions
                    .into_iter()
                    .filter_map(|p| u32::try_from(p).ok())
                    .collect();
                partitions.sort_unstable();
                Ok(Appended { partitions, clock })
            }
            Err(error) if before == State::Open => Err(AppendError::undone(error)),
            Err(error) => Err(AppendError::durable(error)),
        }
    }

    /// Begins a transaction and takes the append locks of these partitions: nobody else appends to them until its end,
    /// and a backend that was still committing has finished. One round trip.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a lock could not be had within 2 s, or the connection is lost; nothing is held then.
    pub async fn lock(&mut self, numbers: &[u32]) -> Result<(), Error> {
        let list = partitions(numbers.iter().copied())?;
        if self.state != State::Ready {
            return Err(Error::Unavailable(
                "the lane is in a transaction or closed".into(),
            ));
        }
        self.enter()?;
        let list: Vec<String> = list.iter().map(i32::to_string).collect();
        // Numbers only, so nothing here can be quoted wrongly; the simple protocol takes both statements at once.
        let statement = format!("BEGIN; SELECT ledger_lock('{{{}}}')", list.join(","));
        let outcome = within(
            ANSWER_TIMEOUT,
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.connection),
        )
        .await;
        self.leave(State::Open, &outcome);
        if self.state == State::Undone {
            self.rollback().await?;
        }
        outcome.map(drop).map_err(Error::read)
    }

    /// Makes the transaction's appends durable and frees the locks.
    ///
    /// # Errors
    /// [`AppendError::Ambiguous`] when the connection was lost on the way; [`AppendError::Unavailable`] when the server
    /// had cut the transaction before, or an error in it has undone it: surely nothing was recorded.
    pub async fn commit(&mut self) -> Result<(), AppendError> {
        match self.state {
            State::Open => {}
            State::Undone => {
                self.rollback().await?;
                return Err(AppendError::Unavailable(
                    "an earlier error has undone this transaction".into(),
                ));
            }
            State::Ready | State::Closed => {
                return Err(AppendError::Unavailable(
                    "there is no transaction to commit".into(),
                ));
            }
        }
        self.enter()?;
        let outcome = within(
            ANSWER_TIMEOUT,
            sqlx::raw_sql("COMMIT").execute(&mut self.connection),
        )
        .await;
        self.leave(State::Ready, &outcome);
        outcome.map(drop).map_err(AppendError::durable)
    }

    /// Undoes the transaction and frees the locks. Harmless where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection is lost; the server then does it by itself.
    pub async fn rollback(&mut self) -> Result<(), Error> {
        if self.state == State::Ready {
            return Ok(());
        }
        self.enter()?;
        let outcome = within(
            ANSWER_TIMEOUT,
            sqlx::raw_sql("ROLLBACK").execute(&mut self.connection),
        )
        .await;
        self.leave(State::Ready, &outcome);
        outcome.map(drop).map_err(Error::read)
    }

    /// Everything that decisions on these subjects are built on, in one snapshot and one round trip.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn load(&mut self, request: &LoadRequest) -> Result<Loaded, Error> {
        let arguments = load::Arguments::new(request)?;
        let before = self.enter()?;
        let query = arguments.query(self.load.clone());
        let outcome = within(ANSWER_TIMEOUT, query.fetch_all(&mut self.connection)).await;
        self.leave(before, &outcome);
        load::read(&outcome.map_err(Error::read)?, request, &self.info)
    }

    /// The heads of these partitions, ascending.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn heads_of(&mut self, numbers: &[u32]) -> Result<Vec<(u32, Head)>, Error> {
        let list = partitions(numbers.iter().copied())?;
        let query = sqlx::query(include_str!("../queries/heads.sql")).bind(list);
        let lines = self.read(query).await?;
        rows::heads(&lines, &self.info.id).map_err(Error::read)
    }

    /// The rows at these places, where there are any.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rows_at(&mut self, places: &[(u32, i64)]) -> Result<Vec<Row>, Error> {
        let lines = self.read(rows::at(places.iter().copied())?).await?;
        rows::rows(&lines).map_err(Error::read)
    }

    /// Up to `most` rows of a partition from an offset on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn range(&mut self, number: u32, from: i64, most: usize) -> Result<Vec<Row>, Error> {
        let query = sqlx::query(include_str!("../queries/ranges.sql"))
            .bind(vec![partition(number)?])
            .bind(vec![from])
            .bind(vec![rows::limit(most)]);
        let lines = self.read(query).await?;
        rows::rows(&lines).map_err(Error::read)
    }

    /// The newest row of this subject in every partition that has one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn newest_of(&mut self, subject_key: &SubjectKey) -> Result<Vec<Row>, Error> {
        let all = partitions(0..self.info.partitions)?;
        let query = sqlx::query(include_str!("../queries/newest_of.sql"))
            .bind(all)
            .bind(&subject_key[..]);
        let lines = self.read(query).await?;
        rows::rows(&lines).map_err(Error::read)
    }

    /// Raises the ledger's epoch, as part of this transaction.
    pub(crate) async fn raise_epoch(&mut self, to: u32) -> Result<(), AppendError> {
        let to = i32::try_from(to);
        let to = to.map_err(|_| AppendError::Invalid("no epoch is left".into()))?;
        let text = "UPDATE ledger_meta SET epoch = $1 WHERE epoch < $1 RETURNING epoch";
        let lines = self.read(sqlx::query(text).bind(to)).await?;
        match lines.first() {
            Some(_) => Ok(()),
            None => Err(AppendError::Invalid(format!(
                "the ledger is in epoch {to} already, or in a later one"
            ))),
        }
    }

    /// The database's clock.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn clock(&mut self) -> Result<Timestamp, Error> {
        let lines = self.read(sqlx::query(crate::ledger::CLOCK)).await?;
        let line = lines
            .first()
            .ok_or_else(|| Error::Corrupt("the clock did not answer".into()))?;
        Line(line).time(0).map_err(Error::read)
    }

    /// Says goodbye to the server. Dropping the lane does as well, less politely.
    pub async fn close(self) {
        within(ANSWER_TIMEOUT, self.connection.close()).await.ok();
    }

    async fn read(
        &mut self,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Vec<sqlx::postgres::PgRow>, Error> {
        let before = self.enter()?;
        let outcome = within(ANSWER_TIMEOUT, query.fetch_all(&mut self.connection)).await;
        self.leave(before, &outcome);
        outcome.map_err(Error::read)
    }

    /// The state until now. Until [`Lane::leave`] the lane counts as closed, so that a call which is cancelled midway
    /// leaves it so: nobody knows then what the server still does.
    fn enter(&mut self) -> Result<State, Error> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed => Err(Error::Unavailable("the lane is closed".into())),
            state => Ok(state),
        }
    }

    fn leave<T>(&mut self, to: State, outcome: &Result<T, sqlx::Error>) {
        self.state = match (outcome, to) {
            (Ok(_), to) => to,
            (Err(error), _) if lost(error) => State::Closed,
            (Err(_), State::Ready) => State::Ready,
            (Err(_), _) => State::Undone,
        };
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("info", &self.info)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Options of a lane's connection.
pub(crate) fn options(database_url: &str) -> Result<PgConnectOptions, Error> {
    connect::options(database_url, "quota-ledger lane", STATEMENT_TIMEOUT)
}
