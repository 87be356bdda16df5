//! Keys of services: by digest, never the key itself.

use crate::error::Error;
use crate::ledger::Ledger;
use crate::rows::Line;
use quota_core::time::Timestamp;
use sqlx::postgres::PgRow;

/// A key of a service, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Its public name.
    pub id: String,
    /// The product it is for; `*` for every product.
    pub product: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl Ledger {
    /// Keeps a new key, made now.
    ///
    /// # Errors
    /// [`Error::Invalid`] when its id or digest is taken, or it has no scope.
    pub async fn create_key(
        &self,
        id: &str,
        product: &str,
        scopes: &[String],
        hash: &[u8; 32],
    ) -> Result<(), Error> {
        let query =
            sqlx::query("INSERT INTO api_keys (id, product, scopes, hash) VALUES ($1, $2, $3, $4)")
                .bind(id)
                .bind(product)
                .bind(scopes)
                .bind(&hash[..]);
        self.run(query.execute(&self.pool)).await.map(drop)
    }

    /// Every key, revoked ones too, oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_keys(&self) -> Result<Vec<StoredKey>, Error> {
        self.keys(false).await
    }

    /// Every key that works.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn all_active_keys(&self) -> Result<Vec<StoredKey>, Error> {
        self.keys(true).await
    }

    /// Revokes a key now. Says whether there was one by that id; revoking again changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn revoke_key(&self, id: &str) -> Result<bool, Error> {
        let query = sqlx::query(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1",
        );
        let done = self.run(query.bind(id).execute(&self.pool)).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn keys(&self, active: bool) -> Result<Vec<StoredKey>, Error> {
        let lines = self
            .read(sqlx::query(include_str!("../queries/keys.sql")).bind(active))
            .await?;
        lines
            .iter()
            .map(stored)
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }
}

fn stored(line: &PgRow) -> Result<StoredKey, sqlx::Error> {
    let line = Line(line);
    Ok(StoredKey {
        id: line.get(0)?,
        product: line.get(1)?,
        scopes: line.get(2)?,
        hash: line.get(3)?,
        created_at: line.time(4)?,
        revoked_at: line.get::<Option<i64>>(5)?.map(Timestamp::from_micros),
    })
}
