use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a client asks of a connection.
///
/// On the wire: `{"command":"subscribe","identifier":"<JSON text>"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Start the subscription that the identifier names.
    Subscribe { identifier: Cow<'a, str> },
    /// End it. Nothing answers this.
    Unsubscribe { identifier: Cow<'a, str> },
    /// Data for a channel's action. A table has no actions, so nothing does either.
    Message { identifier: Cow<'a, str> },
}

/// Why a client's text is no command. It is counted and ignored, as Rails does:
/// this protocol has no error frames, and a client reads an unknown type as a message.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("not a command: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A derived reader would take an array's elements for the fields.
    #[error("not a command: not an object")]
    NotAnObject,
    #[error("unknown command {0:?}")]
    Unknown(String),
}

impl<'a> Command<'a> {
    /// Reads one text message of a client.
    pub fn parse(text: &'a str) -> Result<Self, CommandError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            command: Cow<'a, str>,
            #[serde(borrow)]
            identifier: Cow<'a, str>,
            #[serde(borrow, default, rename = "data")]
            _data: Option<&'a RawValue>,
        }

        if !text.trim_ascii_start().starts_with('{') {
            return Err(CommandError::NotAnObject);
        }
        let Wire { command, identifier, .. } = serde_json::from_str(text)?;
        match &*command {
            "subscribe" => Ok(Self::Subscribe { identifier }),
            "unsubscribe" => Ok(Self::Unsubscribe { identifier }),
            "message" => Ok(Self::Message { identifier }),
            other => Err(CommandError::Unknown(other.chars().take(64).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_keeps_the_clients_spelling() {
        let text = r#"{"command":"subscribe","identifier":"{ \"room\" : \"1\" }"}"#;

        let command = Command::parse(text).unwrap();

        assert_eq!(command, Command::Subscribe { identifier: r#"{ "room" : "1" }"#.into() });
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for text in [
            "",
            "{",
            "1",
            "[]",
            "{}",
            "null",
            r#"{"command":"subscribe"}"#,
            r#"{"command":"subscribe","identifier":null}"#,
            r#"{"command":"subscribe","identifier":{"channel":"X"}}"#,
            r#"{"command":7,"identifier":"{}"}"#,
            r#"{"command":"dance","identifier":"{}"}"#,
            r#"["subscribe","{}"]"#,
            r#"{"command":"subscribe","identifier":"\ud800"}"#,
        ] {
            assert!(Command::parse(text).is_err(), "{text}");
        }
    }
}
