//! Claims on partitions: so that two relays do not send the same rows. They save work and promise nothing: a claim is gone
//! with its connection, and its holder may notice late.

use crate::connect::{self, connect_as_service, within};
use crate::error::{Error, lost};
use crate::ledger::Ledger;
use crate::rows::{Line, partitions};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use std::collections::BTreeSet;
use std::time::Duration;

/// "rela" in ASCII: the class of these locks, another than that of appends.
const CLASS: i32 = 1_919_249_505;

/// How long claims outlive the last [`Claims::take`]: a holder that stands still gives way.
const IDLE: Duration = Duration::from_secs(5);

/// A connection that holds claims for as long as it lives.
#[derive(Debug)]
pub struct Claims {
    connection: Option<PgConnection>,
    held: BTreeSet<u32>,
}

impl Claims {
    /// Opens the connection, without any claim.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the database cannot be reached.
    pub async fn open(ledger: &Ledger) -> Result<Self, Error> {
        let mut connection = connect_as_service(ledger.options()).await?;
        let idle = format!("SET idle_session_timeout = '{}s'", IDLE.as_secs());
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(idle)).execute(&mut connection);
        within(connect::CONNECT_TIMEOUT, statement)
            .await
            .map_err(Error::read)?;
        Ok(Self {
            connection: Some(connection),
            held: BTreeSet::new(),
        })
    }

    /// Takes what is free of these partitions, and names all that are held then. One round trip, which also proves that
    /// the connection still stands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection is lost: all claims are gone, open anew.
    pub async fn take(&mut self, numbers: &[u32]) -> Result<&BTreeSet<u32>, Error> {
        let wanted = partitions(
            numbers
                .iter()
                .copied()
                .filter(|number| !self.held.contains(number)),
        )?;
        // Taken out meanwhile: a call that is cancelled drops the connection, and with it claims that nobody counted.
        let Some(mut connection) = self.connection.take() else {
            return Err(Error::Unavailable(
                "the connection that held the claims is lost".into(),
            ));
        };
        let query = sqlx::query(
            "SELECT p FROM unnest($2::integer[]) AS p WHERE pg_try_advisory_lock($1, p)",
        );
        let query = query.bind(CLASS).bind(wanted);
        match within(connect::CONNECT_TIMEOUT, query.fetch_all(&mut connection)).await {
            Ok(lines) => {
                self.connection = Some(connection);
                for line in &lines {
                    self.held
                        .insert(Line(line).unsigned(0).map_err(Error::read)?);
                }
                Ok(&self.held)
            }
            Err(error) => {
                if lost(&error) {
                    self.held.clear();
                } else {
                    self.connection = Some(connection);
                }
                Err(Error::read(error))
            }
        }
    }

    /// Gives all claims up.
    pub async fn release(self) {
        if let Some(connection) = self.connection {
            within(connect::CONNECT_TIMEOUT, connection.close())
                .await
                .ok();
        }
    }
}
