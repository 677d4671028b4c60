//! The Action Cable wire, without I/O.
//!
//! What a client sends is taken apart by a [`Decoder`] and becomes a [`Command`] whose [`Identifier`] names a
//! subscription; what a server sends is a [`Frame`], a whole WebSocket frame
//! that any number of sockets can share. Nothing here opens a socket, reads a
//! clock or knows of a database: bytes in, values out, and back.
//!
//! The protocol is `actioncable-v1-json` as Rails speaks it. Rails documents it
//! nowhere; the names and shapes here follow `actioncable/lib/action_cable` and
//! the `@rails/actioncable` client. `actioncable-v1-ext-json` is AnyCable's, as `@anycable/core` speaks it. A
//! [`Frame`] can also be an event of an event stream, which has the same messages (HTML, 9.2).

mod command;
mod decoder;
mod deflater;
mod extension;
mod frame;
mod identifier;
mod remote;
pub mod signed;
mod subprotocol;

pub use command::{Command, CommandError, History};
pub use decoder::{Decoder, Event, Violation};
pub use deflater::Deflater;
pub use extension::accept_deflate;
pub use frame::{At, CloseCode, DisconnectReason, Frame, MessageHead, stream_id};
pub use identifier::{Identifier, IdentifierError};
pub use remote::RemoteDisconnect;
pub use subprotocol::{Offer, Subprotocol};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Reads an optional member so that null counts as one that is there: a message may be null.
pub fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Whether `text` is one JSON document, of any depth and with numbers of any size.
///
/// Rows come from programs that nobody checked; a payload is spliced into a frame
/// as it stands, so what isn't JSON must never get that far.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
