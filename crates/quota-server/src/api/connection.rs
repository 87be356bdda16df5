//! Connections: accepted, read, answered one request after another, and drained when the service stops.

use crate::api::problem::Problem;
use crate::api::wire::{Places, Stage, Wire};
use crate::api::{Peer, Shared, router};
use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, EXPECT};
use axum::http::{HeaderValue, Request, Response};
use axum::response::IntoResponse as _;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

/// The largest body of a request.
pub const BODY_MAX: usize = 1024 * 1024;
/// The largest head of a request, and so what a connection may make this process hold: a URI of 64 KiB fits, and a token.
const HEAD_MAX: usize = 128 * 1024;
/// How much of a body that is too large is still taken, so that its sender gets to read the answer.
const DISCARD_MAX: usize = 16 * 1024 * 1024;
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;
/// The most connections that are served at once.
const PLACES_MAX: usize = 16_384;
/// How long a stopping service goes on with the connections it has, before it closes those that are silent.
const LINGER: Duration = Duration::from_millis(250);
/// How long it waits for the requests that it is answering.
const DRAIN: Duration = Duration::from_secs(30);

/// A listening socket, not yet served.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on an address. Clients can connect from now on; they are answered by [`Server::run`].
    ///
    /// # Errors
    /// The address is taken, or not this machine's.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let listen = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            std::io::Result::Ok(Self { listener, address })
        };
        listen().with_context(|| {
            format!(
                "cannot listen on {address} (choose another with --listen; port 0 takes a free one)"
            )
        })
    }

    /// The address, with the port that was chosen where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, and then until every request that got in is answered.
    pub async fn run(self, app: Shared, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let closing = CancellationToken::new();
        let router = router(app.clone());
        let places = Places::new(places());
        let accept = |(socket, peer), place| {
            let wire = (socket, places.clone());
            let connection = serve(wire, peer, router.clone(), app.clone(), closing.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
        };
        loop {
            // Whoever finds no place waits in the kernel's queue.
            let accepted = async { (places.take().await, self.listener.accept().await) };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                (place, accepted) = accepted => match accepted {
                    Ok(accepted) => accept(accepted, place),
                    Err(error) => {
                        // Out of files, or a client that is gone already.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        }
        app.drain();
        // Whoever has connected before now gets in still.
        while let Some(place) = places.try_take()
            && let Some(Ok(accepted)) = self.listener.accept().now_or_never()
        {
            accept(accepted, Some(place));
        }
        drop(self.listener);
        connections.close();
        tokio::time::timeout(LINGER, connections.wait())
            .await
            .unwrap_or_default();
        closing.cancel();
        if tokio::time::timeout(DRAIN, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = connections.len(),
                "stopping with requests unanswered"
            );
        }
    }
}

/// How many connections are served at once: of the files that this process may open, some are left for its own work.
fn places() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(files, _)| files);
    usize::try_from(files / 4 * 3).map_or(PLACES_MAX, |places| places.clamp(1, PLACES_MAX))
}

/// Serves one connection.
async fn serve(
    (socket, places): (TcpStream, Places),
    peer: SocketAddr,
    router: Router,
    app: Shared,
    closing: CancellationToken,
) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let stage = Stage::default();
    let wire = TokioIo::new(Wire::new(socket, stage.clone(), places));
    let service = service_fn(|request| answer(request, router.clone(), &app, peer, &stage));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(wire, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// Answers one request.
async fn answer(
    request: Request<Incoming>,
    mut router: Router,
    app: &Shared,
    peer: SocketAddr,
    stage: &Stage,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    let wants_continue = head.headers.contains_key(EXPECT);
    let line =
        tracing::enabled!(tracing::Level::DEBUG).then(|| (head.method.clone(), head.uri.clone()));
    let read = if body.is_end_stream() {
        Ok(Bytes::new())
    } else {
        read(body, wants_continue).await
    };
    stage.answering();
    let mut response = match read {
        Ok(body) => {
            head.extensions.insert(Peer(peer.ip()));
            let body = if body.is_empty() {
                Body::empty()
            } else {
                Body::from(body)
            };
            // A panic is a fault of ours in one request; the others go on.
            match AssertUnwindSafe(router.call(Request::from_parts(head, body)))
                .catch_unwind()
                .await
            {
                Ok(Ok(response)) => response,
                Err(_) => {
                    tracing::error!("a request panicked");
                    Problem::internal().into_response()
                }
            }
        }
        Err(problem) => problem.into_response(),
    };
    if app.draining() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some((method, uri)) = line {
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(%method, path = uri.path(), status = response.status().as_u16(), micros, "request");
    }
    stage.answered();
    Ok(response)
}

/// Reads a body to its end.
async fn read(body: Incoming, wants_continue: bool) -> Result<Bytes, Problem> {
    let announced = body.size_hint().lower();
    let too_large = announced > BODY_MAX as u64;
    if too_large && wants_continue {
        // It has not been sent yet, and need not be.
        return Err(Problem::too_large(BODY_MAX));
    }
    let mut body = body;
    if !too_large {
        match Limited::new(&mut body, BODY_MAX).collect().await {
            Ok(whole) => return Ok(whole.to_bytes()),
            Err(error) if !error.is::<LengthLimitError>() => {
                return Err(Problem::malformed(format!("the body broke off: {error}")));
            }
            Err(_) => {}
        }
    }
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_MAX {
            break;
        }
    }
    Err(Problem::too_large(BODY_MAX))
}
