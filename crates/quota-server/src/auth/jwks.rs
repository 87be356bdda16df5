//! A product's public keys (JWK Set, RFC 7517), from a URL or a file, and how they are kept up with.
//!
//! A set is read anew once a minute while tokens come, and at once for a token that no known key has signed, but that not
//! oftener than every few seconds: made-up tokens are no way to make us hammer somebody's server. What cannot be read
//! leaves the known keys in force; what is read replaces them, so that a key that was taken out is good no longer.

use anyhow::{Context as _, bail, ensure};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// How old known keys may become while they are used.
const AGE_MAX: Duration = Duration::from_secs(60);
/// The shortest time between two readings that tokens ask for, and after one that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a URL may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest set, in bytes and in keys.
const BYTES_MAX: u64 = 256 * 1024;
const KEYS_MAX: usize = 64;

/// A key that signs tokens, and the one algorithm that it is good for.
#[derive(Debug)]
pub struct PublicKey {
    /// Its name in tokens' headers.
    pub kid: Option<String>,
    /// What follows from the key, never from a token.
    pub algorithm: Algorithm,
    /// The key.
    pub key: DecodingKey,
}

/// The keys of one reading.
pub type Known = Arc<[PublicKey]>;

/// A set of keys that is kept up with.
pub struct KeySet {
    source: Source,
    known: RwLock<Reading>,
    /// When keys were last read for a token that none has signed; held while they are read.
    asked: Mutex<Option<Instant>>,
}

#[derive(Clone, Default)]
struct Reading {
    keys: Known,
    /// When they were read.
    at: Option<Instant>,
    /// When that was last tried.
    tried: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Source {
    Url(String),
    File(PathBuf),
}

impl KeySet {
    /// The set of this URL or file; it is read when it is first asked for.
    #[must_use]
    pub fn new(place: &str) -> Self {
        let source = if place.starts_with("https://") || place.starts_with("http://") {
            Source::Url(place.to_owned())
        } else {
            Source::File(place.strip_prefix("file://").unwrap_or(place).into())
        };
        Self {
            source,
            known: RwLock::default(),
            asked: Mutex::default(),
        }
    }

    /// The keys in force, no older than they may be where they can be read at all.
    pub async fn keys(&self) -> Known {
        let reading = self.reading();
        if !reading.is_due() {
            return reading.keys;
        }
        // Whoever has keys does not wait for another who is reading.
        let asked = match self.asked.try_lock() {
            Ok(asked) => asked,
            Err(_) if reading.at.is_some() => return reading.keys,
            Err(_) => self.asked.lock().await,
        };
        if self.reading().is_due() {
            self.read(&asked).await;
        }
        self.reading().keys
    }

    /// The keys after another reading, for a token that none of `tried` has signed; none where there is nothing new.
    pub async fn newer_than(&self, tried: &Known) -> Option<Known> {
        let mut asked = self.asked.lock().await;
        let waits = asked.is_some_and(|asked| asked.elapsed() < PAUSE);
        if Arc::ptr_eq(&self.reading().keys, tried) && !waits {
            *asked = Some(Instant::now());
            self.read(&asked).await;
        }
        let keys = self.reading().keys;
        (!Arc::ptr_eq(&keys, tried)).then_some(keys)
    }

    fn reading(&self) -> Reading {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the set. The guard says that nobody else does.
    async fn read(&self, _alone: &MutexGuard<'_, Option<Instant>>) {
        let source = self.source.clone();
        let read = tokio::task::spawn_blocking(move || source.read()).await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.tried = Some(Instant::now());
        match read.map_err(anyhow::Error::from).flatten() {
            Ok(keys) => {
                known.keys = keys.into();
                known.at = known.tried;
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    source = ?self.source,
                    "public keys could not be read; those known stay in force"
                );
            }
        }
    }
}

impl Reading {
    fn is_due(&self) -> bool {
        let old = self.at.is_none_or(|at| at.elapsed() > AGE_MAX);
        old && self.tried.is_none_or(|tried| tried.elapsed() > PAUSE)
    }
}

impl Source {
    fn read(&self) -> anyhow::Result<Vec<PublicKey>> {
        let mut text = Vec::new();
        match self {
            Self::Url(url) => {
                let agent: ureq::Agent = ureq::Agent::config_builder()
                    .timeout_global(Some(PATIENCE))
                    .max_redirects(3)
                    .build()
                    .into();
                let mut response = agent.get(url).call().context("the URL does not answer")?;
                let body = response.body_mut().with_config().limit(BYTES_MAX).reader();
                body.take(BYTES_MAX + 1).read_to_end(&mut text)?;
            }
            Self::File(file) => {
                let file = File::open(file).with_context(|| file.display().to_string())?;
                file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
            }
        }
        ensure!(
            text.len() as u64 <= BYTES_MAX,
            "more than {BYTES_MAX} bytes"
        );
        keys_of(&text)
    }
}

/// The usable keys of a set; those of other kinds and uses are left out.
fn keys_of(text: &[u8]) -> anyhow::Result<Vec<PublicKey>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(text).context("this is no JWK Set")?;
    if set.keys.len() > KEYS_MAX {
        bail!("more than {KEYS_MAX} keys");
    }
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        let usable = usable(&jwk);
        if usable.is_none() {
            tracing::debug!(kid = jwk.common.key_id, "a public key of no use here");
        }
        usable
    });
    Ok(keys.collect())
}

fn usable(jwk: &Jwk) -> Option<PublicKey> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        // Symmetric keys among them: a secret does not belong into a public set.
        _ => return None,
    };
    let common = &jwk.common;
    let named = common.key_algorithm.as_ref();
    let named = named.is_none_or(|named| *named == KeyAlgorithm::from(algorithm));
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    if !named || !signs {
        return None;
    }
    Some(PublicKey {
        kid: common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(jwk).ok()?,
    })
}
