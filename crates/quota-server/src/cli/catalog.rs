//! `quota-ledger catalog`: a product's plans and limits.

use super::key::open;
use super::{Verdict, print, say};
use crate::config::Database;
use crate::publishing::{PublishError, publish_catalog};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quota_core::catalog::Fault;
use quota_core::scenario::{self, Report};
use std::fs;
use std::path::{Path, PathBuf};

/// Test and publish a product's plans and limits.
#[derive(Subcommand)]
pub enum Catalog {
    Test(Test),
    Publish(Publish),
}

/// Play the scenarios of a catalog, and say which of them do not come out as written.
///
/// Needs no database. The exit code is 1 where the catalog has faults or a scenario comes out otherwise.
#[derive(Args)]
pub struct Test {
    /// A folder with catalog.toml and scenarios/*.toml, or one of such folders
    dir: PathBuf,
}

/// Publish a new version of a product's catalog, or its first.
///
/// A catalog with faults is not published: each fault is named on stderr, and the exit code is 1.
#[derive(Args)]
pub struct Publish {
    #[command(flatten)]
    database: Database,
    /// The catalog, in TOML
    file: PathBuf,
    /// The product
    #[arg(long)]
    product: String,
}

impl Catalog {
    /// Carries it out.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        match self {
            Self::Test(test) => test.run(),
            Self::Publish(publish) => publish.run().await,
        }
    }
}

impl Test {
    fn run(self) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::Yes;
        let mut played = 0;
        for folder in folders(&self.dir)? {
            let catalog = folder.join("catalog.toml");
            let text =
                fs::read_to_string(&catalog).with_context(|| catalog.display().to_string())?;
            if let Err(faults) = quota_core::catalog::Catalog::parse(&text) {
                say_faults(&catalog, &faults);
                verdict = Verdict::No;
                continue;
            }
            for file in scenarios(&folder)? {
                let scenario =
                    fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                let report =
                    scenario::run(&text, &scenario).with_context(|| file.display().to_string())?;
                played += 1;
                if !tell(&file, &report)? {
                    verdict = Verdict::No;
                }
            }
        }
        if played == 0 && verdict == Verdict::Yes {
            bail!("there are no scenarios in {}", self.dir.display());
        }
        Ok(verdict)
    }
}

/// Tells what came of a scenario; whether all of it came out as written.
fn tell(file: &Path, report: &Report) -> anyhow::Result<bool> {
    let Report {
        title,
        steps,
        expectations,
        failures,
    } = report;
    let word = if failures.is_empty() { "ok" } else { "FAILED" };
    print(&format!(
        "{word}  {}: {title} ({steps} steps, {expectations} expectations)",
        file.display()
    ))?;
    for failure in failures {
        print(&format!("    {failure}"))?;
    }
    Ok(failures.is_empty())
}

/// The folder itself where it has a catalog, else those in it that have.
fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if dir.join("catalog.toml").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let mut found = entries(dir)?;
    found.retain(|folder| folder.join("catalog.toml").is_file());
    if found.is_empty() {
        bail!("there is no catalog.toml in {}", dir.display());
    }
    Ok(found)
}

fn scenarios(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = folder.join("scenarios");
    let mut files = if folder.is_dir() {
        entries(&folder)?
    } else {
        Vec::new()
    };
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "toml")
    });
    Ok(files)
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn say_faults(file: &Path, faults: &[Fault]) {
    for fault in faults {
        say(&format!("{}: {fault}", file.display()));
    }
}

impl Publish {
    async fn run(self) -> anyhow::Result<Verdict> {
        let text =
            fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        let ledger = open(&self.database).await?;
        match publish_catalog(&ledger, &self.product, &text, None).await {
            Ok(published) => {
                let (product, version) = (&self.product, published.version);
                say(&match published.row {
                    Some(_) => format!("{product}: version {version} is in force"),
                    None => format!("{product}: version {version} has this text already"),
                });
                Ok(Verdict::Yes)
            }
            Err(PublishError::Faulty(faults)) => {
                say_faults(&self.file, &faults);
                Ok(Verdict::No)
            }
            Err(error) => Err(error.into()),
        }
    }
}
