//! A TCP proxy between a node and PostgreSQL. It knows where messages begin and end, so that it can stop the traffic at an
//! exact point: before an append is sent, after it was, before its answer arrives.

use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream, tcp, unix};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// What a message asks for, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A batch of rows: locks, fence and insert in one.
    Append,
    /// The locks of partitions alone, before decisions are made under them.
    Lock,
    /// The end of a transaction.
    Commit,
    /// A projector's views and checkpoint.
    SaveViews,
}

/// When a trap springs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The message has not reached the server.
    Before,
    /// It has; the answer does not reach the node.
    Sent,
    /// The server has answered; the answer does not reach the node.
    Answered,
}

/// How traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// As it comes.
    Open,
    /// Not at all: packets are on their way for as long as it lasts, as in a partition that nobody is told of.
    Paused,
    /// Every piece this much later.
    Slow(Duration),
}

/// What becomes of a connection whose trap has sprung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It goes on as if nothing had been.
    GoOn,
    /// It is cut, both ways.
    Cut,
}

struct Trap {
    works: &'static [Work],
    stage: Stage,
    sprung: oneshot::Sender<Held>,
}

/// A connection that a trap holds; cut where this is dropped.
pub struct Held(oneshot::Sender<Release>);

impl Held {
    pub fn release(self, how: Release) {
        // A connection that is gone needs no release.
        self.0.send(how).ok();
    }
}

struct Shared {
    server: PathBuf,
    flow: watch::Sender<Flow>,
    trap: Mutex<Option<Trap>>,
    connections: Mutex<Vec<AbortHandle>>,
}

/// Stands in front of the server for one node.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Opens a port whose connections go on to `server`, a socket: that asks for no password, whose making a build without
    /// optimisation would spend most of its time on.
    pub async fn start(server: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            flow: watch::Sender::new(Flow::Open),
            trap: Mutex::default(),
            connections: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            port,
            shared,
            accepting,
        })
    }

    /// Sets a trap; what it holds comes when one of these is under way. A trap that was set before is gone.
    pub fn trap(&self, works: &'static [Work], stage: Stage) -> oneshot::Receiver<Held> {
        let (sprung, held) = oneshot::channel();
        *locked(&self.shared.trap) = Some(Trap {
            works,
            stage,
            sprung,
        });
        held
    }

    /// Takes a trap away that has not sprung.
    pub fn disarm(&self) {
        *locked(&self.shared.trap) = None;
    }

    pub fn flow(&self, flow: Flow) {
        self.shared.flow.send_replace(flow);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for connection in locked(&self.shared.connections).drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let task = tokio::spawn(carry(client, Arc::clone(&shared)));
        let mut connections = locked(&shared.connections);
        connections.retain(|connection| !connection.is_finished());
        connections.push(task.abort_handle());
    }
}

/// What both directions of a connection know.
struct Connection {
    shared: Arc<Shared>,
    /// Set while the next answer is to be held.
    awaited: Mutex<Option<oneshot::Sender<Held>>>,
}

async fn carry(client: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    pass(&shared).await;
    let server = UnixStream::connect(&shared.server).await?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let connection = Connection {
        shared,
        awaited: Mutex::default(),
    };
    // Whichever ends first takes the other with it.
    tokio::select! {
        asked = requests(&connection, from_client, to_server) => asked,
        answered = answers(&connection, from_server, to_client) => answered,
    }
}

/// Waits as the flow wants it.
async fn pass(shared: &Shared) {
    let mut flow = shared.flow.subscribe();
    if flow.wait_for(|flow| *flow != Flow::Paused).await.is_err() {
        return;
    }
    let now = *flow.borrow();
    if let Flow::Slow(delay) = now {
        tokio::time::sleep(delay).await;
    }
}

/// Waits until a sprung trap lets go; false where the connection is to be cut.
async fn hold(sprung: oneshot::Sender<Held>) -> bool {
    let (release, released) = oneshot::channel();
    match sprung.send(Held(release)) {
        Ok(()) => released.await == Ok(Release::GoOn),
        // Nobody waits for it any more.
        Err(_) => true,
    }
}

