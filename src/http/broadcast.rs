//! `POST /broadcast`: publishing by HTTP.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::App;
use super::keys::Scope;
use super::problem::Problem;
use super::write::{Writes, malformed, parse_object};
use crate::bus::Outgoing;
use crate::telemetry::metrics;

/// One message as it was sent. What is missing is told apart from what is null.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow, default, deserialize_with = "tablecast_protocol::present")]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "tablecast_protocol::present")]
    data: Option<&'a RawValue>,
}

const EXAMPLE: &str = r#"a message is an object: {"stream":"progress:42","data":{"percent":50}}"#;

pub fn parse(text: &str, app: &App, scope: &Scope) -> Result<Writes, Problem> {
    if !text.trim_start().starts_with('[') {
        return Ok(Writes { messages: vec![outgoing(text, "", app, scope)?], is_array: false });
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(malformed)?;
    let max = app.limits.max_broadcast_messages;
    if items.len() > max {
        let detail =
            format!("the array has {} messages, more than {max} (--max-broadcast-messages)", items.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    let messages = items.iter().enumerate();
    let messages = messages.map(|(index, item)| outgoing(item.get(), &format!("/{index}"), app, scope));
    Ok(Writes { messages: messages.collect::<Result<_, _>>()?, is_array: true })
}

fn outgoing(text: &str, pointer: &str, app: &App, scope: &Scope) -> Result<Outgoing, Problem> {
    let unprocessable = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let item: Item = parse_object(text, pointer, EXAMPLE)?;
    let Some(stream) = item.stream else { return Err(unprocessable("stream is missing".into()).at(pointer)) };
    let Some(data) = item.data else { return Err(unprocessable("data is missing".into()).at(pointer)) };
    let max = app.limits.max_payload_bytes;
    if data.get().len() > max {
        let detail = format!("data is {} bytes, more than {max} (--max-payload-bytes)", data.get().len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).at(format!("{pointer}/data")));
    }
    let at_stream = |detail: String| unprocessable(detail).at(format!("{pointer}/stream"));
    let stream: String =
        serde_json::from_str(stream.get()).map_err(|_| at_stream("stream is no text".into()))?;
    let stream = app.prefix.stream(&stream).map_err(|error| at_stream(error.to_string()))?;
    if !scope.publishing(stream.as_str()) {
        metrics().refused("publish_key_scope");
        let detail = format!("the key doesn't open the stream {stream}");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail).at(format!("{pointer}/stream")));
    }
    Ok(Outgoing { stream, payload: data.get().to_owned() })
}
