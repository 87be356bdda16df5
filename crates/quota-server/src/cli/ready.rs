//! The ready file: written when everything answers.

use anyhow::Context as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes a file that is there whole or not at all, and that its owner alone may read.
pub fn write(file: &Path, content: &serde_json::Value) -> anyhow::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let place = || format!("the ready file {}", file.display());
    let mut new = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .with_context(place)?;
    writeln!(new, "{content}").with_context(place)?;
    fs::rename(&beside, file).with_context(place)
}
