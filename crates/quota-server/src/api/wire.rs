//! A client's socket, with the time limits of reading a request.
//!
//! While a request is being read, 10 s without a byte end it with 408; hyper's own limit would close the connection
//! without a word, and does not cover bodies. No answer has begun then, so it can be written past hyper. Nor has one where
//! hyper itself refuses a head that it cannot read: its bare status becomes a problem here.
//!
//! A client that takes nothing of its answer for 20 s is cut off, and where places are few, so is one that is silent between
//! two requests, or that takes long to send one: others want its place.

use crate::api::problem::Problem;
use axum::http::StatusCode;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// The longest silence within a request.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest silence between requests.
const IDLE: Duration = Duration::from_secs(75);
/// The same while few places are left.
const CROWDED_IDLE: Duration = Duration::from_secs(2);
/// How long a request may take to be sent while few places are left: whoever sends a byte now and then is never silent.
const CROWDED_REQUEST: Duration = Duration::from_secs(20);
/// How long a client may take nothing of an answer that waits.
const UNREAD: Duration = Duration::from_secs(20);
/// How long, and how many bytes, a connection that we ended is still read: what lies unread in the socket when it is
/// closed would take the answer away from its reader.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_MAX: usize = 1024 * 1024;

/// Where a connection stands between two requests; its handler and its socket tell each other.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<AtomicU8>);

/// The client's turn: it sends a request.
const READING: u8 = 0;
/// Our turn: a whole request is being answered.
const ANSWERING: u8 = 1;
/// The answer is made, and on its way.
const ANSWERED: u8 = 2;

impl Stage {
    /// The request has been read to its end.
    pub fn answering(&self) {
        self.0.store(ANSWERING, Ordering::Release);
    }

    /// The answer is made.
    pub fn answered(&self) {
        self.0.store(ANSWERED, Ordering::Release);
    }

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Acquire) == stage
    }
}

/// The places that connections have.
#[derive(Clone, Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    all: usize,
}

impl Places {
    /// So many.
    pub fn new(all: usize) -> Self {
        let free = Arc::new(Semaphore::new(all));
        Self { free, all }
    }

    /// Waits for one.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Takes one that is free.
    pub fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Whether fewer than a quarter are left.
    fn are_few(&self) -> bool {
        self.free.available_permits() < self.all.div_ceil(4)
    }
}

/// A client's socket.
pub struct Wire {
    socket: TcpStream,
    stage: Stage,
    places: Places,
    /// Since when the client takes nothing of what waits for it.
    unread: Option<Instant>,
    /// Since when the connection is ended, and the bytes that came since.
    ended: Option<(Instant, usize)>,
    /// When the first of a request was read.
    begun: Option<Instant>,
    /// The client was told that time ran out: nothing may follow that answer.
    cut: bool,
    /// When something was last read or written.
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Wire {
    /// A socket that was just accepted.
    pub fn new(socket: TcpStream, stage: Stage, places: Places) -> Self {
        Self {
            socket,
            stage,
            places,
            unread: None,
            ended: None,
            begun: None,
            cut: false,
            last: Instant::now(),
            alarm: Box::pin(sleep(CROWDED_IDLE)),
        }
    }

    /// Ends the connection when it was silent for too long, or holds a place that others want. Called with nothing to read.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.stage.is(READING) {
            // The alarm is not moved at every byte: it rings when a limit may be over, and is then set anew.
            ready!(self.alarm.as_mut().poll(cx));
            let crowded = self.places.are_few();
            let limit = match (self.begun, crowded) {
                (Some(_), _) => SILENCE,
                (None, true) => CROWDED_IDLE,
                (None, false) => IDLE,
            };
            let slow = |begun: Instant| crowded && begun.elapsed() >= CROWDED_REQUEST;
            let slow = self.begun.is_some_and(slow);
            if slow || self.last.elapsed() >= limit {
                if self.begun.is_some() {
                    let detail = if slow {
                        "this request takes longer than 20 seconds to be sent, and others wait for its place"
                    } else {
                        "no byte of this request came for 10 seconds"
                    };
                    self.say(&Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "request_timeout",
                        detail,
                    ));
                    self.cut = true;
                }
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let next = (self.last + limit).min(Instant::now() + CROWDED_IDLE);
            self.alarm.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Ends the connection when its client takes nothing for too long. Called with no room to write.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.unread.get_or_insert_with(Instant::now);
        loop {
            self.alarm.as_mut().reset(since + UNREAD);
            ready!(self.alarm.as_mut().poll(cx));
            if since.elapsed() >= UNREAD {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Takes in how much was written, or how long nothing was.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(written) => {
                self.unread = None;
                self.last = Instant::now();
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_unread(cx).map(Err),
        }
    }

    /// Answers past hyper, and for good.
    fn say(&self, problem: &Problem) {
        let body = problem.to_bytes();
        let mut answer = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            problem.status(),
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&body);
        // Its buffer is empty; a client who does not even take this is not told.
        self.socket.try_write(&answer).unwrap_or_default();
    }

    /// The problem behind a bare status with which hyper refuses a head; none where this is anything else.
    fn refusal(&self, answer: &[u8]) -> Option<Problem> {
        let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        if !self.stage.is(READING) {
            return None;
        }
        match status {
            b"400" => Some(Problem::malformed("this is no HTTP request")),
            b"414" => {
                let detail = "the request's target is too long";
                Some(Problem::new(
                    StatusCode::URI_TOO_LONG,
                    "uri_too_long",
                    detail,
                ))
            }
            b"431" => {
                let detail = "the request's head is too long, or has too many headers";
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                Some(Problem::new(status, "headers_too_large", detail))
            }
            _ => None,
        }
    }

    /// Reads what still comes, and drops it, until the client has ended too or was given its time.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (since, mut taken) = self.ended.unwrap_or((Instant::now(), 0));
        let mut scrap = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && taken < FAREWELL_MAX => {
                    taken += buf.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.ended = Some((since, taken));
        self.alarm.as_mut().reset(since + FAREWELL);
        self.alarm.as_mut().poll(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                if buf.filled().len() > before {
                    self.begun.get_or_insert_with(Instant::now);
                    self.last = Instant::now();
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => self.poll_silence(cx).map(Err),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(problem) = self.refusal(buf) {
            self.say(&problem);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if let Some(problem) = bufs.first().and_then(|buf| self.refusal(buf)) {
            self.say(&problem);
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        if self.stage.is(ANSWERED) {
            self.stage.0.store(READING, Ordering::Release);
            self.begun = None;
            // The next request may never come, and nobody else asks for it before then.
            if let Poll::Ready(error) = self.poll_silence(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        }
        self.poll_farewell(cx).map(Ok)
    }
}
