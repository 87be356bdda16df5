//! A clock that can be turned: libfaketime, between one program and the machine's clock. What the program asks for the time is
//! off by what a file says, from one moment to the next; its timers go on as ever.

use anyhow::{Context as _, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions keep the library.
const PLACES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
];

/// Whom a clock is for.
#[derive(Clone, Copy)]
pub enum For {
    /// A program of one thread, which may ask for the time in a signal handler: PostgreSQL.
    One,
    /// One of many threads.
    Many,
}

/// The variables that a program is started with, to have such a clock.
pub type Environment = Vec<(&'static str, String)>;

/// The clock of one program and its children.
pub struct Clock {
    libraries: Vec<PathBuf>,
    file: PathBuf,
    ahead: i64,
}

impl Clock {
    /// Why there can be none here; nothing where there can.
    pub fn missing() -> Option<String> {
        let why = "libfaketime is not there (`scripts/install faketime`)";
        let both = library(For::One).and(library(For::Many));
        both.is_none().then(|| why.to_owned())
    }

    /// One that shows the machine's time, until it is turned; it goes by this file.
    pub fn new(whom: For, file: PathBuf) -> anyhow::Result<Self> {
        let mut libraries = vec![library(whom).context("no libfaketime")?];
        if matches!(whom, For::Many) {
            libraries.insert(0, waits(&file.with_extension("so"))?);
        }
        let clock = Self {
            libraries,
            file,
            ahead: 0,
        };
        clock.write()?;
        Ok(clock)
    }

    /// Turns it ahead by so many seconds, or back.
    pub fn turn(&mut self, seconds: i64) -> anyhow::Result<()> {
        self.ahead += seconds;
        self.write()
    }

    /// How many seconds it is ahead of the machine's.
    pub const fn ahead(&self) -> i64 {
        self.ahead
    }

    fn write(&self) -> anyhow::Result<()> {
        // Nobody may read half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.ahead))?;
        Ok(fs::rename(new, &self.file)?)
    }

    /// What a program has to be started with.
    pub fn environment(&self) -> anyhow::Result<Environment> {
        let path = |path: &PathBuf| {
            let text = path.to_str().map(str::to_owned);
            text.context("a path that is no text")
        };
        let libraries: Vec<String> = self.libraries.iter().map(path).collect::<Result<_, _>>()?;
        let on = || "1".to_owned();
        Ok(vec![
            ("LD_PRELOAD", libraries.join(":")),
            ("FAKETIME_TIMESTAMP_FILE", path(&self.file)?),
            // The file is read whenever somebody asks for the time.
            ("FAKETIME_NO_CACHE", on()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
            ("NO_FAKE_STAT", on()),
        ])
    }

    /// Removes what the library shares between a process and its children, where that process was killed.
    pub fn clear(process: u32) {
        for name in ["sem.faketime_sem", "faketime_shm"] {
            fs::remove_file(format!("/dev/shm/{name}_{process}")).ok();
        }
    }
}

/// Compiles what stands beside the library in a node.
fn waits(to: &Path) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chaos/waits.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([to, &source])
        .arg("-ldl")
        .output()
        .context("cc")?;
    let said = String::from_utf8_lossy(&compiled.stderr);
    ensure!(compiled.status.success(), "cc: {said}");
    Ok(to.to_owned())
}

fn library(whom: For) -> Option<PathBuf> {
    let name = match whom {
        For::One => "libfaketime.so.1",
        For::Many => "libfaketimeMT.so.1",
    };
    let mut places = PLACES.iter().map(|place| Path::new(place).join(name));
    places.find(|place| place.exists())
}
