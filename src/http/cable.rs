//! The WebSocket's handshake, as Rails answers it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tablecast_protocol::{Offer, accept_deflate};
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;

use super::clients::Refusal;
use super::listener::Accepted;
use super::problem::Problem;
use super::{App, not_found};
use crate::connection::{self, Agreed};
use crate::hub::{Encoding, Socket};
use crate::telemetry::metrics;
use crate::tls::TlsSocket;

pub async fn upgrade(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let headers = request.headers();
    let socket = request.extensions().get::<Arc<Accepted>>().cloned().expect("the listener says where from");
    let is_get = request.method() == Method::GET && request.version() == Version::HTTP_11;
    if !is_get || !asks_for_websocket(headers) {
        return not_found();
    }
    if !app.origins.allows(headers, app.clients.forwarded_host(socket.peer, headers)) {
        metrics().refused("origin");
        tracing::debug!(origin = ?headers.get("origin"), "an origin was refused; --allowed-origins lists those that are let in");
        return not_found();
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return bad_request("Unsupported WebSocket version: 13");
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return bad_request("Missing handshake request header: Sec-WebSocket-Key");
    };
    if app.is_draining() {
        metrics().refused("draining");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")
            .retry_after(1)
            .into_response();
    }
    let place = match app.clients.shake_hands(socket.peer, headers) {
        Ok(place) => place,
        Err(refusal) => return too_many(refusal).into_response(),
    };

    let accept = derive_accept_key(key.as_bytes());
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let offer = Offer::parse(offered.iter().filter_map(|value| value.to_str().ok()));
    let extensions = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    let extensions = extensions.iter().filter_map(|value| value.to_str().ok());
    let deflate = accept_deflate(extensions).filter(|_| app.compression);
    let encoding = if deflate.is_some() { Encoding::Deflate } else { Encoding::Plain };
    let agreed = Agreed { offer, encoding };
    let who = app.identification.identify(request.uri().query(), headers).await;
    let upgrade = hyper::upgrade::on(&mut request);
    let context = app.context.clone();
    app.sockets.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let (io, early) = socket_of(upgraded);
                connection::serve(io, early, agreed, who, context).await;
            }
            Err(error) => tracing::debug!(%error, "a client left during its handshake"),
        }
        // It counts against the limits until it ends. (A variable of its own would be there twice.)
        drop((socket, place));
    });

    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::empty())
        .expect("headers are valid");
    if let Some(deflate) = deflate {
        response.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(deflate));
    }
    if let Some(protocol) = offer.select() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.as_str()));
    }
    response
}

/// Too many come, or come too often.
pub fn too_many(refusal: Refusal) -> Problem {
    metrics().refused(refusal.name());
    tracing::debug!(%refusal, "a client was refused");
    let status = match refusal {
        Refusal::Connections | Refusal::AddressRate => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Rate => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, refusal.to_string()).retry_after(1)
}

/// The connection needs the socket itself, not what hyper has wrapped it into; and what hyper has read of it.
fn socket_of(upgraded: Upgraded) -> (Box<dyn Socket>, Bytes) {
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(plain) => (Box::new(plain.io.into_inner()), plain.read_buf),
        Err(upgraded) => {
            let tls = upgraded.downcast::<TokioIo<TlsSocket>>().expect("a listener serves TCP or TLS");
            (Box::new(Mutex::new(tls.io.into_inner())), tls.read_buf)
        }
    }
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let has_token = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
    };
    has_token(CONNECTION, "upgrade") && has_token(UPGRADE, "websocket")
}

fn bad_request(body: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, "text/plain"), (CONNECTION, "close")];
    (StatusCode::BAD_REQUEST, headers, body).into_response()
}
