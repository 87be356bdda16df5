//! Whom PostgreSQL runs as: it refuses to run as root.

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Users that an unprivileged server can run as, the best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// Whom PostgreSQL runs as.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Another user than this process's; none where this one is not root.
    other: Option<(Uid, Gid, String)>,
}

impl Owner {
    /// This process's user, or for root an unprivileged one.
    ///
    /// # Errors
    /// There is none.
    pub fn choose() -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        for name in UNPRIVILEGED {
            if let Some(user) = User::from_name(name)? {
                return Ok(Self {
                    other: Some((user.uid, user.gid, user.name)),
                });
            }
        }
        bail!(
            "PostgreSQL does not run as root, and there is no user {} to run it as",
            UNPRIVILEGED.join(" or ")
        )
    }

    /// A command of this user, without the settings of PostgreSQL's clients that this process may have.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        // This process's own folder may be closed to the other user.
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Some((uid, gid, _)) = &self.other {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Gives a file or folder to this user.
    ///
    /// # Errors
    /// It cannot be given.
    pub fn give(&self, path: &Path) -> anyhow::Result<()> {
        let Some((uid, gid, name)) = &self.other else {
            return Ok(());
        };
        chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .with_context(|| format!("{} cannot be given to the user {name}", path.display()))
    }

    /// Whether this process's user is the same.
    #[must_use]
    pub fn is_self(&self) -> bool {
        self.other.is_none()
    }

    /// Checks that this user gets to a folder.
    ///
    /// # Errors
    /// Names the folder on the way that is closed to it.
    pub fn reach(&self, dir: &Path) -> anyhow::Result<()> {
        let Some((_, _, name)) = &self.other else {
            return Ok(());
        };
        let mut way: Vec<&Path> = dir.ancestors().collect();
        way.reverse();
        for step in way {
            let mut test = self.command(Path::new("test"));
            let open = test
                .arg("-x")
                .arg(step)
                .status()
                .context("cannot run `test`")?;
            if !open.success() {
                bail!(
                    "{} cannot serve: the user {name}, whom PostgreSQL runs as, may not enter {}. Choose another \
                     folder with --data, for example one under /var/tmp, or open the way with chmod o+x",
                    dir.display(),
                    step.display()
                );
            }
        }
        Ok(())
    }
}
