//! Who signs checkpoints, and whose signatures count.

use anyhow::{Context as _, bail};
use quota_core::checkpoint::{Checkpoint, Signed};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// An Ed25519 key that signs checkpoints.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Signer {
    /// A key for this process's life alone.
    ///
    /// # Errors
    /// Never, for a seed of the right size.
    pub fn fresh() -> anyhow::Result<Self> {
        Self::of_seed(&rand::random())
    }

    /// The key in this file, 32 bytes in hexadecimal; made up where there is no such file, readable to its owner alone.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no key.
    pub fn of_file(file: &Path) -> anyhow::Result<Self> {
        let place = || format!("the checkpoint key {}", file.display());
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let seed = hex::encode(rand::random::<[u8; 32]>());
                let mut made = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(file)
                    .with_context(place)?;
                writeln!(made, "{seed}").with_context(place)?;
                made.sync_all().with_context(place)?;
                seed
            }
            Err(error) => return Err(error).with_context(place),
        };
        let mut seed = [0; 32];
        if hex::decode_to_slice(text.trim(), &mut seed).is_err() {
            bail!("{} must hold 64 hexadecimal digits", place());
        }
        Self::of_seed(&seed)
    }

    fn of_seed(seed: &[u8; 32]) -> anyhow::Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        let pair = pair.map_err(|why| anyhow::anyhow!("this seed makes no key: {why}"))?;
        let public = pair.public_key().as_ref().try_into()?;
        Ok(Self { pair, public })
    }

    /// The public key, in hexadecimal.
    #[must_use]
    pub fn public(&self) -> String {
        hex::encode(self.public)
    }

    /// Signs a checkpoint.
    #[must_use]
    pub fn sign(&self, checkpoint: Checkpoint) -> Signed {
        let mut signature = [0; 64];
        let made = self.pair.sign(&checkpoint.message());
        signature.copy_from_slice(made.as_ref());
        Signed {
            checkpoint,
            key: self.public,
            signature,
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public()).finish()
    }
}

/// Whose signatures count: anybody's, or those of these public keys.
#[derive(Clone, Debug, Default)]
pub struct Trust(Vec<[u8; 32]>);

impl Trust {
    /// Trusts these public keys, in hexadecimal, and no other; everybody where there is none.
    ///
    /// # Errors
    /// The first that is none.
    pub fn in_keys(keys: &[String]) -> anyhow::Result<Self> {
        let read = |text: &String| {
            let mut key = [0; 32];
            match hex::decode_to_slice(text.trim(), &mut key) {
                Ok(()) => Ok(key),
                Err(_) => bail!("a public key has 64 hexadecimal digits; {text:?} has not"),
            }
        };
        Ok(Self(keys.iter().map(read).collect::<anyhow::Result<_>>()?))
    }

    /// What is wrong with a signature, if anything is.
    #[must_use]
    pub fn objection(&self, signed: &Signed) -> Option<&'static str> {
        if !self.0.is_empty() && !self.0.contains(&signed.key) {
            return Some("it is signed with a key that is not trusted");
        }
        let key = UnparsedPublicKey::new(&ED25519, &signed.key);
        let checked = key.verify(&signed.checkpoint.message(), &signed.signature);
        checked.is_err().then_some("its signature is not good")
    }
}
