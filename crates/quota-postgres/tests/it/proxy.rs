//! A connection that can be cut at a chosen moment: a Unix socket in front of the server.

use sqlx::postgres::PgConnectOptions;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// Where the next message is cut off. One cut per setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// Nowhere.
    No,
    /// The client's next message never reaches the server.
    Request,
    /// The client's next message reaches the server, and the connection is gone at once.
    AfterRequest,
    /// The server has done what was asked; its answer never reaches the client.
    Answer,
}

pub struct Proxy {
    folder: tempfile::TempDir,
    cut: Arc<AtomicU8>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Stands in front of the server of this URL.
    pub async fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cut = Arc::new(AtomicU8::new(Cut::No as u8));
        let server = PgConnectOptions::from_str(url).unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let shared = cut.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server.clone(), shared.clone()));
            }
        });
        Self {
            folder,
            cut,
            accepting,
        }
    }

    /// The same database, through this proxy.
    pub fn url(&self, url: &str) -> String {
        let scheme = url.find("://").unwrap() + 3;
        let base = url.split('?').next().unwrap();
        let (authority, database) = base[scheme..].split_once('/').unwrap();
        let login = authority
            .rsplit_once('@')
            .map_or("postgres", |(login, _)| login);
        format!(
            "postgres://{login}@localhost:5432/{database}?host={}",
            self.folder.path().display()
        )
    }

    pub fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

async fn connect(server: &PgConnectOptions) -> std::io::Result<Pin<Box<dyn Stream>>> {
    let folder = server.get_socket().cloned().or_else(|| {
        server
            .get_host()
            .starts_with('/')
            .then(|| server.get_host().into())
    });
    Ok(match folder {
        Some(folder) => Box::pin(
            UnixStream::connect(folder.join(format!(".s.PGSQL.{}", server.get_port()))).await?,
        ),
        None => Box::pin(TcpStream::connect((server.get_host(), server.get_port())).await?),
    })
}

/// Carries bytes both ways until an end closes, or a cut.
async fn carry(client: UnixStream, server: PgConnectOptions, cut: Arc<AtomicU8>) {
    let Ok(server) = connect(&server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let due = |at: Cut| {
        cut.compare_exchange(at as u8, Cut::No as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            count = from_client.read(&mut asked) => {
                let Ok(count @ 1..) = count else { return };
                if due(Cut::Request) || to_server.write_all(&asked[..count]).await.is_err() || due(Cut::AfterRequest) {
                    return;
                }
            }
            count = from_server.read(&mut answered) => {
                let Ok(count @ 1..) = count else { return };
                if due(Cut::Answer) || to_client.write_all(&answered[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
