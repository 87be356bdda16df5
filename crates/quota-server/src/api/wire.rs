//! A client's socket, with the time limits of reading a request.
//!
//! While a request is being read, 10 s without a byte end it with 408; hyper's own limit would close the connection
//! without a word, and does not cover bodies. No answer has begun then, so it can be written past hyper.

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
use tokio::time::{Instant, Sleep, sleep};

/// The longest silence within a request.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest silence between requests.
const IDLE: Duration = Duration::from_secs(75);

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

/// A client's socket.
pub struct Wire {
    socket: TcpStream,
    stage: Stage,
    /// Some of a request has been read.
    begun: bool,
    /// The client was told that time ran out: nothing may follow that answer.
    cut: bool,
    /// When something was last read or written.
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Wire {
    /// A socket that was just accepted.
    pub fn new(socket: TcpStream, stage: Stage) -> Self {
        Self {
            socket,
            stage,
            begun: false,
            cut: false,
            last: Instant::now(),
            alarm: Box::pin(sleep(SILENCE)),
        }
    }

    /// Ends the connection when it was silent for too long. Called with nothing to read.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.stage.is(READING) {
            // The alarm is not moved at every byte: it rings when a limit may be over, and is then set anew.
            ready!(self.alarm.as_mut().poll(cx));
            let limit = if self.begun { SILENCE } else { IDLE };
            if self.last.elapsed() >= limit {
                if self.begun {
                    self.say_timeout();
                    self.cut = true;
                }
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let next = (self.last + limit).min(Instant::now() + SILENCE);
            self.alarm.as_mut().reset(next);
        }
        Poll::Pending
    }

    fn say_timeout(&self) {
        let detail = "no byte of this request came for 10 seconds";
        let problem =
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).to_bytes();
        let mut answer = format!(
            "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            problem.len()
        )
        .into_bytes();
        answer.extend_from_slice(&problem);
        // Its buffer is empty; a client who does not even take this is not told.
        self.socket.try_write(&answer).unwrap_or_default();
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
                    self.begun = true;
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
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf));
        self.last = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs));
        self.last = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
        if self.stage.is(ANSWERED) {
            self.stage.0.store(READING, Ordering::Release);
            self.begun = false;
            // The next request may never come, and nobody else asks for it before then.
            if let Poll::Ready(error) = self.poll_silence(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
