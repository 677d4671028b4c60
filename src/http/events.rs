//! `GET /events`: Server-Sent Events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::asked::{self, Asked};
use super::listener::Accepted;
use super::problem::Problem;
use super::{App, cable, cors};
use crate::connection::EventStream;
use crate::identity::{Unidentified, jwt};
use crate::telemetry::metrics;

/// A browser sends it by itself when it comes back. Others may say the same in the query.
const LAST_EVENT_ID: &str = "last-event-id";
/// How long a response waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn events(State(app): State<Arc<App>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let socket = request.extensions.get::<Arc<Accepted>>().cloned().expect("the listener says where from");
    let allowed = match cors::allow(&app, &socket, &request.headers) {
        Ok(allowed) => allowed,
        Err(problem) => return problem.into_response(),
    };
    let response = match request.method {
        Method::GET => respond(&app, socket, &request).await.unwrap_or_else(IntoResponse::into_response),
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::new(StatusCode::METHOD_NOT_ALLOWED, "events are asked for with GET")
            .allow("GET, OPTIONS")
            .into_response(),
    };
    allowed.mark(response)
}

async fn respond(app: &Arc<App>, socket: Arc<Accepted>, request: &Parts) -> Result<Response, Problem> {
    let (headers, query) = (&request.headers, request.uri.query());
    let Asked { subjects, mut rest } = asked::read(query.unwrap_or_default())?;
    let in_query = rest.take(&["last-event-id", "last_event_id", "from"])?;
    rest.nothing_else(jwt::PARAMETERS.as_slice())?;
    let last_event_id = match headers.get(LAST_EVENT_ID) {
        // Whatever it is: what is no position is told to be none.
        Some(header) => Some(String::from_utf8_lossy(header.as_bytes()).into_owned()),
        None => in_query,
    };
    let last_event_id = last_event_id.filter(|id| !id.is_empty());

    // A browser gives up for good on any answer but 200: what passes is said by an end, after which it
    // comes back, and knows where it was. So it is with a database that is away.
    if app.is_draining() {
        metrics().refused("draining");
        return Ok(come_back());
    }
    let place = match app.clients.shake_hands(socket.peer, headers) {
        Ok(place) => place,
        Err(refusal) => {
            let _ = cable::too_many(refusal);
            return Ok(come_back());
        }
    };
    let who = match app.identification.identify(query, headers).await {
        Ok(who) => who,
        Err(Unidentified::Unavailable) => return Ok(come_back()),
        Err(unidentified) => return Err(unidentified.into()),
    };
    let targets = subjects.resolve(app, who.as_deref())?;
    let Some((stream, body)) = EventStream::enter(&app.context, &who, targets, last_event_id) else {
        metrics().refused("max_connections_per_user");
        return Ok(come_back());
    };
    let Ok(Ok(cut)) = timeout(PATIENCE, stream.listen()).await else { return Ok(come_back()) };
    app.sockets.spawn(async move {
        // It counts against the limits until it ends.
        let _held = (socket, place);
        stream.serve(cut).await;
    });
    Ok(event_stream(Body::from_stream(ReaderStream::new(body))))
}

/// An event stream that ends at once.
fn come_back() -> Response {
    event_stream(Body::from("retry: 2000\n\n"))
}

fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Compression would keep events in a proxy's buffer.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // So would nginx.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
