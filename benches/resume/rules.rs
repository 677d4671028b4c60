//! The channels that clients subscribe to.

use serde_json::json;

/// Of each stream what a newcomer is given is the channel's alone.
pub const RULES: &str = r#"
[[channel]]
name = "PlainChannel"
stream = "{kind}:{id}"
allow = "public"

[[channel]]
name = "StateChannel"
stream = "{kind}:{id}"
allow = "public"
state = true

[[channel]]
name = "EventChannel"
stream = "{kind}:{id}"
allow = "public"
replay = 1
"#;

#[derive(Clone, Copy, PartialEq)]
pub enum Rule {
    Plain,
    State,
    /// The last message, of an event stream.
    Replay,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::State => "state",
            Self::Replay => "replay",
        }
    }

    /// For the stream `kind:id`.
    pub fn identifier(self, kind: &str, id: usize) -> String {
        let channel = match self {
            Self::Plain => "PlainChannel",
            Self::State => "StateChannel",
            Self::Replay => "EventChannel",
        };
        format!(r#"{{"channel":"{channel}","kind":"{kind}","id":{id}}}"#)
    }
}

pub fn subscribe(identifier: &str) -> String {
    json!({ "command": "subscribe", "identifier": identifier }).to_string()
}

pub fn unsubscribe(identifier: &str) -> String {
    json!({ "command": "unsubscribe", "identifier": identifier }).to_string()
}

/// Of a client of the extended protocol that has nothing yet, whose page was made at this second. It is told
/// when it has been given what there is.
pub fn subscribe_since(identifier: &str, since: u64) -> String {
    let history = json!({ "since": since, "streams": {} });
    json!({ "command": "subscribe", "identifier": identifier, "history": history }).to_string()
}

/// Of one that has all up to a position.
pub fn subscribe_from(identifier: &str, position: &str) -> String {
    let stream = tablecast_protocol::stream_id(identifier);
    let history = json!({ "since": 1, "streams": { stream: { "epoch": position, "offset": 1 } } });
    json!({ "command": "subscribe", "identifier": identifier, "history": history }).to_string()
}

pub const CONFIRM: &[u8] = br#""type":"confirm_subscription"}"#;
pub const CONFIRM_HISTORY: &[u8] = br#""type":"confirm_history"}"#;
