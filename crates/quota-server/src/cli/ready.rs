//! The ready file: written when everything answers.

use anyhow::Context as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Writes the ready file: a JSON object on one line.
pub fn write(file: &Path, content: &serde_json::Value) -> anyhow::Result<()> {
    write_text(file, &format!("{content}\n"))
}

/// Writes the same for a shell to read: `NAME='value'`, a line each, which stay in the shell that reads them.
pub fn write_shell(file: &Path, variables: &[(String, &str)]) -> anyhow::Result<()> {
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={}\n", quoted(value)));
    write_text(file, &lines.collect::<String>())
}

/// A word as a shell takes it, whatever is in it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes a file that is there whole or not at all, and that its owner alone may read.
fn write_text(file: &Path, text: &str) -> anyhow::Result<()> {
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
    new.write_all(text.as_bytes()).with_context(place)?;
    fs::rename(&beside, file).with_context(place)
}
