//! Webhooks that were genuine and could not be understood, kept until somebody resolves them.

use crate::error::Error;
use crate::ledger::Ledger;
use crate::rows::Line;
use quota_core::time::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// A webhook to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhook<'a> {
    /// The product.
    pub product: &'a str,
    /// The provider's name of the event.
    pub event: &'a str,
    /// The payment that it is about.
    pub payment_id: &'a str,
    /// Whose it is, where it says so.
    pub subject: Option<&'a str>,
    /// Why it is held: a stable code.
    pub reason: &'a str,
    /// The body as received.
    pub body: &'a [u8],
}

/// A held webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldWebhook {
    /// Its name here.
    pub id: Uuid,
    /// The product.
    pub product: String,
    /// When it came.
    pub received_at: Timestamp,
    /// The provider's name of the event.
    pub event: String,
    /// The payment that it is about.
    pub payment_id: String,
    /// Whose it is, where it says so.
    pub subject: Option<String>,
    /// Why it is held.
    pub reason: String,
    /// The body as received; none once it is resolved.
    pub body: Option<Vec<u8>>,
    /// What became of it, once it is resolved.
    pub resolution: Option<String>,
}

impl Ledger {
    /// Holds a webhook, and says under which id. The same body again is the same webhook, also once it is resolved.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hold_webhook(&self, webhook: &NewWebhook<'_>) -> Result<Uuid, Error> {
        let query = sqlx::query(include_str!("../queries/hold_webhook.sql"))
            .bind(webhook.product)
            .bind(webhook.event)
            .bind(webhook.payment_id)
            .bind(webhook.subject)
            .bind(webhook.reason)
            .bind(webhook.body);
        let lines = self.read(query).await?;
        let line = lines
            .first()
            .ok_or_else(|| Error::Corrupt("a held webhook has no id".into()))?;
        Line(line).get(0).map_err(Error::read)
    }

    /// The webhooks that nobody has resolved yet, oldest first; of one product or of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn held_webhooks(&self, product: Option<&str>) -> Result<Vec<HeldWebhook>, Error> {
        self.webhooks(None, product).await
    }

    /// One webhook, resolved or not.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn held_webhook(&self, id: Uuid) -> Result<Option<HeldWebhook>, Error> {
        Ok(self.webhooks(Some(id), None).await?.pop())
    }

    /// Marks a webhook as resolved and empties its body. Says whether it was still open.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resolve_webhook(&self, id: Uuid, resolution: &str) -> Result<bool, Error> {
        let query = sqlx::query(
            "UPDATE held_webhooks SET resolved_at = clock_timestamp(), resolution = $2, body = NULL
             WHERE id = $1 AND resolved_at IS NULL",
        );
        let done = self
            .run(query.bind(id).bind(resolution).execute(&self.pool))
            .await?;
        Ok(done.rows_affected() > 0)
    }

    async fn webhooks(
        &self,
        id: Option<Uuid>,
        product: Option<&str>,
    ) -> Result<Vec<HeldWebhook>, Error> {
        let query = sqlx::query(include_str!("../queries/held_webhooks.sql"))
            .bind(id)
            .bind(product);
        let lines = self.read(query).await?;
        lines
            .iter()
            .map(held)
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }
}

fn held(line: &PgRow) -> Result<HeldWebhook, sqlx::Error> {
    let line = Line(line);
    Ok(HeldWebhook {
        id: line.get(0)?,
        product: line.get(1)?,
        received_at: line.time(2)?,
        event: line.get(3)?,
        payment_id: line.get(4)?,
        subject: line.get(5)?,
        reason: line.get(6)?,
        body: line.get(7)?,
        resolution: line.get(8)?,
    })
}
