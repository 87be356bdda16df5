//! `quota-ledger webhook`: webhooks that are held until somebody deals with them.

use super::{Verdict, print, say};
use crate::alone::Alone;
use crate::config::Database;
use crate::webhooks::{counted, settle};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quota_core::command::{Address, Answer, Command, Wish};
use quota_core::door::{MAX_NAME, is_visible};
use quota_core::razorpay::Notice;
use quota_core::state::FOLD_VERSION;
use quota_postgres::{HeldWebhook, Ledger};
use serde_json::json;
use uuid::Uuid;

/// List held webhooks, and deal with them.
#[derive(Subcommand)]
pub enum Webhook {
    List(List),
    Resolve(Resolve),
    Dismiss(Dismiss),
}

/// List what is held, oldest first, as NDJSON.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    database: Database,
    /// One product
    #[arg(long)]
    product: Option<String>,
}

/// Count a held payment for a subject and a plan, at whatever amount was paid.
#[derive(Args)]
pub struct Resolve {
    #[command(flatten)]
    database: Database,
    /// Its id, as `webhook list` shows it
    id: String,
    /// Whose it is
    #[arg(long)]
    subject: String,
    /// The plan that it pays for
    #[arg(long)]
    plan: String,
}

/// Let go of a held webhook; nothing is recorded.
#[derive(Args)]
pub struct Dismiss {
    #[command(flatten)]
    database: Database,
    /// Its id, as `webhook list` shows it
    id: String,
}

impl Webhook {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        match self {
            Self::List(list) => list.run().await,
            Self::Resolve(resolve) => resolve.run().await,
            Self::Dismiss(dismiss) => dismiss.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Verdict> {
        let ledger = super::key::open(&self.database).await?;
        super::known(&ledger, self.product.as_deref()).await?;
        for held in ledger.held_webhooks(self.product.as_deref()).await? {
            let line = json!({
                "id": held.id,
                "product": held.product,
                "received_at": held.received_at.to_millis_text(),
                "event": Some(held.event).filter(|event| !event.is_empty()),
                "payment_id": held.payment_id,
                "subject": held.subject,
                "reason": held.reason,
            });
            print(&line.to_string())?;
        }
        Ok(Verdict::Yes)
    }
}

impl Dismiss {
    async fn run(self) -> anyhow::Result<Verdict> {
        let ledger = Ledger::connect(&self.database.database_url, FOLD_VERSION, 1).await?;
        let Some(held) = open(&ledger, &self.id).await? else {
            return Ok(Verdict::No);
        };
        ledger.resolve_webhook(held.id, "dismissed").await?;
        say(&format!("{} is dismissed", held.id));
        Ok(Verdict::Yes)
    }
}

impl Resolve {
    async fn run(self) -> anyhow::Result<Verdict> {
        if !is_visible(&self.subject, MAX_NAME) {
            bail!(
                "{:?} cannot be a subject: it must be 1 to {MAX_NAME} visible characters",
                self.subject
            );
        }
        let alone = Alone::open(&self.database.database_url).await?;
        let outcome = self.resolve(&alone).await;
        alone.close().await;
        outcome
    }

    async fn resolve(&self, alone: &Alone) -> anyhow::Result<Verdict> {
        let (node, ledger) = (&alone.node, &alone.node.ledger);
        let Some(held) = open(ledger, &self.id).await? else {
            return Ok(Verdict::No);
        };
        let no = |why: &str| {
            say(&format!("{}: {why}", held.id));
            Ok(Verdict::No)
        };
        let Some(notice) = Notice::read(held.body.as_deref().unwrap_or_default()) else {
            return no("its body is no JSON object: there is nothing to count; dismiss it");
        };
        if notice.ends() {
            return no(
                "it ends something, and is carried out by itself once what it ends is counted; or dismiss it",
            );
        }
        let (_, catalog) = node
            .shelf
            .newest(&held.product)
            .with_context(|| format!("there is no product {:?} any more", held.product))?;
        if let Some(payment) = &notice.payment_id
            && !ledger
                .claim_payment(&held.product, payment, &self.subject)
                .await?
        {
            return no(
                "another webhook is counting its payment for somebody else just now; look again in a minute",
            );
        }
        let known = counted(node, &held.product, &notice).await?;
        if let Some(whose) = &known.payment {
            ledger.resolve_webhook(held.id, "counted").await?;
            say(&format!(
                "{}: its payment is counted already, for {} and the plan {}",
                held.id, whose.subject, whose.plan
            ));
            return Ok(Verdict::Yes);
        }
        let fact = match notice.resolved(&catalog, &known, &self.plan, node.clock.now()) {
            Ok(fact) => fact,
            Err(rejection) => return no(&rejection.message),
        };
        let address = Address::new(&held.product, &self.subject, node.partitions());
        let wish = Wish::Record(fact);
        let position = match node.writer.submit(Command { address, wish }).await {
            Answer::Recorded { position, .. } => position,
            Answer::Refused(refusal) if refusal.status < 500 => return no(&refusal.message),
            Answer::Refused(refusal) => bail!("{}", refusal.message),
            other => bail!("a fact was answered with {other:?}"),
        };
        let resolution = format!("recorded at {position}");
        ledger.resolve_webhook(held.id, &resolution).await?;
        let about = (notice.payment_id.as_deref(), notice.subscription.as_deref());
        settle(node, Some(&held.product), about).await?;
        say(&format!("{} is {resolution}", held.id));
        Ok(Verdict::Yes)
    }
}

/// The webhook of an id, if it is open still; what is the matter otherwise is said.
async fn open(ledger: &Ledger, id: &str) -> anyhow::Result<Option<HeldWebhook>> {
    let found = match id.parse::<Uuid>() {
        Ok(id) => ledger.held_webhook(id).await?,
        Err(_) => None,
    };
    match found {
        None => say(&format!(
            "no webhook has the id {id}; `quota-ledger webhook list` shows them"
        )),
        Some(HeldWebhook {
            resolution: Some(resolution),
            ..
        }) => say(&format!("{id} is not held any more: {resolution}")),
        open => return Ok(open),
    }
    Ok(None)
}
