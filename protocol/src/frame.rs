use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One WebSocket frame or one event of an event stream, or some that go together, as they go to the socket.
///
/// A server's frames are not masked (RFC 6455, 5.1), so the same bytes serve
/// every recipient: a clone is a reference.
///
/// The two are told apart by their first byte: a WebSocket frame's has its highest bit set, since it is whole
/// (RFC 6455, 5.2), and an event begins with a letter or a colon.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Arc<[u8]>);

/// Why a server ends a connection, as its `disconnect` message tells the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The server goes down, or restarts.
    ServerRestart,
    /// The client reads more slowly than its streams flow.
    SlowConsumer,
    /// The client sends commands faster than it may.
    RateLimit,
    /// The table's history is another one: what was delivered may not exist.
    NewHistory,
    /// The client hasn't shown who it is, or no longer is who it was.
    Unauthorized,
    /// Its token has come to its end; AnyCable's client fetches a new one.
    TokenExpired,
    /// Who it is can't be found out now.
    IdentityUnavailable,
    /// What the client missed can't be read now.
    HistoryUnavailable,
    /// Who it is has as many connections as they may.
    TooManyConnections,
    /// The application has ended it.
    Remote { reconnect: bool },
}

/// RFC 6455, 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    Normal = 1000,
    Protocol = 1002,
    InvalidData = 1007,
    Policy = 1008,
    TooBig = 1009,
}

/// How the messages of one identifier are written: what they share is made once.
#[derive(Debug, Clone)]
pub enum MessageHead {
    /// `{"identifier":"<id>","message":`, of `actioncable-v1-json`.
    Cable(Box<[u8]>),
    /// The same, and what names the stream in positions, of `actioncable-v1-ext-json`.
    Extended { head: Box<[u8]>, stream_id: Box<str> },
    /// An event stream's events don't name what they belong to.
    EventStream,
}

/// Where a message stands: what a client gives back to go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At<'a> {
    pub epoch: &'a str,
    /// Below 2^53.
    pub offset: u64,
}

impl DisconnectReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerRestart => "server_restart",
            Self::SlowConsumer => "slow_consumer",
            Self::RateLimit => "rate_limit",
            Self::NewHistory => "new_history",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::IdentityUnavailable => "identity_unavailable",
            Self::HistoryUnavailable => "history_unavailable",
            Self::TooManyConnections => "max_connections_per_user",
            Self::Remote { .. } => "remote",
        }
    }

    /// Whether the client may come back. It is in every disconnect message: a
    /// client that doesn't find it never returns.
    pub fn reconnect(self) -> bool {
        match self {
            Self::Unauthorized | Self::TokenExpired => false,
            Self::Remote { reconnect } => reconnect,
            Self::ServerRestart
            | Self::SlowConsumer
            | Self::RateLimit
            | Self::NewHistory
            | Self::IdentityUnavailable
            | Self::HistoryUnavailable
            | Self::TooManyConnections => true,
        }
    }
}

impl MessageHead {
    pub fn new(identifier: &str) -> Self {
        Self::Cable(Self::head(identifier))
    }

    pub fn extended(identifier: &str) -> Self {
        Self::Extended { head: Self::head(identifier), stream_id: stream_id(identifier).into() }
    }

    fn head(identifier: &str) -> Box<[u8]> {
        let mut head = br#"{"identifier":"#.to_vec();
        write_json_string(&mut head, identifier);
        head.extend_from_slice(br#","message":"#);
        head.into()
    }
}

/// What the messages of an identifier call their stream in the extended protocol. AnyCable's client keeps
/// one position for each such name, so that two identifiers must have two, also where they lead to one stream.
pub fn stream_id(identifier: &str) -> String {
    let digest = digest(&SHA256, identifier.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..6])
}

const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;
/// RFC 7692, 6.
const COMPRESSED: u8 = 0x40;
/// RFC 6455, 5.5.
const MAX_CONTROL_BYTES: usize = 125;

