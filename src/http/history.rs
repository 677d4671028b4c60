//! `GET /position` and `GET /history`: for pages that are made on a server, and for scripts.

use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Duration, timeout};

use super::asked::{self, Asked};
use super::clients::Place;
use super::keys::Scope;
use super::listener::Accepted;
use super::problem::Problem;
use super::write::authorize;
use super::{App, cable, cors};
use crate::bus::{Cut, Most, Rejection, Replayed};
use crate::identity::{Who, jwt};
use crate::telemetry::metrics;

/// A stream's past, a page of it.
#[derive(Serialize)]
struct Page<'a> {
    messages: Vec<Entry>,
    /// Where to go on from: for the next page, or for what comes.
    position: &'a str,
    /// Whether there is more up to now.
    more: bool,
}

#[derive(Serialize)]
struct Entry {
    data: Box<RawValue>,
    position: Box<str>,
}

/// Of a page, unless it is asked for fewer; and no more than the most.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const AWAY: &str = "the database is away";
/// How long an answer waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Asker {
    /// A page: it may read what it may listen to.
    Page,
    /// A worker, or an operator: with the key that would publish, where there is one.
    Worker,
}

/// Where the table is now: `{"position":"…"}`. Who reads a page's state after it, and then listens from it, misses
/// nothing.
pub fn position(asker: Asker) -> MethodRouter<Arc<App>> {
    any(move |State(app): State<Arc<App>>, request: Request| async move {
        answer(&app, request, asker, |app, parts, reader| Box::pin(read_position(app, parts, reader))).await
    })
}

/// Messages of one stream, oldest first: those after `from`, or without it the last ones.
pub fn history(asker: Asker) -> MethodRouter<Arc<App>> {
    any(move |State(app): State<Arc<App>>, request: Request| async move {
        answer(&app, request, asker, |app, parts, reader| Box::pin(read_history(app, parts, reader))).await
    })
}

/// Whom a request comes from.
enum Reader<'a> {
    Page {
        who: Who,
        /// It counts against the limit of its address until it is answered.
        _place: Option<Place>,
    },
    Worker(&'a Scope),
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<String, Problem>> + Send + 'a>>;

async fn answer(
    app: &Arc<App>,
    request: Request,
    asker: Asker,
    read: for<'a> fn(&'a App, &'a Parts, Reader<'a>) -> Answer<'a>,
) -> Response {
    let (parts, _) = request.into_parts();
    let allowed = match asker {
        Asker::Worker => None,
        Asker::Page => {
            let socket = parts.extensions.get::<Arc<Accepted>>().expect("the listener says where from");
            match cors::allow(app, socket, &parts.headers) {
                Ok(allowed) => Some(allowed),
                Err(problem) => return problem.into_response(),
            }
        }
    };
    let response = match parts.method {
        Method::OPTIONS if allowed.is_some() => StatusCode::NO_CONTENT.into_response(),
        Method::GET => {
            let answer = async {
                let reader = reader(app, &parts, asker).await?;
                read(app, &parts, reader).await
            };
            match answer.await {
                Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
                Err(problem) => problem.into_response(),
            }
        }
        _ => Problem::new(StatusCode::METHOD_NOT_ALLOWED, "ask with GET").allow("GET").into_response(),
    };
    let mut response = match allowed {
        Some(allowed) => allowed.mark(response),
        None => response,
    };
    // Also of a refusal, which may be another a moment later.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn reader<'a>(app: &'a App, parts: &Parts, asker: Asker) -> Result<Reader<'a>, Problem> {
    if let Asker::Worker = asker {
        let key = authorize(app, &parts.headers)?;
        return Ok(Reader::Worker(key.map_or(&Scope::Everything, |key| &key.opens)));
    }
    let socket = parts.extensions.get::<Arc<Accepted>>().expect("the listener says where from");
    let place = app.clients.shake_hands(socket.peer, &parts.headers).map_err(cable::too_many)?;
    match app.identification.identify(parts.uri.query(), &parts.headers).await {
        Ok(who) => Ok(Reader::Page { who, _place: place }),
        Err(unidentified) => Err(unidentified.into()),
    }
}

async fn read_position(app: &App, parts: &Parts, reader: Reader<'_>) -> Result<String, Problem> {
    let rest = asked::read(parts.uri.query().unwrap_or_default())?.rest;
    rest.nothing_else(&jwt::PARAMETERS)?;
    Ok(json!({ "position": cut(app, &reader).await?.token().word }).to_string())
}

