//! What can go wrong, by what the caller can do about it. Told apart by SQLSTATE and constraint, never by message text.

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

/// A read, a view write or a start-up check failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The database cannot be reached or has no time for us: nothing happened, try again later.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The database is not what this binary needs; the text says what to do.
    #[error("{0}")]
    NotReady(String),
    /// What was asked for cannot be asked for.
    #[error("invalid: {0}")]
    Invalid(String),
    /// What the database holds cannot be what was put there.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

/// An append or a commit failed.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Surely nothing was recorded: try again later, on a new lane if this one says that it is closed.
    #[error("database unavailable, nothing recorded: {0}")]
    Unavailable(String),
    /// The connection was lost when the append or the commit was on its way: it may still be recorded. Open a new lane,
    /// take the same locks (that waits the old backend out) and look.
    #[error("outcome unknown: {0}")]
    Ambiguous(String),
    /// One of the events is recorded already: nothing of this batch was. Look the keys up again.
    #[error("an event of this batch is recorded already")]
    DuplicateEvent,
    /// A writer without locks took one of the offsets: nothing of this batch was recorded. Read the heads again.
    #[error("an offset of this batch is taken already")]
    DuplicateOffset,
    /// The batch is wrong in itself; nothing was recorded and never would be.
    #[error("invalid append: {0}")]
    Invalid(String),
}

/// The unique index that makes an event one event.
const EVENT_KEY: &str = "ledger_event_key";
/// The primary key of the ledger.
const OFFSET: &str = "ledger_pkey";

const UNIQUE_VIOLATION: &str = "23505";
const IDLE_IN_TRANSACTION: &str = "25P03";
const UNDEFINED_TABLE: &str = "42P01";
const UNDEFINED_FUNCTION: &str = "42883";
const UNDEFINED_COLUMN: &str = "42703";

impl Error {
    /// What a failed read means.
    pub(crate) fn read(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(_) => {
                let code = sqlstate(&error).unwrap_or_default();
                match (code, code.get(..2)) {
                    (UNDEFINED_TABLE | UNDEFINED_FUNCTION | UNDEFINED_COLUMN, _) => {
                        Self::not_migrated(&said(&error))
                    }
                    // The class of data that does not fit, and of violated constraints.
                    (_, Some("22" | "23")) => Self::Invalid(error.to_string()),
                    _ => Self::Unavailable(said(&error)),
                }
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_) => Self::Corrupt(error.to_string()),
            sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => {
                Self::Invalid(error.to_string())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }

    pub(crate) fn not_migrated(reason: &dyn std::fmt::Display) -> Self {
        Self::NotReady(format!(
            "the database is not migrated to this version; run `quota-ledger migrate` ({reason})"
        ))
    }
}

/// What the server said, without the line of its own source that the error adds.
pub(crate) fn said(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

impl AppendError {
    /// What a failed append or commit means, where its success would have been durable at once.
    pub(crate) fn durable(error: sqlx::Error) -> Self {
        if refused(&error) {
            Self::refusal(error)
        } else {
            Self::Ambiguous(error.to_string())
        }
    }

    /// What a failed statement means inside a transaction that has not been told to commit: nothing was recorded.
    pub(crate) fn undone(error: sqlx::Error) -> Self {
        if refused(&error) {
            Self::refusal(error)
        } else {
            Self::Unavailable(error.to_string())
        }
    }

    fn refusal(error: sqlx::Error) -> Self {
        let Some(code) = sqlstate(&error) else {
            return Self::Invalid(error.to_string());
        };
        let constraint = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::constraint);
        match (code, constraint, code.get(..2)) {
            (UNIQUE_VIOLATION, Some(EVENT_KEY), _) => Self::DuplicateEvent,
            (UNIQUE_VIOLATION, Some(OFFSET), _) => Self::DuplicateOffset,
            (_, _, Some("22" | "23")) => Self::Invalid(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(reason) => Self::Invalid(reason),
            Error::Unavailable(reason) | Error::NotReady(reason) | Error::Corrupt(reason) => {
                Self::Unavailable(reason)
            }
        }
    }
}

/// Whether the server surely rolled back what was sent, or never got it.
///
/// An ERROR rolls back. A FATAL only cuts the connection and may come after the commit (a backend that is terminated
/// between commit and answer), but for the idle timeout, which fires only before a commit is read.
fn refused(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|e| e.severity() == PgSeverity::Error || e.code() == IDLE_IN_TRANSACTION),
        sqlx::Error::Encode(_) => true,
        _ => false,
    }
}

/// Whether the connection is of no more use after this error.
pub(crate) fn lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => database
            .try_downcast_ref::<PgDatabaseError>()
            .is_none_or(|e| e.severity() != PgSeverity::Error),
        sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::RowNotFound => false,
        _ => true,
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::code)
}
