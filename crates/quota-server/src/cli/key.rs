//! `quota-ledger key`: the keys of services.

use super::{Verdict, print, say};
use crate::auth::{ANY_PRODUCT, Scope, Scopes, digest, fresh_key, fresh_key_id};
use crate::config::Database;
use anyhow::bail;
use clap::{Args, Subcommand};
use quota_core::door::{MAX_NAME, is_visible};
use quota_core::state::FOLD_VERSION;
use quota_core::time::Timestamp;
use quota_postgres::Ledger;
use serde_json::json;

/// Make, list and revoke the keys of services.
#[derive(Subcommand)]
pub enum Key {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a key and print it, once, alone on stdout.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    database: Database,
    /// The product that it is for, or '*' for all
    #[arg(long)]
    product: String,
    /// What it may do, separated by commas: publish, consume, check, read, admin, gateway
    #[arg(long, required = true, value_delimiter = ',', value_parser = scope, value_name = "SCOPES")]
    scope: Vec<String>,
}

/// List all keys as NDJSON; never the keys themselves.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    database: Database,
}

/// Revoke a key: it dies within 5 seconds.
#[derive(Args)]
pub struct Revoke {
    #[command(flatten)]
    database: Database,
    /// Its id, as `key list` shows it
    id: String,
}

impl Key {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        match self {
            Self::Create(create) => create.run().await,
            Self::List(list) => list.run().await,
            Self::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> anyhow::Result<Verdict> {
        let product = self.product.as_str();
        if !is_visible(product, MAX_NAME) {
            bail!("{product:?} cannot be a product: it must be 1 to {MAX_NAME} visible characters");
        }
        let ledger = open(&self.database).await?;
        if product != ANY_PRODUCT && ledger.catalog_rows(Some(product)).await?.is_empty() {
            say(&format!(
                "note: there is no product {product} yet; the key is good once its catalog is published"
            ));
        }
        let key = fresh_key();
        let scopes =
            Scopes::of_words(self.scope.iter().map(String::as_str)).map_err(anyhow::Error::msg)?;
        let words: Vec<String> = scopes.words().into_iter().map(str::to_owned).collect();
        ledger
            .create_key(&fresh_key_id(), product, &words, &digest(&key))
            .await?;
        print(&key)?;
        Ok(Verdict::Yes)
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Verdict> {
        for key in open(&self.database).await?.list_keys().await? {
            let line = json!({
                "id": key.id,
                "product": key.product,
                "scopes": key.scopes,
                "created_at": key.created_at.to_millis_text(),
                "revoked_at": key.revoked_at.map(Timestamp::to_millis_text),
            });
            print(&line.to_string())?;
        }
        Ok(Verdict::Yes)
    }
}

impl Revoke {
    async fn run(self) -> anyhow::Result<Verdict> {
        if open(&self.database).await?.revoke_key(&self.id).await? {
            say(&format!("{} is revoked", self.id));
            return Ok(Verdict::Yes);
        }
        say(&format!(
            "no key has the id {}; `quota-ledger key list` shows them",
            self.id
        ));
        Ok(Verdict::No)
    }
}

/// The ledger, for one command.
pub async fn open(database: &Database) -> anyhow::Result<Ledger> {
    Ok(Ledger::connect(&database.database_url, FOLD_VERSION, 1).await?)
}

fn scope(word: &str) -> Result<String, String> {
    let words: Vec<&str> = Scope::ALL.into_iter().map(Scope::word).collect();
    if words.contains(&word) {
        Ok(word.to_owned())
    } else {
        Err(format!("it is one of {}", words.join(", ")))
    }
}
