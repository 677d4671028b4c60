//! The two listeners, and what each path of theirs answers.
//!
//! The public one is for browsers: the WebSocket, event streams, health. The internal one is for workers and
//! operators: publishing, metrics. Both look at a request's size and its Host header first, so that
//! no page elsewhere reaches a loopback address by a name of its own (DNS rebinding).

mod asked;
mod broadcast;
mod cable;
mod clients;
mod cors;
mod disconnect;
mod events;
mod history;
mod hosts;
mod keys;
mod listener;
mod origins;
mod problem;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;

pub use clients::{ClientLimits, Clients, Proxies};
pub use hosts::Hosts;
pub use keys::{PublishKey, PublishKeys, Scope};
pub use listener::{ListenerLimits, serve};
pub use origins::{Origins, matches_by_label};

use crate::bus::{Publisher, Status, StatusHandle};
use crate::connection::Context;
use crate::identity::Identification;
use crate::stream::Prefix;
use crate::telemetry::metrics;
use history::Asker;
use listener::Accepted;
use problem::Problem;

/// What the listeners take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sockets of a listener; none: as many as there are file descriptors for.
    pub max_connections: Option<usize>,
    /// New sockets a second on the public listener.
    pub accept_rate: u32,
    pub clients: ClientLimits,
    /// All header fields of a request, their names included.
    pub max_header_bytes: usize,
    pub max_query_bytes: usize,
    pub max_broadcast_bytes: usize,
    pub max_broadcast_messages: usize,
    pub max_payload_bytes: usize,
}

/// What the handlers share.
pub struct App {
    pub context: Arc<Context>,
    pub publisher: Publisher,
    pub prefix: Prefix,
    pub status: StatusHandle,
    /// The server was told to stop: nothing new is taken.
    pub draining: AtomicBool,
    /// The WebSocket connections, so that the server can wait for their end.
    pub sockets: TaskTracker,
    pub prometheus: PrometheusHandle,
    pub path: String,
    pub origins: Origins,
    pub identification: Identification,
    pub hosts: Hosts,
    /// Those of the public listener.
    pub clients: Arc<Clients>,
    /// Without one publishing is open on the internal listener.
    pub publish_keys: PublishKeys,
    pub public_publish: bool,
    pub compression: bool,
    pub limits: Limits,
}

impl App {
    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// The public listener's routes. `pages` are more of them, such as the demo's.
pub fn public(app: &Arc<App>, pages: Router<Arc<App>>, is_loopback: bool) -> Router {
    let mut routes = pages
        .route(&app.path, any(cable::upgrade))
        .route("/events", any(events::events))
        .route("/position", history::position(Asker::Page))
        .route("/history", history::history(Asker::Page));
    if app.public_publish {
        routes = writing(routes);
    }
    finish(routes, app, Listener { is_public: true, is_loopback })
}

/// The internal listener's routes.
pub fn internal(app: &Arc<App>, is_loopback: bool) -> Router {
    let routes = writing(Router::new())
        .route("/position", history::position(Asker::Worker))
        .route("/history", history::history(Asker::Worker))
        .route("/metrics", get(render_metrics));
    finish(routes, app, Listener { is_public: false, is_loopback })
}

/// What writes into the table.
fn writing(routes: Router<Arc<App>>) -> Router<Arc<App>> {
    routes
        .route("/broadcast", write::route(broadcast::parse))
        .route("/disconnect", write::route(disconnect::parse))
}

#[derive(Debug, Clone, Copy)]
struct Listener {
    is_public: bool,
    is_loopback: bool,
}

fn finish(routes: Router<Arc<App>>, app: &Arc<App>, listener: Listener) -> Router {
    let admitting = app.clone();
    routes
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(move |State(app)| async move { ready(app, listener) }))
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let app = admitting.clone();
            async move {
                match admit(&app, listener, &request) {
                    Ok(()) => next.run(request).await,
                    Err((reason, problem)) => {
                        metrics().refused(reason);
                        tracing::debug!(reason, ?problem, "a request was refused");
                        problem.into_response()
                    }
                }
            }
        }))
        .with_state(app.clone())
}

/// What each request has to get past, or the word for what it doesn't.
fn admit(app: &App, listener: Listener, request: &Request) -> Result<(), (&'static str, Problem)> {
    let (headers, uri) = (request.headers(), request.uri());
    let Limits { max_header_bytes, max_query_bytes, .. } = app.limits;
    if uri.query().is_some_and(|query| query.len() > max_query_bytes) {
        let detail = format!("the query is larger than {max_query_bytes} bytes (--max-query-bytes)");
        return Err(("max_query_bytes", Problem::new(StatusCode::URI_TOO_LONG, detail)));
    }
    if headers.iter().map(header_bytes).sum::<usize>() > max_header_bytes {
        let detail = format!("the headers are larger than {max_header_bytes} bytes (--max-header-bytes)");
        return Err(("max_header_bytes", Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail)));
    }
    // The internal listener believes nobody's word for whom they ask.
    let forwarded_host = match request.extensions().get::<Arc<Accepted>>() {
        Some(socket) if listener.is_public => app.clients.forwarded_host(socket.peer, headers),
        _ => None,
    };
    if let Err(foreign) = app.hosts.check(headers, uri, forwarded_host, listener.is_loopback) {
        return Err(("host", Problem::new(StatusCode::MISDIRECTED_REQUEST, foreign.to_string())));
    }
    // A page of another site has no business there, whatever it may do elsewhere.
    if !listener.is_public && origins::is_cross_site(headers) {
        let detail =
            "this listener is for workers and operators; it takes no requests from pages of other sites";
        return Err(("cross_site", Problem::new(StatusCode::FORBIDDEN, detail)));
    }
    Ok(())
}

/// As on the wire: `name: value`, and the end of the line.
fn header_bytes((name, value): (&HeaderName, &HeaderValue)) -> usize {
    name.as_str().len() + value.len() + 4
}

fn ready(app: Arc<App>, listener: Listener) -> Response {
    let reason = match app.status.get() {
        _ if app.is_draining() => "the server is shutting down".into(),
        // What a database says of itself is not for everybody.
        Status::Away(_) if listener.is_public => "the tail lost the database".into(),
        Status::Away(reason) => format!("the tail lost the database: {reason}"),
        Status::Following => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn render_metrics(State(app): State<Arc<App>>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, app.prometheus.render()).into_response()
}

/// Rails' answer, to the byte, to whatever isn't a WebSocket it wants.
fn not_found() -> Response {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    (StatusCode::NOT_FOUND, headers, "Page not found").into_response()
}
