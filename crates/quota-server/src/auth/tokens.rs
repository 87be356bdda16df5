//! Users' tokens: who signed one, whether it is good now, and whom it names.
//!
//! A product's settings say which algorithms there are: HS256 with its secret, RS256, ES256 and EdDSA with its public
//! keys, each key for its own algorithm alone. What a token's header says chooses among those and can name no other.

use super::jwks::{KeySet, Known, PublicKey};
use super::signatures;
use crate::config::ProductSecrets;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use quota_core::door::{MAX_NAME, is_visible};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// By how many seconds the clocks of those who make tokens may be wrong.
const LEEWAY: u64 = 2;

/// The tokens of all products.
pub struct Tokens {
    /// Secrets that the environment does not set.
    settings: BTreeMap<String, ProductSecrets>,
    products: RwLock<HashMap<String, Arc<ProductTokens>>>,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// The product takes none.
    #[error("this product has no setting for users' tokens")]
    NotSet,
    /// It is no token, or nobody that we know has signed it.
    #[error("this token is no JWT that this product's keys have signed")]
    Unknown,
    /// Its time is over.
    #[error("this token has expired, or says not when it does")]
    Expired,
    /// Its time has not come.
    #[error("this token is not valid yet")]
    NotYet,
    /// It is for somebody else, or by somebody else.
    #[error("this token's issuer or audience is not this product's")]
    Elsewhere,
    /// It names nobody.
    #[error("this token's sub must be 1 to 128 visible characters, without a space at its ends")]
    NoSubject,
}

impl Tokens {
    /// The tokens of products with these settings, and of others with what the environment says.
    #[must_use]
    pub fn new(settings: BTreeMap<String, ProductSecrets>) -> Self {
        signatures::install();
        Self {
            settings,
            products: RwLock::default(),
        }
    }

    /// The subject that a token of this product names.
    ///
    /// # Errors
    /// Why it is not good.
    pub async fn subject(&self, product: &str, token: &str) -> Result<String, BadToken> {
        self.of(product).subject(token).await
    }

    /// A product's; `product` must be one that exists, since its settings are kept.
    fn of(&self, product: &str) -> Arc<ProductTokens> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = products.get(product) {
            return Arc::clone(known);
        }
        drop(products);
        let settings = self.settings.get(product).cloned();
        let settings = settings.unwrap_or_else(|| ProductSecrets::from_environment(product));
        let made = Arc::new(ProductTokens::new(settings));
        let mut products = self
            .products
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Another call may have made the same meanwhile: its keys are read already.
        Arc::clone(products.entry(product.to_owned()).or_insert(made))
    }
}

/// Whether a bearer's word has the shape of a token.
#[must_use]
pub fn is_token(word: &str) -> bool {
    word.split('.').count() == 3
}

/// The tokens of one product.
struct ProductTokens {
    secret: Option<PublicKey>,
    keys: Option<KeySet>,
    issuer: Option<String>,
    audience: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

impl ProductTokens {
    fn new(settings: ProductSecrets) -> Self {
        let secret = settings.jwt_hs256.map(|secret| PublicKey {
            kid: None,
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret.as_bytes()),
        });
        Self {
            secret,
            keys: settings.jwks.as_deref().map(KeySet::new),
            issuer: settings.jwt_issuer,
            audience: settings.jwt_audience,
        }
    }

    async fn subject(&self, token: &str) -> Result<String, BadToken> {
        if self.secret.is_none() && self.keys.is_none() {
            return Err(BadToken::NotSet);
        }
        let header = decode_header(token).map_err(|_| BadToken::Unknown)?;
        // Extensions that must be understood, and are not (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(BadToken::Unknown);
        }
        if header.alg == Algorithm::HS256 {
            let secret = self.secret.as_ref().ok_or(BadToken::Unknown)?;
            return self.signed_by(secret, token);
        }
        let set = self.keys.as_ref().ok_or(BadToken::Unknown)?;
        let keys = set.keys().await;
        let kid = header.kid.as_deref();
        match self.signed_by_any(&keys, kid, token) {
            Err(BadToken::Unknown) => match set.newer_than(&keys).await {
                Some(newer) => self.signed_by_any(&newer, kid, token),
                None => Err(BadToken::Unknown),
            },
            told => told,
        }
    }

    /// A token that names no key may be signed by any of them, and a key without a name may have signed any token.
    fn signed_by_any(
        &self,
        keys: &Known,
        kid: Option<&str>,
        token: &str,
    ) -> Result<String, BadToken> {
        let named = |key: &&PublicKey| match (kid, key.kid.as_deref()) {
            (Some(kid), Some(own)) => kid == own,
            _ => true,
        };
        let mut keys = keys.iter().filter(named);
        let told = keys.find_map(|key| match self.signed_by(key, token) {
            Err(BadToken::Unknown) => None,
            told => Some(told),
        });
        told.unwrap_or(Err(BadToken::Unknown))
    }

    fn signed_by(&self, key: &PublicKey, token: &str) -> Result<String, BadToken> {
        let mut rules = Validation::new(key.algorithm);
        let mut required = vec!["exp", "sub"];
        rules.leeway = LEEWAY;
        rules.validate_nbf = true;
        rules.validate_aud = self.audience.is_some();
        if let Some(issuer) = &self.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        rules.set_required_spec_claims(&required);
        let read = decode::<Claims>(token, &key.key, &rules);
        let sub = read.map_err(|error| why(error.kind()))?.claims.sub;
        if is_visible(&sub, MAX_NAME) {
            Ok(sub)
        } else {
            Err(BadToken::NoSubject)
        }
    }
}

/// Only a token with a good signature gets an answer other than `Unknown`.
fn why(kind: &ErrorKind) -> BadToken {
    match kind {
        ErrorKind::ExpiredSignature => BadToken::Expired,
        ErrorKind::InvalidClaimFormat(claim) | ErrorKind::MissingRequiredClaim(claim) => {
            match claim.as_str() {
                "exp" => BadToken::Expired,
                "nbf" => BadToken::NotYet,
                "sub" => BadToken::NoSubject,
                _ => BadToken::Elsewhere,
            }
        }
        ErrorKind::ImmatureSignature => BadToken::NotYet,
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => BadToken::Elsewhere,
        // Claims that are no object, or have a `sub` that is no text.
        ErrorKind::Json(_) => BadToken::NoSubject,
        _ => BadToken::Unknown,
    }
}
