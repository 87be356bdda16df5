//! The folder of `dev`: one process at a time has it, and what was made up once is kept in it.

use crate::auth::fresh_key;
use crate::config::ProductSecrets;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The folder, for as long as this lives.
pub struct Home {
    dir: PathBuf,
    _lock: File,
}

/// What was made up when the folder was new, and stays.
#[derive(Clone, Deserialize, Serialize)]
pub struct Secrets {
    /// A key with every scope, for every product.
    pub admin_key: String,
    /// The password of the database's owner.
    pub database_password: String,
    /// The port of the database on loopback; chosen anew where it is taken.
    pub database_port: u16,
    /// What the environment did not set, by product.
    #[serde(default)]
    pub products: BTreeMap<String, ProductSecrets>,
}

impl Home {
    /// Makes the folder where it is missing, and takes it.
    ///
    /// # Errors
    /// It cannot be made, or another process has it.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let place = || format!("the folder {}", dir.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(place)?;
        let dir = fs::canonicalize(dir).with_context(place)?;
        let mut lock = private(
            &dir.join("lock"),
            OpenOptions::new().read(true).write(true).create(true),
        )?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                lock.read_to_string(&mut owner).unwrap_or_default();
                bail!(
                    "{} is in use by another `quota-ledger dev`, process {}; stop that one, or give this one another folder with --data DIR",
                    dir.display(),
                    owner.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(place),
        }
        lock.set_len(0).with_context(place)?;
        writeln!(lock, "{}", std::process::id()).with_context(place)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is kept in it, for these products at least. What is missing is made up.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn secrets(&self, products: &[&str]) -> anyhow::Result<Secrets> {
        let file = self.dir.join("secrets.json");
        let mut secrets = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Secrets {
                admin_key: fresh_key(),
                database_password: secret(),
                database_port: 0,
                products: BTreeMap::new(),
            },
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        for product in products {
            secrets
                .products
                .entry((*product).to_owned())
                .or_insert_with(|| ProductSecrets {
                    jwt_hs256: Some(secret()),
                    razorpay_secrets: vec![secret()],
                    ..ProductSecrets::default()
                });
        }
        self.keep(&secrets)?;
        Ok(secrets)
    }

    /// Keeps them, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, secrets: &Secrets) -> anyhow::Result<()> {
        let (file, new) = (
            self.dir.join("secrets.json"),
            self.dir.join("secrets.json.new"),
        );
        let mut written = private(
            &new,
            OpenOptions::new().write(true).create(true).truncate(true),
        )?;
        serde_json::to_writer_pretty(&mut written, secrets)?;
        written.sync_all()?;
        fs::rename(&new, &file).with_context(|| file.display().to_string())
    }
}

/// A file that its owner alone may read.
fn private(file: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    options
        .mode(0o600)
        .open(file)
        .with_context(|| file.display().to_string())
}

fn secret() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}
