use std::fmt;
use std::sync::Arc;

/// One WebSocket frame, or some that go together, as they go to the socket, headers included.
///
/// A server's frames are not masked (RFC 6455, 5.1), so the same bytes serve
/// every recipient: a clone is a reference.
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

/// The part of a message's frame that all messages of one identifier share.
///
/// `{"identifier":"<id>","message":` with the identifier escaped once.
#[derive(Debug, Clone)]
pub struct MessageHead(Box<[u8]>);

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
            | Self::TooManyConnections => true,
        }
    }
}

impl MessageHead {
    pub fn new(identifier: &str) -> Self {
        let mut head = br#"{"identifier":"#.to_vec();
        write_json_string(&mut head, identifier);
        head.extend_from_slice(br#","message":"#);
        Self(head.into())
    }
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

    /// Messages that go together, a WebSocket frame each.
    pub fn messages<'a>(head: &MessageHead, payloads: impl IntoIterator<Item = &'a str>) -> Self {
        let mut bytes = Vec::new();
        for payload in payloads {
            write(&mut bytes, TEXT, &[&head.0, payload.as_bytes(), b"}"]);
        }
        Self(bytes.into())
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

        for (frame, text) in cases {
            let header = if text.len() < 126 { 2 } else { 4 };
            assert_eq!(std::str::from_utf8(&frame.as_bytes()[header..]).unwrap(), text);
        }
    }
}
