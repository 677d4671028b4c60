//! What is said to the servers, and how their answers are told apart.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::harness::clients::{PROTOCOL, handshake, identifier};

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

impl Door {
    pub fn handshake(&self) -> String {
        match self.dialect {
            Dialect::ActionCable { .. } => handshake(self.address, "/cable", PROTOCOL),
            Dialect::Centrifugo => handshake(self.address, "/connection/websocket", ""),
        }
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
            Self::ActionCable { .. } => hear_action_cable(frame),
            Self::Centrifugo => hear_centrifugo(frame),
        }
    }
}

fn hear_action_cable(frame: &[u8]) -> Heard {
    let begins = |start: &str| frame.starts_with(start.as_bytes());
    // Servers differ in where they put the type.
    if begins(r#"{"type":"confirm_"#) || frame.ends_with(br#""type":"confirm_subscription"}"#) {
        Heard::Confirm
    } else if begins(r#"{"identifier":"#) {
        Heard::Messages(1)
    } else if begins(r#"{"type":"ping""#) {
        Heard::Ping
    } else if begins(r#"{"type":"welcome""#) {
        Heard::Other
    } else {
        panic!("no message: {}", frame.escape_ascii())
    }
}

/// Centrifugo puts several replies into one WebSocket message.
fn hear_centrifugo(frame: &[u8]) -> Heard {
    if frame == b"{}" {
        return Heard::Ping;
    }
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
