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
    pub payment_id: Option<&'a str>,
    /// The provider's subscription that it is about.
    pub subscription: Option<&'a str>,
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
    pub payment_id: Option<String>,
    /// The provider's subscription that it is about.
    pub subscription: Option<String>,
    /// Whose it is, where it says so.
    pub subject: Option<String>,
    /// Why it is held.
    pub reason: String,
    /// The body as received; none once it is resolved, and none in a list.
    pub body: Option<Vec<u8>>,
    /// What became of it, once it is resolved.
    pub resolution: Option<String>,
}

/// What a product has counted of what a webhook names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// For whom the payment was counted, and for which plan.
    pub payment: Option<(String, String)>,
    /// For whom the subscription was counted first, and for which plan.
    pub subscription: Option<(String, String)>,
}

/// The most webhooks of one page: with bodies of 1 MiB each, what a node can hold.
pub const RIPE_PAGE: i64 = 16;
/// What resolves a webhook that nobody has resolved in time; told again, it is held anew.
pub const EXPIRED: &str = "expired";

impl Ledger {
    /// For whom a product has counted a payment and a subscription: true as of every append that was acknowledged before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn counted(
        &self,
        product: &str,
        payment: Option<&str>,
        subscription: Option<&str>,
    ) -> Result<Counted, Error> {
        let query = sqlx::query(include_str!("../queries/counted.sql"))
            .bind(product)
            .bind(payment)
            .bind(subscription);
        let mut counted = Counted::default();
        for line in &self.read(query).await? {
            let line = Line(line);
            let kind: &str = line.get(0).map_err(Error::read)?;
            let whose = (
                line.get(1).map_err(Error::read)?,
                line.get(2).map_err(Error::read)?,
            );
            if kind == "payment" {
                counted.payment = Some(whose);
            } else {
                counted.subscription = Some(whose);
            }
        }
        Ok(counted)
    }

    /// Claims a payment for a subject, before it is counted for it: false where somebody claimed it for another within the last
    /// minute. Whoever claims must look once more at what is [counted](Self::counted).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn claim_payment(
        &self,
        product: &str,
        payment: &str,
        subject: &str,
    ) -> Result<bool, Error> {
        let query = sqlx::query(include_str!("../queries/claim_payment.sql"))
            .bind(product)
            .bind(payment)
            .bind(subject);
        Ok(!self.read(query).await?.is_empty())
    }

    /// Forgets claims that are long over.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn forget_claims(&self) -> Result<(), Error> {
        let query = sqlx::query(
            "DELETE FROM payment_claims WHERE claimed_at < clock_timestamp() - interval '1 hour'",
        );
        self.run(query.execute(&self.pool)).await.map(drop)
    }

    /// Holds a webhook, and says under which id, and what became of it where it was held before and is resolved.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hold_webhook(
        &self,
        webhook: &NewWebhook<'_>,
    ) -> Result<(Uuid, Option<String>), Error> {
        let query = sqlx::query(include_str!("../queries/hold_webhook.sql"))
            .bind(webhook.product)
            .bind(webhook.event)
            .bind(webhook.payment_id)
            .bind(webhook.subscription)
            .bind(webhook.subject)
            .bind(webhook.reason)
            .bind(webhook.body);
        let lines = self.read(query).await?;
        let line = lines
            .first()
            .ok_or_else(|| Error::Corrupt("a held webhook has no id".into()))?;
        let read = |line| Ok((Line(line).get(0)?, Line(line).get(1)?));
        read(line).map_err(Error::read)
    }

    /// A page of the webhooks that can be settled without anybody, oldest first, each with whether its payment is counted:
    /// of one product or of all; where a payment or subscription is named, those about it alone. It begins `after` one,
    /// and has at most [`RIPE_PAGE`]: bodies are large.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ripe_webhooks(
        &self,
        product: Option<&str>,
        payment: Option<&str>,
        subscription: Option<&str>,
        after: Option<&HeldWebhook>,
    ) -> Result<Vec<(HeldWebhook, bool)>, Error> {
        let query = sqlx::query(include_str!("../queries/ripe_webhooks.sql"))
            .bind(product)
            .bind(payment)
            .bind(subscription)
            .bind(after.map(|after| after.received_at.micros()))
            .bind(after.map(|after| after.id))
            .bind(RIPE_PAGE);
        let lines = self.read(query).await?;
        let ripe = |line| Ok((held(line)?, Line(line).get(10)?));
        lines
            .iter()
            .map(ripe)
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }

    /// Says anew why an open webhook is held.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn explain_webhook(&self, id: Uuid, reason: &str) -> Result<(), Error> {
        let query = sqlx::query(
            "UPDATE held_webhooks SET reason = $2 WHERE id = $1 AND resolved_at IS NULL",
        );
        self.run(query.bind(id).bind(reason).execute(&self.pool))
            .await
            .map(drop)
    }

    /// Resolves what has waited for more than so many days, and empties its bodies. How many there were.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn expire_webhooks(&self, days: i32) -> Result<u64, Error> {
        let query = sqlx::query(
            "UPDATE held_webhooks SET resolved_at = clock_timestamp(), resolution = $2, body = NULL
             WHERE resolved_at IS NULL AND received_at < clock_timestamp() - make_interval(days => $1)",
        );
        let done = self
            .run(query.bind(days).bind(EXPIRED).execute(&self.pool))
            .await?;
        Ok(done.rows_affected())
    }

    /// How many webhooks nobody has resolved yet, by product.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count_held_webhooks(&self) -> Result<Vec<(String, i64)>, Error> {
        let query = sqlx::query(
            "SELECT w.product, count(*) FROM held_webhooks w WHERE w.resolved_at IS NULL GROUP BY 1",
        );
        let lines = self.read(query).await?;
        let count = |line| Ok((Line(line).get(0)?, Line(line).get(1)?));
        lines
            .iter()
            .map(count)
            .collect::<Result<_, _>>()
            .map_err(Error::read)
    }

    /// The webhooks that nobody has resolved yet, oldest first and without their bodies; of one product or of all.
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
        subscription: line.get(5)?,
        subject: line.get(6)?,
        reason: line.get(7)?,
        body: line.get(8)?,
        resolution: line.get(9)?,
    })
}
