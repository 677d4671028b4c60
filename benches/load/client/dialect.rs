//! What is said to the servers, and how their answers are told apart.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where clients knock, and what they say there.
#[derive(Clone, Serialize, Deserialize)]
pub struct Door {
    pub address: SocketAddr,
    pub dialect: Dialect,
}

#[derive(Clone, Serialize, Deserialize)]
pub enum Dialect {
    /// With the identifier to subscribe to, if it isn't `$pubsub` and the stream's name.
    ActionCable {
        identifier: Option<String>,
    },
    Centrifugo,
}

/// One WebSocket message of a server.
pub enum Heard {
    Messages(usize),
    Ping,
    /// The subscription is confirmed.
    Confirm,
    /// Something of the handshake.
    Other,
}

pub fn identifier(stream: &str) -> String {
    format!(r#"{{"channel":"$pubsub","stream_name":"{stream}"}}"#)
}

impl Door {
    pub fn handshake(&self) -> String {
        let address = self.address;
        let (path, protocol) = match self.dialect {
            Dialect::ActionCable { .. } => ("/cable", "Sec-WebSocket-Protocol: actioncable-v1-json\r\n"),
            Dialect::Centrifugo => ("/connection/websocket", ""),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        )
    }
}

impl Dialect {
    pub fn action_cable() -> Self {
        Self::ActionCable { identifier: None }
    }

    pub fn subscribe(&self, stream: &str) -> String {
        match self {
            Self::ActionCable { identifier: own } => {
                let identifier = own.clone().unwrap_or_else(|| identifier(stream));
                serde_json::json!({ "command": "subscribe", "identifier": identifier }).to_string()
            }
            Self::Centrifugo => {
                format!(
                    "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{stream}\"}}}}"
                )
            }
        }
    }

    /// What a ping wants to hear.
    pub fn pong(&self) -> Option<&'static str> {
        matches!(self, Self::Centrifugo).then_some("{}")
    }

    pub fn hear(&self, frame: &[u8]) -> Heard {
        match self {
            Self::ActionCable { .. } if frame.starts_with(br#"{"type":"ping""#) => Heard::Ping,
            Self::ActionCable { .. } if frame.starts_with(br#"{"type":"welcome""#) => Heard::Other,
            Self::ActionCable { .. } if frame.ends_with(br#""type":"confirm_subscription"}"#) => {
                Heard::Confirm
            }
            Self::ActionCable { .. } if frame.starts_with(br#"{"identifier":"#) => Heard::Messages(1),
            Self::ActionCable { .. } => panic!("no message: {}", frame.escape_ascii()),
            Self::Centrifugo if frame == b"{}" => Heard::Ping,
            Self::Centrifugo => hear_lines(frame),
        }
    }
}

/// Centrifugo puts several replies into one WebSocket message.
fn hear_lines(frame: &[u8]) -> Heard {
    let mut messages = 0;
    for line in frame.split(|byte| *byte == b'\n') {
        if line.starts_with(br#"{"push":{"channel""#) {
            messages += 1;
        } else if line.starts_with(br#"{"id":2,"subscribe""#) {
            return Heard::Confirm;
        } else {
            assert!(
                line.is_empty() || line == b"{}" || line.starts_with(br#"{"id":1,"connect""#),
                "no message: {}",
                line.escape_ascii()
            );
        }
    }
    if messages == 0 { Heard::Other } else { Heard::Messages(messages) }
}
