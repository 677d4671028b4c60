//! Pages of other origins, where the operator has let them in.

use axum::http::StatusCode;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use axum::response::Response;

use super::App;
use super::listener::Accepted;
use super::origins::is_cross_site;
use super::problem::Problem;
use crate::telemetry::metrics;

/// What a page of this origin may see.
#[derive(Debug)]
pub struct Allowed {
    origin: Option<HeaderValue>,
    any: bool,
}

/// As for a WebSocket, but that a page of the same origin needn't say so: a browser names none in its GET.
pub fn allow(app: &App, socket: &Accepted, headers: &HeaderMap) -> Result<Allowed, Problem> {
    let origin = headers.get(ORIGIN).cloned();
    let is_allowed = match &origin {
        Some(_) => app.origins.allows(headers, app.clients.forwarded_host(socket.peer, headers)),
        None => app.origins.is_any() || !is_cross_site(headers),
    };
    if is_allowed {
        return Ok(Allowed { origin, any: app.origins.is_any() });
    }
    metrics().refused("origin");
    tracing::debug!(?origin, "an origin was refused; --allowed-origins lists those that are let in");
    Err(Problem::new(StatusCode::FORBIDDEN, "pages of this origin are not let in (--allowed-origins)"))
}

impl Allowed {
    pub fn mark(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = self.origin else { return response };
        if self.any {
            // Whoever lets in all pages doesn't let them in as their visitors.
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if response.status() == StatusCode::NO_CONTENT {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET"));
            let names = "authorization, cache-control, last-event-id, x-jid";
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        response
    }
}
