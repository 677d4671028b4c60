//! The two listeners, and what each path of theirs answers.
//!
//! The public one is for browsers: the WebSocket, health. The internal one is for workers and
//! operators: publishing, metrics. Both look at the Host header first, so that no page
//! elsewhere reaches a loopback address by a name of its own (DNS rebinding).

mod broadcast;
mod cable;
mod hosts;
mod listener;
mod origins;
mod problem;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

pub use hosts::Hosts;
pub use listener::{ListenerLimits, serve};
pub use origins::Origins;

use crate::bus::{Publisher, Status, StatusHandle};
use crate::connection::Context;
use crate::stream::Prefix;
use crate::telemetry::metrics;
use problem::Problem;

/// What the listeners take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sockets of a listener; none: as many as there are file descriptors for.
    pub max_connections: Option<usize>,
    /// New sockets a second on the public listener.
    pub accept_rate: u32,
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
    pub hosts: Hosts,
    pub publish_key: Option<SecretString>,
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
    let mut routes = pages.route(&app.path, any(cable::upgrade));
    if app.public_publish {
        routes = routes.route("/broadcast", broadcast::route());
    }
    finish(routes, app, is_loopback)
}

/// The internal listener's routes.
pub fn internal(app: &Arc<App>, is_loopback: bool) -> Router {
    let routes = Router::new().route("/broadcast", broadcast::route()).route("/metrics", get(render_metrics));
    let routes = routes.layer(middleware::from_fn(refuse_other_sites));
    finish(routes, app, is_loopback)
}

fn finish(routes: Router<Arc<App>>, app: &Arc<App>, is_loopback: bool) -> Router {
    let hosts = app.clone();
    routes
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let hosts = hosts.clone();
            async move {
                match hosts.hosts.check(request.headers(), request.uri(), is_loopback) {
                    Ok(()) => next.run(request).await,
                    Err(foreign) => {
                        metrics().refused("host");
                        Problem::new(StatusCode::MISDIRECTED_REQUEST, foreign.to_string()).into_response()
                    }
                }
            }
        }))
        .with_state(app.clone())
}

/// A page of another site has no business here, whatever it may do elsewhere.
async fn refuse_other_sites(request: Request, next: Next) -> Response {
    if origins::is_cross_site(request.headers()) {
        metrics().refused("cross_site");
        let detail =
            "this listener is for workers and operators; it takes no requests from pages of other sites";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    next.run(request).await
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    let reason = match app.status.get() {
        _ if app.is_draining() => "the server is shutting down".into(),
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
