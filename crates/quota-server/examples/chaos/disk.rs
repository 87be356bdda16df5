//! A small file system of its own, in memory, that a server's folder moves onto, so that its disk can be full.

use anyhow::{Context as _, ensure};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder on a disk of its own, until this is dropped.
pub struct Disk {
    mount: PathBuf,
    folder: PathBuf,
    original: PathBuf,
}

impl Disk {
    /// Why none can be made here; nothing where one can.
    pub fn missing(dir: &Path) -> Option<String> {
        let mount = dir.join("disk");
        let tried = mounted(&mount, 1 << 20).and_then(|()| run("umount", &[], &[&mount]));
        fs::remove_dir(&mount).ok();
        let error = tried.err()?;
        Some(format!(
            "a file system cannot be mounted here, for which it takes root's rights: {error:#}"
        ))
    }

    /// Moves a folder onto a disk in `dir` that has so much room left, in bytes. Nobody uses the folder meanwhile.
    pub fn under(dir: &Path, folder: PathBuf, room: u64) -> anyhow::Result<Self> {
        let mount = dir.join("disk");
        mounted(&mount, size(&folder)? + room)?;
        let disk = Self {
            original: dir.join("moved"),
            mount,
            folder,
        };
        let content = disk.mount.join("content");
        run("cp", &["-a"], &[&disk.folder, &content])?;
        fs::rename(&disk.folder, &disk.original)?;
        symlink(content, &disk.folder)?;
        Ok(disk)
    }

    /// Takes all room that there is.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        loop {
            match filler.write(&[0; 1 << 16]) {
                Ok(_) => {}
                Err(full) if full.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives back what [`Disk::fill`] took.
    pub fn free(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    /// Moves the folder back to where it was, as it is now. Nobody uses it meanwhile.
    pub fn back(self) -> anyhow::Result<()> {
        let back = self.original.with_extension("back");
        run("cp", &["-a"], &[&self.mount.join("content"), &back])?;
        fs::remove_file(&self.folder)?;
        fs::rename(back, &self.folder)?;
        Ok(fs::remove_dir_all(&self.original)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Where somebody is still at it, it goes with the last of them.
        run("umount", &["--lazy"], &[&self.mount]).ok();
    }
}

/// Mounts a file system of this size; others may pass through it.
fn mounted(at: &Path, size: u64) -> anyhow::Result<()> {
    fs::create_dir_all(at)?;
    let options = format!("size={size},mode=0711");
    run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], &[at])
}

/// What a folder takes of a disk.
fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        sum += about.blocks() * 512;
        if about.is_dir() {
            sum += size(&path)?;
        }
    }
    Ok(sum)
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .args(paths)
        .output()
        .with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}
