//! PostgreSQL's programs, as found on this machine.

use crate::embedded::owner::Owner;
use anyhow::{Context as _, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The oldest version that we work with.
const OLDEST: u32 = 15;
/// Where packages put the programs; a star stands for a version.
const FOLDERS: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql*/bin",
];

/// The programs of one version.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    /// The major version.
    pub major: u32,
}

impl Binaries {
    /// Finds the newest programs, or those of the version that made a cluster.
    ///
    /// # Errors
    /// There are none, or none of that version.
    pub fn find(owner: &Owner, made_by: Option<u32>) -> anyhow::Result<Self> {
        let mut found: Vec<Self> = candidates()
            .into_iter()
            .filter_map(|dir| Self::at(owner, dir))
            .collect();
        found.sort_by_key(|binaries| binaries.major);
        let fits = |binaries: &&Self| made_by.is_none_or(|major| binaries.major == major);
        match (found.iter().rfind(fits), made_by) {
            (Some(binaries), _) if binaries.major >= OLDEST => Ok(binaries.clone()),
            (_, Some(major)) => bail!(
                "the data was made by PostgreSQL {major}, which is not on this machine; install it"
            ),
            _ => bail!(
                "there is no PostgreSQL {OLDEST} or newer on this machine, neither in PATH nor in {}; install it \
                 (Debian 12: apt-get install postgresql; where that is older: https://www.postgresql.org/download), \
                 or set DATABASE_URL",
                FOLDERS.join(", ")
            ),
        }
    }

    fn at(owner: &Owner, dir: PathBuf) -> Option<Self> {
        let output = owner
            .command(&dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)
        let version = text.split_whitespace().nth(2)?;
        let major = version
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()?;
        dir.join("initdb").is_file().then_some(Self { dir, major })
    }

    /// One of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a library that the server can load is there.
    #[must_use]
    pub fn has_library(&self, name: &str) -> bool {
        let folders = [
            "../lib",
            "../lib/postgresql",
            "../lib64/pgsql",
            "../lib/pgsql",
        ];
        folders.iter().any(|folder| {
            ["so", "dylib"].iter().any(|kind| {
                self.dir
                    .join(folder)
                    .join(format!("{name}.{kind}"))
                    .is_file()
            })
        })
    }

    /// The version that made a cluster; none where there is no cluster.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn version_of(data: &Path) -> anyhow::Result<Option<u32>> {
        let file = data.join("PG_VERSION");
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.trim()
            .parse()
            .map(Some)
            .with_context(|| file.display().to_string())
    }
}

/// Folders that may hold the programs.
fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    for pattern in FOLDERS {
        let Some((before, after)) = pattern.split_once('*') else {
            continue;
        };
        let (parent, prefix) = before.rsplit_once('/').unwrap_or((before, ""));
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                folders.push(entry.path().join(after.trim_start_matches('/')));
            }
        }
    }
    folders.retain(|folder| folder.is_absolute() && folder.join("postgres").is_file());
    folders
}
