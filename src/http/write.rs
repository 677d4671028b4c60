//! What all requests share that write into the table: who may, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, any};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::error::Category;

use super::App;
use super::keys::{PublishKey, Scope};
use super::problem::Problem;
use crate::bus::{IdempotencyKey, Outgoing, PublishError};
use crate::telemetry::metrics;

/// What a body asks to be written, all or nothing.
pub struct Writes {
    pub messages: Vec<Outgoing>,
    /// Whether it asked for several, however many they are.
    pub is_array: bool,
}

/// Makes a body into rows, of which the key's scope opens each.
pub type Parse = fn(body: &str, app: &App, scope: &Scope) -> Result<Writes, Problem>;

/// A body that trickles in for longer is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_KEY_BYTES: usize = 255;

pub fn route(parse: Parse) -> MethodRouter<Arc<App>> {
    any(move |State(app): State<Arc<App>>, request: Request| async move {
        match write(&app, request, parse).await {
            Ok(answer) => (StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], answer).into_response(),
            Err(problem) => {
                metrics().publishes_refused.increment(1);
                tracing::debug!(status = problem.status().as_u16(), ?problem, "a publish was refused");
                problem.into_response()
            }
        }
    })
}

async fn write(app: &App, request: Request, parse: Parse) -> Result<String, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "ask with POST").allow("POST"));
    }
    if app.is_draining() {
        return Err(shutting_down());
    }
    let publish_key = authorize(app, request.headers())?;
    expect_json(request.headers())?;
    let key = idempotency_key(request.headers())?;
    let body = read_body(request, app.limits.max_broadcast_bytes).await?;
    let body = std::str::from_utf8(&body).map_err(|error| {
        let detail = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;

    let scope = publish_key.map_or(&Scope::Everything, |key| &key.opens);
    let Writes { messages, is_array } = parse(body, app, scope)?;
    let key = key.map(|key| {
        let former = digest(&messages, is_array);
        let fingerprint = publish_key.map_or_else(|| former.clone(), |key| key.seal(&former));
        IdempotencyKey { key, fingerprint, former }
    });
    let ids = app.publisher.publish(messages, key).await.map_err(problem)?;
    Ok(match ids.as_slice() {
        [id] if !is_array => format!(r#"{{"id":{id}}}"#),
        ids => format!(r#"{{"ids":{}}}"#, serde_json::to_string(ids).expect("numbers are JSON")),
    })
}

/// The request's key; none where none is needed.
pub fn authorize<'a>(app: &'a App, headers: &HeaderMap) -> Result<Option<&'a PublishKey>, Problem> {
    if app.publish_keys.is_empty() {
        return Ok(None);
    }
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| given.trim())
    });
    given.and_then(|given| app.publish_keys.find(given.as_bytes())).map(Some).ok_or_else(|| {
        metrics().refused("publish_key");
        let detail = "this needs the header Authorization: Bearer with a --publish-key of the server";
        Problem::new(StatusCode::UNAUTHORIZED, detail).authenticate("Bearer")
    })
}

/// No form of a page can send it across sites without asking first.
fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body is JSON: send Content-Type: application/json",
    ))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("an Idempotency-Key is 1 to {MAX_KEY_BYTES} visible ASCII characters");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

async fn read_body(request: Request<Body>, max: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {max} bytes (--max-broadcast-bytes)");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(request.into_body(), max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body ended before its end")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

/// An object of a body, which stands at `pointer`. `example` says what is meant.
pub fn parse_object<'a, T: Deserialize<'a>>(
    text: &'a str,
    pointer: &str,
    example: &str,
) -> Result<T, Problem> {
    let unprocessable = |detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).at(pointer);
    if !text.trim_start().starts_with('{') && tablecast_protocol::is_json(text) {
        return Err(unprocessable(example));
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => unprocessable(&describe(&error)),
        _ => malformed(error),
    })
}

pub fn malformed(error: serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))
}

/// serde's words without the place, which counts from the item's beginning.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).replace('`', "")
}

/// The messages with their lengths between them, so that no two bodies have one print
/// that mean different things.
fn digest(messages: &[Outgoing], is_array: bool) -> Vec<u8> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(&[u8::from(is_array)]);
    for message in messages {
        for part in [message.stream.as_str(), &message.payload] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
    }
    digest.finish().as_ref().to_vec()
}

fn problem(error: PublishError) -> Problem {
    let detail = error.to_string();
    match error {
        PublishError::Away(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1),
        PublishError::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1),
        PublishError::KeyReused | PublishError::Refused(_) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
        PublishError::ShuttingDown => shutting_down(),
    }
}

fn shutting_down() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down").retry_after(1)
}