impl Frame {
    /// The first message of a connection.
    pub fn welcome() -> Self {
        Self::build(TEXT, &[br#"{"type":"welcome"}"#])
    }

    /// The heartbeat. `seconds` since 1970, a JSON integer.
    pub fn ping(seconds: u64) -> Self {
        Self::build(TEXT, &[format!(r#"{{"type":"ping","message":{seconds}}}"#).as_bytes()])
    }

    /// Shows that the connection is alive and says nothing else. Of the frames that `@anycable/core` counts as a sign
    /// of life it takes a ping to say more: it moves the second from which it asks for what it missed. The history
    /// of a channel that it doesn't have it passes over.
    pub fn keep_alive() -> Self {
        Self::confirm_history("keep-alive")
    }

    pub fn confirm_subscription(identifier: &str) -> Self {
        Self::answer(identifier, "confirm_subscription")
    }

    pub fn reject_subscription(identifier: &str) -> Self {
        Self::answer(identifier, "reject_subscription")
    }

    /// A message. `payload` is a JSON document and is passed on untouched, so
    /// that numbers keep their digits.
    pub fn message(head: &MessageHead, payload: &str) -> Self {
        Self::messages(head, [payload])
    }

    /// Messages that go together.
    pub fn messages<'a>(head: &MessageHead, payloads: impl IntoIterator<Item = &'a str>) -> Self {
        Self::messages_at(head, payloads.into_iter().map(|payload| (payload, None)))
    }

    /// Messages that go together, with where they stand, for who can tell their client.
    pub fn messages_at<'a>(
        head: &MessageHead,
        messages: impl IntoIterator<Item = (&'a str, Option<At<'a>>)>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (payload, at) in messages {
            match (head, at) {
                (MessageHead::Cable(head), _) | (MessageHead::Extended { head, .. }, None) => {
                    write(&mut bytes, TEXT, &[head, payload.as_bytes(), b"}"]);
                }
                (MessageHead::Extended { head, stream_id }, Some(At { epoch, offset })) => {
                    let at = format!(r#","stream_id":"{stream_id}","epoch":"{epoch}","offset":{offset}}}"#);
                    write(&mut bytes, TEXT, &[head, payload.as_bytes(), at.as_bytes()]);
                }
                (MessageHead::EventStream, at) => {
                    write_event(&mut bytes, at.map(|at| at.epoch), None, payload);
                }
            }
        }
        Self(bytes.into())
    }

    /// The first of an event stream: a client that loses it comes back after so long.
    pub fn retry(milliseconds: u64) -> Self {
        Self(format!("retry: {milliseconds}\n\n").into_bytes().into())
    }

    /// An event stream's heartbeat: it shows that the line is up, and where the client stands.
    pub fn position(epoch: &str) -> Self {
        Self(format!("id: {epoch}\n\n").into_bytes().into())
    }

    /// An event stream's heartbeat where nothing is known.
    pub fn comment() -> Self {
        Self(b":\n\n".as_slice().into())
    }

    /// An event of a name of its own. `data` is JSON.
    pub fn event(name: &str, data: &str, epoch: Option<&str>) -> Self {
        let mut bytes = Vec::new();
        write_event(&mut bytes, epoch, Some(name), data);
        Self(bytes.into())
    }

    /// All that a client has missed has been given.
    pub fn confirm_history(identifier: &str) -> Self {
        Self::answer(identifier, "confirm_history")
    }

    /// What a client has missed can't be given, and it must not rely on it.
    pub fn reject_history(identifier: &str) -> Self {
        Self::answer(identifier, "reject_history")
    }

    /// Nobody keeps who is there. AnyCable's client waits for an answer for ever, and throws where it is an error.
    pub fn no_presence(identifier: &str) -> Self {
        let mut text = br#"{"type":"presence","identifier":"#.to_vec();
        write_json_string(&mut text, identifier);
        text.extend_from_slice(br#","message":{"type":"info","total":0}}"#);
        Self::build(TEXT, &[&text])
    }

    /// The last message of a connection, before its Close.
    pub fn disconnect(reason: DisconnectReason) -> Self {
        let (reason, reconnect) = (reason.as_str(), reason.reconnect());
        let text = format!(r#"{{"type":"disconnect","reason":"{reason}","reconnect":{reconnect}}}"#);
        Self::build(TEXT, &[text.as_bytes()])
    }

    /// A Close. `reason` is cut to what a control frame holds.
    pub fn close(code: CloseCode, reason: &str) -> Self {
        Self::close_answer(Some(code as u16), reason)
    }

    /// The answer to a client's Close: the same (RFC 6455, 5.5.1).
    pub fn close_answer(code: Option<u16>, reason: &str) -> Self {
        match code {
            None => Self::build(CLOSE, &[]),
            Some(code) => {
                let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL_BYTES - 2)];
                Self::build(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()])
            }
        }
    }

    /// The answer to a client's ping, with its payload of at most 125 bytes (RFC 6455, 5.5.3).
    pub fn pong(payload: &[u8]) -> Self {
        Self::build(PONG, &[&payload[..payload.len().min(MAX_CONTROL_BYTES)]])
    }

    /// Frames that are already bytes.
    pub fn from_wire(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Frames that go together.
    pub fn join(frames: &[Self]) -> Self {
        match frames {
            [frame] => frame.clone(),
            frames => Self(frames.iter().flat_map(|frame| &*frame.0).copied().collect()),
        }
    }

    /// What follows the header of one.
    pub(crate) fn payload(&self) -> &[u8] {
        let header = match self.0[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        &self.0[header..]
    }

    pub(crate) fn is_control(&self) -> bool {
        self.0[0] & 0x8 != 0
    }

    /// The same message with a payload that was compressed.
    pub(crate) fn compressed(&self, payload: &[u8]) -> Self {
        Self::build(self.0[0] | COMPRESSED, &[payload])
    }

    /// In bytes, headers included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There may be nothing in it, if it was made of no messages.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last of some. O(frames).
    pub fn last(&self) -> Self {
        match self.ends().rev().nth(1) {
            Some(start) => Self(self.0[start..].into()),
            None => self.clone(),
        }
    }

    /// The first of some, so many that these bytes are in whole frames. O(frames).
    pub fn through(&self, bytes: usize) -> Self {
        match self.ends().find(|end| *end >= bytes) {
            Some(end) if end < self.len() => Self(self.0[..end].into()),
            _ => self.clone(),
        }
    }

    /// Each by itself. O(bytes).
    pub fn each(&self) -> impl Iterator<Item = Self> {
        let mut start = 0;
        self.ends().map(move |end| Self(self.0[std::mem::replace(&mut start, end)..end].into()))
    }

    /// Where each of them ends.
    fn ends(&self) -> std::vec::IntoIter<usize> {
        let mut ends = Vec::new();
        let mut end = 0;
        if self.0.first().is_some_and(|first| first & FIN == 0) {
            let twice = |pair: (usize, &[u8])| (pair.1 == b"\n\n").then_some(pair.0 + 2);
            return self.0.windows(2).enumerate().filter_map(twice).collect::<Vec<_>>().into_iter();
        }
        while let Some(header) = self.0.get(end + 1) {
            let length = |count: usize| {
                let bytes = self.0[end + 2..][..count].iter();
                (2 + count) + bytes.fold(0, |length, byte| length << 8 | usize::from(*byte))
            };
            end += match header {
                126 => length(2),
                127 => length(8),
                length => 2 + usize::from(*length),
            };
            ends.push(end);
        }
        ends.into_iter()
    }

    fn answer(identifier: &str, kind: &str) -> Self {
        let mut text = br#"{"identifier":"#.to_vec();
        write_json_string(&mut text, identifier);
        text.extend_from_slice(br#","type":""#);
        text.extend_from_slice(kind.as_bytes());
        text.extend_from_slice(br#""}"#);
        Self::build(TEXT, &[&text])
    }

    fn build(opcode: u8, parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        write(&mut bytes, opcode, parts);
        Self(bytes.into())
    }
}

fn write(bytes: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    bytes.reserve(length + 10);
    bytes.push(FIN | opcode);
    match length {
        0..=125 => bytes.push(length as u8),
        126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
}

/// One event of an event stream. A line break in JSON stands between tokens, where any space is as good; so a
/// document is one line, and `data` as it was published but for that.
fn write_event(bytes: &mut Vec<u8>, epoch: Option<&str>, name: Option<&str>, data: &str) {
    let fields = [("id", epoch), ("event", name)];
    for (field, value) in fields.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        bytes.extend_from_slice(format!("{field}: {value}\n").as_bytes());
    }
    bytes.extend_from_slice(b"data: ");
    bytes.extend(data.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    bytes.extend_from_slice(b"\n\n");
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?})", String::from_utf8_lossy(&self.0))
    }
}

fn write_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing into memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_rails_sends() {
        let id = r#"{"channel":"X","é":"<b>"}"#;
        let head = MessageHead::new(id);
        let cases = [
            (Frame::welcome(), r#"{"type":"welcome"}"#),
            (Frame::ping(1795485801), r#"{"type":"ping","message":1795485801}"#),
            (
                Frame::confirm_subscription(id),
                r#"{"identifier":"{\"channel\":\"X\",\"é\":\"<b>\"}","type":"confirm_subscription"}"#,
            ),
            (
                Frame::reject_subscription(id),
                r#"{"identifier":"{\"channel\":\"X\",\"é\":\"<b>\"}","type":"reject_subscription"}"#,
            ),
            (
                Frame::message(&head, r#"{"a":123456789012345678901234567890, "b":1.0e+30}"#),
                r#"{"identifier":"{\"channel\":\"X\",\"é\":\"<b>\"}","message":{"a":123456789012345678901234567890, "b":1.0e+30}}"#,
            ),
            (
                Frame::disconnect(DisconnectReason::ServerRestart),
                r#"{"type":"disconnect","reason":"server_restart","reconnect":true}"#,
            ),
        ];

        let at = At { epoch: "a1-_", offset: 9 };
        let extended = MessageHead::extended(id);
        let positioned = (
            Frame::messages_at(&extended, [("1.0", Some(at))]),
            r#"{"identifier":"{\"channel\":\"X\",\"é\":\"<b>\"}","message":1.0,"stream_id":"EtKaGv6S","epoch":"a1-_","offset":9}"#,
        );
        let cases = cases.into_iter().chain([
            positioned,
            (
                Frame::messages_at(&extended, [("1.0", None)]),
                r#"{"identifier":"{\"channel\":\"X\",\"é\":\"<b>\"}","message":1.0}"#,
            ),
            (Frame::reject_history("i"), r#"{"identifier":"i","type":"reject_history"}"#),
        ]);
        for (frame, text) in cases {
            let header = if text.len() < 126 { 2 } else { 4 };
            assert_eq!(std::str::from_utf8(&frame.as_bytes()[header..]).unwrap(), text);
        }
    }

    #[test]
    fn events_are_told_apart_and_keep_what_was_published() {
        let at = |epoch| Some(At { epoch, offset: 1 });
        let frame = Frame::messages_at(
            &MessageHead::EventStream,
            [("{\r\n\"a\": \"\\n\"}", at("p1")), ("2", at("p2")), ("3", None)],
        );

        let events: Vec<String> =
            frame.each().map(|event| String::from_utf8(event.as_bytes().to_vec()).unwrap()).collect();

        assert_eq!(events, ["id: p1\ndata: {  \"a\": \"\\n\"}\n\n", "id: p2\ndata: 2\n\n", "data: 3\n\n"]);
        assert_eq!(frame.last().as_bytes(), b"data: 3\n\n");
        assert_eq!(frame.through(3).as_bytes(), events[0].as_bytes());
        assert_eq!(Frame::event("reset", "{}", Some("p")).as_bytes(), b"id: p\nevent: reset\ndata: {}\n\n");
    }
}
