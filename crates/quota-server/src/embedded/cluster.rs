//! The cluster: made once, its settings written anew at each start.

use crate::embedded::binaries::Binaries;
use crate::embedded::leftovers;
use crate::embedded::owner::Owner;
use crate::embedded::{Home, Secrets};
use anyhow::{Context as _, bail};
use nix::sys::statvfs::statvfs;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The database's owner.
const USER: &str = "quota";
/// The longest path of a Unix socket, on every system that we know.
const SOCKET_PATH_MAX: usize = 103;
const MIB: u64 = 1024 * 1024;

/// A cluster in the folder of `dev`, ready to be started.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) owner: Owner,
    pub(super) binaries: Binaries,
    pub(super) data: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) log: PathBuf,
    /// The socket has a short folder of its own, which goes when the server does.
    pub(super) socket_elsewhere: bool,
    port: u16,
    password: String,
}

impl Cluster {
    /// Finds PostgreSQL, and makes a cluster where there is none.
    ///
    /// # Errors
    /// There is no PostgreSQL, or the folder cannot hold a cluster.
    pub fn prepare(home: &Home, secrets: &mut Secrets) -> anyhow::Result<Self> {
        let owner = Owner::choose()?;
        let dir = home.dir();
        if !owner.is_self() {
            // The other user passes through; files of ours in it stay closed.
            fs::set_permissions(dir, Permissions::from_mode(0o711))
                .with_context(|| dir.display().to_string())?;
        }
        owner.reach(dir)?;
        let data = dir.join("postgres");
        let binaries = Binaries::find(&owner, Binaries::version_of(&data)?)?;
        if !data.join("PG_VERSION").exists() {
            make(&owner, &binaries, dir, &data, &secrets.database_password)?;
        }
        let (socket, socket_elsewhere) = socket(&owner, dir)?;
        // Before the port is looked at: what outlived a killed run listens on it still.
        leftovers::clear(&data, &socket)?;
        let port = free_port(secrets.database_port)?;
        if port != secrets.database_port {
            secrets.database_port = port;
            home.keep(secrets)?;
        }
        let log = dir.join("postgres.log");
        let password = secrets.database_password.clone();
        Ok(Self {
            owner,
            binaries,
            data,
            socket,
            log,
            socket_elsewhere,
            port,
            password,
        })
    }

    /// How its owner logs in.
    #[must_use]
    pub fn url(&self) -> String {
        let mut host = String::new();
        for byte in self.socket.as_os_str().as_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
                host.push(char::from(*byte));
            } else {
                write!(host, "%{byte:02X}").unwrap_or_default();
            }
        }
        format!(
            "postgres://{USER}:{}@localhost:{}/postgres?host={host}",
            self.password, self.port
        )
    }

    /// Writes the settings, by what this machine has.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write_settings(&self) -> anyhow::Result<()> {
        // Both are options of a build; without them it is slower, not wrong.
        let compression = if self.compresses_with_lz4()? {
            "lz4"
        } else {
            "on"
        };
        let preload = if self.binaries.has_library("pg_prewarm") {
            "pg_prewarm"
        } else {
            ""
        };
        // The ledger's random index has to stay in memory: about 100 bytes a row.
        let buffers = (memory() / 4 / MIB).clamp(128, 4096);
        let wal = (free_disk(&self.data) / 8 / MIB).clamp(1024, 8192);
        let settings = format!(
            "# Written anew at each start of `quota-ledger dev`.\n\
             listen_addresses = '127.0.0.1'\n\
             port = {}\n\
             unix_socket_directories = '{}'\n\
             unix_socket_permissions = 0700\n\
             max_connections = 200\n\
             shared_buffers = '{buffers}MB'\n\
             shared_preload_libraries = '{preload}'\n\
             fsync = on\n\
             synchronous_commit = on\n\
             full_page_writes = on\n\
             max_wal_size = '{wal}MB'\n\
             checkpoint_timeout = '15min'\n\
             wal_compression = {compression}\n\
             log_line_prefix = '%m [%p] %d '\n",
            self.port,
            self.socket.display(),
        );
        self.settings_file(settings.as_bytes())
    }

    fn settings_file(&self, text: &[u8]) -> anyhow::Result<()> {
        let file = self.data.join("quota-ledger.conf");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        self.owner.give(&file)
    }

    fn compresses_with_lz4(&self) -> anyhow::Result<bool> {
        let file = self.data.join("quota-ledger.conf");
        if !file.exists() {
            // The server is asked, which does not answer without the file that its settings include.
            self.settings_file(b"")?;
        }
        let mut ask = self.owner.command(&self.binaries.program("postgres"));
        ask.arg("-D")
            .arg(&self.data)
            .args(["-C", "wal_compression", "-c", "wal_compression=lz4"]);
        Ok(ask
            .output()
            .context("cannot run postgres")?
            .status
            .success())
    }
}

