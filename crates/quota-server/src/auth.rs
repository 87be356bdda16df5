//! Who calls, and what they may do: keys of services, and tokens of users, who act for themselves alone.

mod jwks;
mod signatures;
mod tokens;

pub use tokens::{BadToken, Tokens, is_token};

use quota_postgres::Ledger;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// What a key for every product has as its product.
pub const ANY_PRODUCT: &str = "*";
/// The time between two readings of the keys.
const RELOAD: Duration = Duration::from_secs(2);

/// What a key may be used for. `admin` implies none of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Tell facts.
    Publish,
    /// Use, hold, confirm and release.
    Consume,
    /// Ask.
    Check,
    /// Read the ledger and the catalog.
    Read,
    /// Publish catalogs, grant adjustments.
    Admin,
    /// Name the user on forward-auth.
    Gateway,
}

impl Scope {
    /// Every scope, in the order that they are listed in.
    pub const ALL: [Self; 6] = [
        Self::Publish,
        Self::Consume,
        Self::Check,
        Self::Read,
        Self::Admin,
        Self::Gateway,
    ];

    /// The word on the command line and in the database.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Check => "check",
            Self::Read => "read",
            Self::Admin => "admin",
            Self::Gateway => "gateway",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// The scopes of these words.
    ///
    /// # Errors
    /// The first word that is no scope.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut scopes = Self::default();
        for word in words {
            let scope = Scope::ALL.into_iter().find(|scope| scope.word() == word);
            scopes.0 |= scope.ok_or_else(|| word.to_owned())?.bit();
        }
        Ok(scopes)
    }

    /// Whether a scope is among them.
    #[must_use]
    pub const fn holds(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Their words.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        Scope::ALL
            .into_iter()
            .filter(|scope| self.holds(*scope))
            .map(Scope::word)
            .collect()
    }
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key's id.
    pub id: String,
    /// The product; none for all of them.
    pub product: Option<String>,
    /// What for.
    pub scopes: Scopes,
}

impl Grant {
    /// Whether it is good for a product at all.
    #[must_use]
    pub fn opens(&self, product: &str) -> bool {
        self.product.as_deref().is_none_or(|own| own == product)
    }
}

/// A key that nobody has had before.
#[must_use]
pub fn fresh_key() -> String {
    format!("ql_{}", hex::encode(rand::random::<[u8; 24]>()))
}

/// The public name of a new key.
#[must_use]
pub fn fresh_key_id() -> String {
    format!("key_{}", hex::encode(rand::random::<[u8; 6]>()))
}

/// The digest that a key is stored and found by.
#[must_use]
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The keys in force, read anew every few seconds.
///
/// A key is looked up by its digest, so neither the look-up's time nor a dump of this map tells a key.
#[derive(Debug, Default)]
pub struct Keys(RwLock<HashMap<[u8; 32], Arc<Grant>>>);

impl Keys {
    /// Puts the keys of the ledger in force, and no other.
    ///
    /// # Errors
    /// The ledger cannot be read; the keys stay as they are.
    pub async fn load(&self, ledger: &Ledger) -> Result<(), quota_postgres::Error> {
        let stored = ledger.all_active_keys().await?;
        let keys = stored.into_iter().filter_map(|key| {
            let scopes = Scopes::of_words(key.scopes.iter().map(String::as_str));
            let scopes = scopes.inspect_err(|word| {
                tracing::warn!(key = key.id, word, "a key has a scope unknown here")
            });
            let product = (key.product != ANY_PRODUCT).then_some(key.product);
            Some((
                key.hash,
                Arc::new(Grant {
                    id: key.id,
                    product,
                    scopes: scopes.ok()?,
                }),
            ))
        });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys.collect();
        Ok(())
    }

    /// Goes on loading them, so that a new or revoked key works or dies within seconds.
    pub async fn follow(&self, ledger: &Ledger) {
        loop {
            tokio::time::sleep(RELOAD).await;
            if let Err(error) = self.load(ledger).await {
                tracing::warn!(%error, "keys could not be read; those known stay in force");
            }
        }
    }

    /// What a key opens.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<Arc<Grant>> {
        let presented = digest(key);
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (stored, grant) = keys.get_key_value(&presented)?;
        bool::from(stored.ct_eq(&presented)).then(|| grant.clone())
    }
}
