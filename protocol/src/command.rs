use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a client asks of a connection.
///
/// On the wire: `{"command":"subscribe","identifier":"<JSON text>"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// Start the subscription that the identifier names. A client of the extended protocol says what it has.
    Subscribe { identifier: Cow<'a, str>, history: Option<History<'a>> },
    /// End it. Nothing answers this.
    Unsubscribe { identifier: Cow<'a, str> },
    /// Data for a channel's action. A table has no actions, so nothing does either.
    Message { identifier: Cow<'a, str> },
    /// Give what a subscription has missed.
    History { identifier: Cow<'a, str>, history: History<'a> },
    /// Who is there?
    Presence { identifier: Cow<'a, str> },
    /// AnyCable's other commands, for what this isn't: `whisper`, `join`, `leave`.
    Foreign,
    /// The answer to a heartbeat, which nobody asked for.
    Pong,
}

/// What a client has, as AnyCable's tells it:
/// `{"since":1795500268,"streams":{"<stream_id>":{"epoch":"…","offset":7}}}`. `{"streams":{}}` is that it is new,
/// and wants to hear when it has been given what a newcomer is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History<'a> {
    /// Seconds since 1970 by the client's clock. None: it has no such member, or it is no whole number.
    pub since: Option<i64>,
    /// By what messages called their stream, the epoch that came with the last one. None: it is no text.
    pub epochs: HashMap<Cow<'a, str>, Option<Cow<'a, str>>>,
    /// It says that it has nothing, and not what can't be read.
    pub is_new: bool,
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
    #[error("not a command: no identifier")]
    NoIdentifier,
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
            #[serde(borrow, default)]
            identifier: Option<Cow<'a, str>>,
            #[serde(borrow, default, rename = "data")]
            _data: Option<&'a RawValue>,
            #[serde(borrow, default)]
            history: Option<&'a RawValue>,
        }

        if !text.trim_ascii_start().starts_with('{') {
            return Err(CommandError::NotAnObject);
        }
        let Wire { command, identifier, history, .. } = serde_json::from_str(text)?;
        if command == "pong" {
            return Ok(Self::Pong);
        }
        let identifier = identifier.ok_or(CommandError::NoIdentifier)?;
        Ok(match &*command {
            "subscribe" => Self::Subscribe { identifier, history: history.map(History::read) },
            "unsubscribe" => Self::Unsubscribe { identifier },
            "message" => Self::Message { identifier },
            "history" => {
                Self::History { identifier, history: history.map(History::read).unwrap_or_default() }
            }
            "presence" => Self::Presence { identifier },
            "whisper" | "join" | "leave" => Self::Foreign,
            other => return Err(CommandError::Unknown(other.chars().take(64).collect())),
        })
    }
}

impl<'a> History<'a> {
    /// What can't be read of it is not there: the command itself is carried out all the same, since
    /// a client whose subscribe isn't answered closes its channel for ever.
    fn read(raw: &'a RawValue) -> Self {
        #[derive(Deserialize, Default)]
        struct Wire<'a> {
            #[serde(borrow, default)]
            since: Option<&'a RawValue>,
            #[serde(borrow, default)]
            streams: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Position<'a> {
            #[serde(borrow, default)]
            epoch: Option<&'a RawValue>,
        }
        fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
            serde_json::from_str(raw.get()).ok()
        }

        let Wire { since, streams } = read(raw).unwrap_or_default();
        let streams: Option<HashMap<Cow<'a, str>, &'a RawValue>> = streams.and_then(read);
        let is_new = since.is_none() && streams.as_ref().is_some_and(HashMap::is_empty);
        let epoch = |position: &'a RawValue| -> Option<Cow<'a, str>> {
            let epoch = read::<Position<'a>>(position)?.epoch?;
            read::<&str>(epoch).map(Cow::Borrowed).or_else(|| read::<String>(epoch).map(Cow::Owned))
        };
        let epochs =
            streams.into_iter().flatten().map(|(stream, position)| (stream, epoch(position))).collect();
        Self { since: since.and_then(read), epochs, is_new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_keeps_the_clients_spelling() {
        let text = r#"{"command":"subscribe","identifier":"{ \"room\" : \"1\" }"}"#;

        let command = Command::parse(text).unwrap();

        assert_eq!(command, Command::Subscribe { identifier: r#"{ "room" : "1" }"#.into(), history: None });
    }

    #[test]
    fn a_client_of_the_extended_protocol_says_what_it_has() {
        let history = |history: &str| {
            let text = format!(r#"{{"identifier":"{{}}","command":"history","history":{history}}}"#);
            let Command::History { history, .. } = Command::parse(&text).unwrap() else { panic!("{text}") };
            let mut epochs = history
                .epochs
                .iter()
                .map(|(stream, epoch)| (stream.clone().into_owned(), epoch.clone().map(Cow::into_owned)));
            (history.since, epochs.next(), history.is_new)
        };
        let given = |stream: &str, epoch: Option<&str>| Some((stream.to_owned(), epoch.map(str::to_owned)));

        assert_eq!(history(r#"{"since":1795500268,"streams":{}}"#), (Some(1_795_500_268), None, false));
        assert_eq!(
            history(r#"{"since":7,"streams":{"a\n":{"epoch":"e\"","offset":50}}}"#),
            (Some(7), given("a\n", Some("e\"")), false)
        );
        // Half a position, and what is none.
        assert_eq!(history(r#"{"streams":{"a":{"offset":50}}}"#), (None, given("a", None), false));
        assert_eq!(history(r#"{"streams":{"a":{"epoch":7}}}"#), (None, given("a", None), false));
        assert_eq!(history(r#"{"streams":{"a":9}}"#), (None, given("a", None), false));
        for nothing in ["7", "null", "[]", "{}", r#"{"since":"x","streams":{}}"#, r#"{"streams":null}"#] {
            assert_eq!(history(nothing), (None, None, false), "{nothing}");
        }
        assert_eq!(history(r#"{"streams":{}}"#), (None, None, true));
        assert_eq!(history(r#"{"since":null,"streams":{}}"#), (None, None, true));
    }

    #[test]
    fn what_a_table_cannot_do_is_no_error() {
        for (text, command) in [
            (r#"{"command":"pong"}"#, Command::Pong),
            (r#"{"command":"whisper","identifier":"{}","data":{"a":1}}"#, Command::Foreign),
            (r#"{"command":"join","identifier":"{}","presence":{"id":"7","info":{}}}"#, Command::Foreign),
            (r#"{"command":"leave","identifier":"{}"}"#, Command::Foreign),
            (
                r#"{"command":"presence","identifier":"{}","data":{}}"#,
                Command::Presence { identifier: "{}".into() },
            ),
        ] {
            assert_eq!(Command::parse(text).unwrap(), command, "{text}");
        }
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
