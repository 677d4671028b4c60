use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::clients::{Clients, Place};
use crate::telemetry::{OnceAMinute, metrics};
use crate::tls::{self, Certificates, HandshakeError, TlsSocket};

/// A socket that was accepted, with its place among the listener's, and among its address's. Each
/// of its requests holds it, and whoever takes the socket over.
pub struct Accepted {
    pub peer: IpAddr,
    _place: OwnedSemaphorePermit,
    _place_of_address: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    pub max_connections: usize,
    /// New sockets a second; more wait in the kernel's queue.
    pub accept_rate: u32,
    /// How long a client may take nothing of what waits for it.
    pub write_timeout: Duration,
    /// What of a request's head is read before it is given up.
    pub max_head_bytes: usize,
}

/// Who doesn't shake hands in this time, or send a request's head, isn't going to.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 100;
/// hyper reads no less.
const MIN_HEAD_BYTES: usize = 8 << 10;
/// A peer that is gone without a word is noticed by the kernel after so long.
const DEAD_PEER: Duration = Duration::from_secs(60);
/// How much of a second's sockets may come at once.
const ACCEPT_BURST: Duration = Duration::from_millis(10);

/// Serves a listener until `closing`; requests in hand are finished, and their tasks are
/// in `tasks`. With certificates it speaks TLS. `clients` are those that limits by address are for.
pub async fn serve(
    listener: TcpListener,
    certificates: Option<Arc<Certificates>>,
    routes: Router,
    limits: ListenerLimits,
    clients: Option<Arc<Clients>>,
    tasks: TaskTracker,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut pace = Pace::new(limits.accept_rate);
    let mut told = OnceAMinute::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            accepted = async { pace.next().await; listener.accept().await } => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The peer's error is its own; ours (no file descriptors) passes with time.
                if !matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
                    if told.is_due() {
                        tracing::error!(%error, "sockets can't be accepted");
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics().refused("max_connections");
            if told.is_due() {
                tracing::warn!(
                    limit = limits.max_connections,
                    "as many connections as --max-connections allows: more are refused"
                );
            }
            refuse(
                &stream,
                &certificates,
                "503 Service Unavailable",
                "as many connections are open as --max-connections allows",
            );
            continue;
        };
        let peer = peer.ip().to_canonical();
        let place_of_address = match clients.as_ref().map_or(Ok(None), |clients| clients.accept(peer)) {
            Ok(place) => place,
            Err(refusal) => {
                metrics().refused(refusal.name());
                tracing::debug!(%peer, %refusal, "a socket was refused");
                refuse(&stream, &certificates, "429 Too Many Requests", &refusal.to_string());
                continue;
            }
        };
        set_options(&stream, limits.write_timeout);
        let socket = Arc::new(Accepted { peer, _place: place, _place_of_address: place_of_address });
        let (routes, closing) = (routes.clone(), closing.clone());
        match &certificates {
            None => tasks.spawn(converse(stream, routes, socket, limits.max_head_bytes, closing)),
            Some(certificates) => {
                let handshake = tls::accept(stream, certificates.acceptor());
                tasks.spawn(converse_over_tls(handshake, routes, socket, limits.max_head_bytes, closing))
            }
        };
    }
}

async fn converse_over_tls(
    handshake: impl Future<Output = Result<TlsSocket, HandshakeError>>,
    routes: Router,
    socket: Arc<Accepted>,
    max_head_bytes: usize,
    closing: CancellationToken,
) {
    let handshake = timeout(HEAD_TIMEOUT, handshake);
    let Some(shaken) = closing.run_until_cancelled(handshake).await else { return };
    match shaken.unwrap_or(Err(HandshakeError::TooLong)) {
        Ok(stream) => converse(stream, routes, socket, max_head_bytes, closing).await,
        Err(error) => {
            metrics().handshake_failed(error.reason());
            tracing::debug!(%error, "a TLS handshake failed");
        }
    }
}

/// HTTP on one socket. An upgrade takes the socket along.
async fn converse<Io>(
    stream: Io,
    routes: Router,
    socket: Arc<Accepted>,
    max_head_bytes: usize,
    closing: CancellationToken,
) where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(socket.clone());
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(max_head_bytes.max(MIN_HEAD_BYTES))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Whoever says nothing, or one byte a second, is as much a part of what goes wrong
        // as who says nonsense.
        if error.is_timeout() {
            metrics().refused("head_timeout");
        } else if error.is_parse_too_large() {
            metrics().refused("max_header_bytes");
        } else if error.is_parse() {
            metrics().refused("malformed_head");
        }
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

/// Without a task, since there is no room for one more: what fits into a fresh socket's
/// buffer is written at once.
fn refuse(stream: &TcpStream, certificates: &Option<Arc<Certificates>>, status: &str, reason: &str) {
    // A client that expects TLS would take the answer for a broken one.
    if certificates.is_some() {
        return;
    }
    let head =
        format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: text/plain");
    let _ =
        stream.try_write(format!("{head}\r\nContent-Length: {}\r\n\r\n{reason}", reason.len()).as_bytes());
}

fn set_options(stream: &TcpStream, write_timeout: Duration) {
    let socket = SockRef::from(stream);
    // A message is small and wants to leave now.
    let _ = socket.set_tcp_nodelay(true);
    let _ =
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(DEAD_PEER / 2).with_interval(DEAD_PEER / 6));
    #[cfg(target_os = "linux")]
    // Who is alive and takes nothing is dead to the kernel as well, and has as long as the setting says.
    let _ = socket.set_tcp_user_timeout(Some(DEAD_PEER.max(write_timeout)));
}

/// Lets so many through a second, a few of them at once.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second, next: Instant::now() }
    }

    async fn next(&mut self) {
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(ACCEPT_BURST).unwrap_or(now));
        sleep_until(self.next).await;
        self.next += self.interval;
    }
}
