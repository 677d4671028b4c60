//! A server's life: bind, serve, drain.

mod threads;

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tablecast_protocol::DisconnectReason;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::{Bus, Info, Log, SetupError, Tail};
use crate::config::Config;
use crate::connection::{Connections, Context, History};
use crate::http::{self, App, Clients, ListenerLimits};
use crate::hub::{self, Hub, Notice};
use crate::identity::Identification;
use crate::identity::lookup::{Ended, Lookup, recheck};
use crate::tls::{Certificates, PairError};
use threads::ClientThreads;

/// Bound to its addresses and its table, and not yet serving.
pub struct Server {
    public: TcpListener,
    internal: TcpListener,
    certificates: Option<Arc<Certificates>>,
    limits: ListenerLimits,
    app: Arc<App>,
    pages: Router<Arc<App>>,
    tail: Tail,
    writer: JoinHandle<()>,
    clients: ClientThreads,
    info: Info,
    drain_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bus(#[from] SetupError),
    #[error(transparent)]
    Tls(#[from] PairError),
    #[error("{flag} {address}: {error}")]
    Listen { flag: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("threads for clients can't be started: {0}")]
    Threads(std::io::Error),
}

/// A part of the server has ended that never should.
#[derive(Debug, thiserror::Error)]
#[error("a fault in tablecast ended the server, please report it: {0}")]
pub struct Fault(String);

/// Descriptors that aren't clients': listeners, the database, workers' own connections.
const RESERVED_DESCRIPTORS: u64 = 128;
/// Of a request's head, beside its query and its headers.
const REQUEST_LINE_BYTES: usize = 1 << 10;
/// What the kernel queues before we accept.
const BACKLOG: u32 = 4096;
/// Of the drain time, for the clients' words; the rest is for their answers.
const DRAIN_SHARE: f64 = 0.8;
/// As Rails generates it.
const SOLID_CABLE_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// For what is in hand when the drain time is over.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

impl Server {
    /// `pages` are more routes for the public listener.
    pub async fn bind(
        config: Config,
        pages: Router<Arc<App>>,
        prometheus: PrometheusHandle,
    ) -> Result<Self, StartError> {
        let certificates = config.tls.map(Certificates::load).transpose()?.map(Arc::new);
        let public = listen("--listen", config.listen)?;
        let internal = listen("--internal-listen", config.internal_listen)?;
        let clients = ClientThreads::start().map_err(StartError::Threads)?;
        let limits = ListenerLimits {
            max_connections: max_connections(config.http.max_connections),
            accept_rate: config.http.accept_rate,
            write_timeout: config.connection.write_timeout,
            max_head_bytes: [config.http.max_query_bytes, REQUEST_LINE_BYTES]
                .into_iter()
                .fold(config.http.max_header_bytes, usize::saturating_add),
        };
        let prefix = config.bus.prefix.clone();
        let Bus { tail, log, publisher, writer, status, info } = Bus::open(&config.bus).await?;
        let window = config.replay.window.unwrap_or_else(|| resume_window(config.bus.retention, &info));
        let app = App {
            context: Arc::new(Context {
                hub: Arc::new(Hub::new(config.replay.memory_bytes)),
                history: History { log, window, max_messages: config.replay.max_messages },
                channels: Arc::new(config.channels),
                connections: Arc::default(),
                limits: config.connection,
            }),
            publisher,
            prefix,
            status,
            draining: AtomicBool::new(false),
            sockets: TaskTracker::new(),
            prometheus,
            path: config.path,
            origins: config.allowed_origins,
            identification: Identification::new(config.identification),
            hosts: config.allowed_hosts,
            publish_keys: config.publish_keys,
            clients: Arc::new(Clients::new(config.trusted_proxies, config.http.clients)),
            public_publish: config.public_publish,
            compression: config.compression,
            limits: config.http,
        };
        let drain_timeout = config.drain_timeout;
        Ok(Self {
            public,
            internal,
            certificates,
            limits,
            app: Arc::new(app),
            pages,
            tail,
            writer,
            clients,
            info,
            drain_timeout,
        })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn public_address(&self) -> SocketAddr {
        self.public.local_addr().expect("it is bound")
    }

    pub fn internal_address(&self) -> SocketAddr {
        self.internal.local_addr().expect("it is bound")
    }

    /// What the public listener speaks TLS with.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Where, which database and prefix, and what is open: a line each.
    pub fn describe(&self) -> [String; 3] {
        let (app, info) = (&self.app, &self.info);
        let plain = if info.default_prefix == app.prefix {
            String::new()
        } else {
            format!("; a plain INSERT goes to {}, which this server doesn't serve", info.default_prefix)
        };
        let (ws, http) = if self.certificates.is_some() { ("wss", "https") } else { ("ws", "http") };
        let channels = app.context.channels.describe();
        let nothing = match channels.is_nothing() {
            true => Some("no stream (no [[channel]], --public-channel or --public-streams)"),
            false if channels.everybody.is_empty() => Some("no stream"),
            false => None,
        };
        let mut open: Vec<_> = nothing.map(str::to_owned).into_iter().chain(channels.everybody).collect();
        if app.publish_keys.is_empty() {
            open.push(format!("publishing at {} without a key", self.internal_address()));
        }
        if app.public_publish {
            open.push(format!("publishing at {http}://{} {}", self.public_address(), app.publish_keys));
        }
        if app.origins.is_any() {
            open.push("pages of every origin".into());
        }
        let others = [("with a signed name", channels.signed), ("to who is identified", channels.identified)];
        let others = others.into_iter().filter(|(_, what)| !what.is_empty());
        let others: String = others.map(|(how, what)| format!("; {how}: {}", what.join(", "))).collect();
        [
            format!(
                "listening on {ws}://{}{}, for workers and operators on http://{}, {} connections at most",
                self.public_address(),
                app.path,
                self.internal_address(),
                self.limits.max_connections
            ),
            format!("{}, table {}, {}{plain}", info.database, info.table, app.prefix),
            format!("open to everybody: {}{others}", open.join(", ")),
        ]
    }

    /// Serves until `shutdown` resolves, and then says goodbye: nothing new is taken, clients
    /// are asked to reconnect, publishes in hand are committed and answered, and the
    /// listeners close last.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Fault> {
        let Self {
            public,
            internal,
            certificates,
            limits,
            app,
            pages,
            tail,
            writer,
            clients: client_threads,
            drain_timeout,
            ..
        } = self;
        if app.prefix.is_none() && !self.info.foreign_prefixes.is_empty() {
            tracing::warn!(
                prefixes = self.info.foreign_prefixes.join(", "),
                "this server has no --channel-prefix and reads and can write the rows of prefixes that others serve"
            );
        }
        let connections = app.context.connections.clone();
        let mut background = JoinSet::new();
        background.spawn(follow(tail, app.context.clone()));
        background.spawn(recall(app.context.hub.clone(), app.context.history.log.clone()));
        let write_timeout = app.context.limits.write_timeout;
        let log = app.context.history.log.clone();
        let (hub, status) = (app.context.hub.clone(), app.status.clone());
        background.spawn(connections.clone().beat(hub, log, status, write_timeout));
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..cores {
            let hub = app.context.hub.clone();
            background.spawn(async move { hub.writers.write().await });
        }
        background.spawn(upkeep(app.prometheus.clone()));
        if let Some(tokens) = app.identification.tokens() {
            background.spawn(tokens.follow());
        }
        if let Some(lookup) = app.identification.lookup()
            && let Some(every) = lookup.recheck_interval()
        {
            background.spawn(recheck_sessions(lookup, every, connections.clone()));
        }
        if let Some(certificates) = &certificates {
            background.spawn(certificates.clone().follow());
        }
        let (closing, requests) = (CancellationToken::new(), TaskTracker::new());
        for (listener, certificates, is_public) in [(public, certificates, true), (internal, None, false)] {
            let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
            let routes = if is_public {
                http::public(&app, pages.clone(), is_loopback)
            } else {
                http::internal(&app, is_loopback)
            };
            let tasks = requests.clone();
            let clients = is_public.then(|| app.clients.clone());
            let serving =
                http::serve(listener, certificates, routes, limits, clients, tasks, closing.clone());
            if is_public {
                requests.spawn_on(serving, client_threads.handle());
            } else {
                requests.spawn(serving);
            }
        }

        // None of these ends by itself; a server without one of them would look well and be deaf.
        let mut fault = None;
        tokio::select! {
            () = shutdown => {}
            ended = background.join_next() => fault = Some(Fault(format!("{ended:?}"))),
        }
        let deadline = Instant::now() + drain_timeout;
        tracing::info!(?drain_timeout, "shutting down");
        app.draining.store(true, Ordering::Release);
        connections.drain(drain_timeout.mul_f64(DRAIN_SHARE)).await;
        app.sockets.close();
        if timeout_at(deadline, app.sockets.wait()).await.is_err() {
            tracing::warn!(clients = app.sockets.len(), "some clients did not close in time");
        }
        // What was accepted is committed and answered, then nobody can ask any more.
        app.publisher.close();
        let last_moments = deadline.max(Instant::now()) + LAST_MOMENTS;
        if timeout_at(last_moments, writer).await.is_err() {
            tracing::error!("the database did not take the last publishes; they were not answered");
        }
        closing.cancel();
        requests.close();
        let _ = timeout(LAST_MOMENTS, requests.wait()).await;
        background.shutdown().await;
        tracing::info!("stopped");
        fault.map_or(Ok(()), Err)
    }
}

/// How old a position may be where nobody has said so: what is younger hasn't been trimmed by us, nor by a
/// Rails that made the table.
fn resume_window(retention: Option<Duration>, info: &Info) -> Option<Duration> {
    let rails = (!info.owns_table).then_some(SOLID_CABLE_RETENTION);
    let shortest = retention.into_iter().chain(rails).min()?;
    Some(shortest.saturating_sub(Duration::from_secs(60)))
}

async fn recall(hub: Arc<Hub>, log: Log) {
    hub::recall(hub, log).await;
    // The tail has ended, and with it the server.
    std::future::pending().await
}

async fn follow(tail: Tail, context: Arc<Context>) {
    // A few pieces fill an outbox.
    let piece_bytes = context.limits.send_buffer_bytes / 4;
    hub::follow(tail, context.hub.clone(), piece_bytes, |notice| match notice {
        Notice::NewHistory => {
            context.connections.disconnect_all(DisconnectReason::NewHistory);
            tracing::warn!("the table's history is another one: all clients are asked to reconnect");
        }
        Notice::Disconnect { name, reconnect } => {
            context.connections.disconnect(name, DisconnectReason::Remote { reconnect });
        }
    })
    .await;
}

/// Ends the connections whose sessions have ended.
async fn recheck_sessions(lookup: Lookup, every: Duration, connections: Arc<Connections>) {
    let also = connections.clone();
    let open = move || also.sessions();
    let ended = move |others: &Ended| connections.sessions_ended(others);
    recheck(lookup, every, open, ended).await;
}

/// The recorder's own housekeeping, which it leaves to us.
async fn upkeep(prometheus: PrometheusHandle) {
    let mut ticks = interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        prometheus.run_upkeep();
    }
}

/// As many as asked for, or as there are file descriptors for, of which it takes all that it may.
fn max_connections(asked: Option<usize>) -> usize {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(16) as usize;
    if let Some(asked) = asked.filter(|asked| *asked > room) {
        tracing::warn!(
            descriptors,
            "--max-connections {asked} is more than the limit of file descriptors allows: it is {room}"
        );
    }
    asked.map_or(room, |asked| asked.min(room))
}

fn listen(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restarted server finds its port again at once.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| StartError::Listen { flag, address, error })
}

#[cfg(test)]
mod tests;