/// Makes a cluster, whole or not at all.
fn make(
    owner: &Owner,
    binaries: &Binaries,
    dir: &Path,
    data: &Path,
    password: &str,
) -> anyhow::Result<()> {
    let new = dir.join("postgres.new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| new.display().to_string())?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .with_context(|| new.display().to_string())?;
    owner.give(&new)?;
    let secret = dir.join("password.new");
    fs::remove_file(&secret).unwrap_or_default();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&secret)?;
    writeln!(file, "{password}")?;
    owner.give(&secret)?;
    let mut initdb = owner.command(&binaries.program("initdb"));
    initdb.arg("-D").arg(&new).arg("--pwfile").arg(&secret);
    initdb.args([
        "--username",
        USER,
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--data-checksums",
    ]);
    let output = initdb.output();
    fs::remove_file(&secret).unwrap_or_default();
    let output = output.context("cannot run initdb")?;
    if !output.status.success() {
        fs::remove_dir_all(&new).unwrap_or_default();
        bail!(
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut settings = OpenOptions::new()
        .append(true)
        .open(new.join("postgresql.conf"))?;
    writeln!(settings, "include 'quota-ledger.conf'")?;
    fs::rename(&new, data).with_context(|| data.display().to_string())
}

/// The folder of the socket, and whether that is elsewhere because the path of this one does not fit.
fn socket(owner: &Owner, dir: &Path) -> anyhow::Result<(PathBuf, bool)> {
    let own = dir.join("socket");
    // In the settings, a comma would begin another folder, and a quote end the text.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~ ".contains(byte);
    let bytes = own.as_os_str().as_bytes();
    let fits =
        bytes.len() + "/.s.PGSQL.65535.lock".len() <= SOCKET_PATH_MAX && bytes.iter().all(plain);
    let elsewhere = || {
        PathBuf::from(format!(
            "/tmp/quota-ledger-{}",
            hex::encode(rand::random::<[u8; 6]>())
        ))
    };
    let socket = if fits { own } else { elsewhere() };
    if !socket.exists() {
        DirBuilder::new()
            .mode(0o700)
            .create(&socket)
            .with_context(|| socket.display().to_string())?;
    }
    owner.give(&socket)?;
    Ok((socket, !fits))
}

/// A port on loopback that nobody listens on: the one from before, where it is free still.
fn free_port(before: u16) -> anyhow::Result<u16> {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listen(before)
        .or_else(|_| listen(0))
        .context("there is no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Bytes of memory that this process may use.
fn memory() -> u64 {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    });
    let of_group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    // Where neither is told, what every machine has.
    of_machine
        .into_iter()
        .chain(of_group)
        .min()
        .unwrap_or(1024 * MIB)
}

/// Bytes that are free where the data is.
fn free_disk(data: &Path) -> u64 {
    statvfs(data).map_or(0, |disk| {
        disk.blocks_available().saturating_mul(disk.fragment_size())
    })
}
