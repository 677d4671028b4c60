//! `POST /disconnect`: ending connections, as Rails' `ActionCable.server.remote_connections` does.
//!
//! It is a row of the table, the same as Rails writes, so that every server that shares the table
//! ends those that it has, Rails' own among them.

use axum::http::StatusCode;
use serde::Deserialize;
use tablecast_protocol::RemoteDisconnect;

use super::App;
use super::keys::Scope;
use super::problem::Problem;
use super::write::{Writes, parse_object};
use crate::bus::Outgoing;
use crate::stream::StreamError;
use crate::telemetry::metrics;

/// Whose connections are to end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// Their name: Rails' connection identifier.
    identifier: String,
    /// Whether they may come back. True where nothing is said, as in Rails.
    #[serde(default = "RemoteDisconnect::reconnects_by_default")]
    reconnect: bool,
}

const EXAMPLE: &str = r#"what to end is an object: {"identifier":"Z2lkOi8vYXBwL1VzZXIvMQ","reconnect":true}"#;

pub fn parse(body: &str, app: &App, scope: &Scope) -> Result<Writes, Problem> {
    if *scope != Scope::Everything {
        metrics().refused("publish_key_scope");
        let detail = "the key is limited to streams and doesn't open this";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let Ask { identifier, reconnect } = parse_object(body, "", EXAMPLE)?;
    let stream = app.prefix.disconnects(&identifier).map_err(|error| {
        let detail = match error {
            StreamError::Empty => "the identifier is empty".to_owned(),
            error => format!("the identifier makes no stream: {error}"),
        };
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).at("/identifier")
    })?;
    let payload = RemoteDisconnect { reconnect }.payload();
    Ok(Writes { messages: vec![Outgoing { stream, payload }], is_array: false })
}