async fn requests(
    connection: &Connection,
    mut from: tcp::OwnedReadHalf,
    mut to: unix::OwnedWriteHalf,
) -> anyhow::Result<()> {
    let mut buffer = BytesMut::with_capacity(1 << 16);
    let mut messages = Messages::default();
    // A trap that has taken its message and springs once that is sent whole.
    let mut due: Option<(oneshot::Sender<Held>, Stage)> = None;
    while from.read_buf(&mut buffer).await? > 0 {
        pass(&connection.shared).await;
        while let Some((message, work)) = messages.next(&mut buffer)? {
            if let Some(trap) = work.and_then(|work| connection.shared.taken(work)) {
                if trap.stage == Stage::Before {
                    if !hold(trap.sprung).await {
                        return Ok(());
                    }
                } else {
                    due = Some((trap.sprung, trap.stage));
                }
            }
            // A statement is whole with its Sync; a simple one is whole by itself.
            let whole = matches!(message.first(), Some(b'S' | b'Q'));
            if whole
                && let Some((sprung, Stage::Answered)) = due.take_if(|due| due.1 == Stage::Answered)
            {
                *locked(&connection.awaited) = Some(sprung);
            }
            to.write_all(&message).await?;
            if whole
                && let Some((sprung, _)) = due.take()
                && !hold(sprung).await
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn answers(
    connection: &Connection,
    mut from: unix::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            return Ok(());
        }
        let awaited = locked(&connection.awaited).take();
        if let Some(sprung) = awaited
            && !hold(sprung).await
        {
            return Ok(());
        }
        pass(&connection.shared).await;
        to.write_all(piece).await?;
    }
}

impl Shared {
    /// The trap, if it is set for this.
    fn taken(&self, work: Work) -> Option<Trap> {
        locked(&self.trap).take_if(|trap| trap.works.contains(&work))
    }
}

/// Cuts a client's bytes into messages of PostgreSQL's protocol, and remembers which prepared statement is which.
#[derive(Default)]
struct Messages {
    begun: bool,
    statements: HashMap<Bytes, Work>,
}

impl Messages {
    /// The next whole message, and what it asks for.
    fn next(&mut self, buffer: &mut BytesMut) -> anyhow::Result<Option<(Bytes, Option<Work>)>> {
        // The very first message has no letter before its length.
        let letter = usize::from(self.begun);
        let Some(mut length) = buffer.get(letter..letter + 4) else {
            return Ok(None);
        };
        let length = usize::try_from(length.get_u32())? + letter;
        if buffer.len() < length {
            return Ok(None);
        }
        let message = buffer.split_to(length).freeze();
        let work = if self.begun {
            self.read(&message)
        } else {
            None
        };
        self.begun = true;
        Ok(Some((message, work)))
    }

    fn read(&mut self, message: &Bytes) -> Option<Work> {
        let mut words = message.get(5..)?.split(|byte| *byte == 0);
        match message.first()? {
            b'P' => {
                let (name, text) = (words.next()?, words.next()?);
                if let Some(work) = meant(text) {
                    self.statements.insert(Bytes::copy_from_slice(name), work);
                }
                None
            }
            b'B' => {
                let (_portal, name) = (words.next()?, words.next()?);
                self.statements.get(name).copied()
            }
            b'Q' => meant(words.next()?),
            _ => None,
        }
    }
}

/// What a statement is for, by its text.
fn meant(text: &[u8]) -> Option<Work> {
    let text = std::str::from_utf8(text).ok()?;
    let meanings = [
        ("FROM ledger_append(", Work::Append),
        ("SELECT ledger_lock(", Work::Lock),
        ("INSERT INTO entitlement_views_v", Work::SaveViews),
    ];
    let known = meanings.iter().find(|(word, _)| text.contains(word));
    known
        .map(|(_, work)| *work)
        .or_else(|| (text == "COMMIT").then_some(Work::Commit))
}