async fn read_history(app: &App, parts: &Parts, reader: Reader<'_>) -> Result<String, Problem> {
    let Asked { subjects, mut rest } = asked::read(parts.uri.query().unwrap_or_default())?;
    let from = rest.take(&["from"])?;
    let limit = match rest.take(&["limit"])? {
        None => LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| bad(format!("limit is a number from 1 to {MAX_LIMIT}")))?,
    };
    rest.nothing_else(&jwt::PARAMETERS)?;
    let stream = match &reader {
        Reader::Page { who, .. } => one(subjects.resolve(app, who.as_deref())?)?.stream,
        Reader::Worker(scope) => {
            let name = one(subjects.names())?;
            let name = name.ok_or_else(|| bad("a worker names a stream (?stream=progress:42)"))?;
            let stream = app.prefix.stream(&name).map_err(|error| bad(error.to_string()))?;
            if !scope.publishing(stream.as_str()) {
                metrics().refused("publish_key_scope");
                let detail = format!("the key doesn't open the stream {stream}");
                return Err(Problem::new(StatusCode::FORBIDDEN, detail));
            }
            stream
        }
    };

    let cut = cut(app, &reader).await?;
    let refuse = |rejection| refuse(&reader, rejection);
    let log = &app.context.history.log;
    // It waits for a client that may read slowly, as what waits in an outbox does.
    let most_bytes = app.context.limits.send_buffer_bytes;
    let (mut messages, mut more) = (Vec::new(), false);
    match from {
        None => messages = log.latest(&stream, &cut, limit, most_bytes).await.map_err(refuse)?,
        Some(word) => {
            let resumed = cut.accept(&word, app.context.history.window).map_err(refuse)?;
            let most = Most::OrFirst(limit + 1);
            let mut missed = log.missed(vec![stream], resumed, cut.clone(), most).await.map_err(refuse)?;
            let mut bytes = 0;
            while !more {
                let page = missed.page(most_bytes).await.map_err(refuse)?;
                if page.is_empty() {
                    break;
                }
                for message in page {
                    more |= messages.len() == limit || bytes >= most_bytes;
                    if !more {
                        bytes += message.payload.len();
                        messages.push(message);
                    }
                }
            }
        }
    }
    metrics().replayed_messages.increment(messages.len() as u64);
    let end = cut.token();
    let position = match messages.last() {
        Some(last) if more => &last.token.word,
        _ => &end.word,
    };
    let entry = |message: &'_ Replayed| Entry {
        data: RawValue::from_string(message.payload.to_string()).expect("it was looked at when it was read"),
        position: message.token.word.clone(),
    };
    let page = Page { messages: messages.iter().map(entry).collect(), position, more };
    Ok(serde_json::to_string(&page).expect("it is JSON"))
}

fn one<T>(several: Vec<T>) -> Result<T, Problem> {
    <[T; 1]>::try_from(several).map(|[one]| one).map_err(|_| bad("name one stream"))
}

/// Now, in the table.
async fn cut(app: &App, reader: &Reader<'_>) -> Result<Cut, Problem> {
    match timeout(PATIENCE, app.context.history.log.cut(|_| ())).await {
        Ok(cut) => cut.map_err(|rejection| refuse(reader, rejection)),
        Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, AWAY).retry_after(1)),
    }
}

fn refuse(reader: &Reader<'_>, rejection: Rejection) -> Problem {
    let detail = rejection.to_string();
    match rejection {
        rejection if rejection.passes() => {
            metrics().not_resumed(rejection.name());
            tracing::debug!(%rejection, "a stream's past can't be read");
            // What a database says of itself is not for everybody.
            let is_for_operators = !matches!((&rejection, reader), (Rejection::Away(_), Reader::Page { .. }));
            let detail = if is_for_operators { &detail } else { AWAY };
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
        }
        Rejection::Malformed => bad(format!("from: {detail}")),
        rejection => {
            metrics().not_resumed(rejection.name());
            Problem::new(StatusCode::GONE, format!("from: {detail}"))
        }
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_says_of_itself_is_for_operators_alone() {
        let away = || Rejection::Away("role \"cable\" at 10.0.0.5".into());
        let told = |reader: &Reader<'_>| format!("{:?}", refuse(reader, away()));

        assert!(told(&Reader::Worker(&Scope::Everything)).contains("10.0.0.5"));
        let page = told(&Reader::Page { who: None, _place: None });
        assert!(page.contains(AWAY) && !page.contains("10.0.0.5"), "{page}");
    }
}
