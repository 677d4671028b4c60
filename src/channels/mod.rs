//! Which stream an identifier means, and whether its sender may listen.
//!
//! A [`Rule`] answers for one channel; the patterns of `--public-streams` answer for
//! identifiers that name their stream themselves. What neither opens is closed.

mod pattern;
mod template;

use std::collections::HashMap;

use serde::Deserialize;
use tablecast_protocol::Identifier;

pub use pattern::Pattern;
pub use template::{Template, TemplateError};

use crate::identity::Identity;
use crate::stream::{Prefix, Stream, StreamError};

/// Who may subscribe to a channel, and to which stream that leads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The identifier's channel: `ProgressChannel`.
    pub name: String,
    pub stream: Template,
    pub allow: Allow,
    /// Of its streams only the latest message counts.
    #[serde(default)]
    pub state: bool,
}

/// What an identifier leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub stream: Stream,
    /// Only the latest message counts.
    pub is_state: bool,
}

/// There is no default: a channel is open to those whom its rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// Everybody who can reach the server.
    Public,
}

/// All rules of a server.
#[derive(Debug)]
pub struct Channels {
    rules: HashMap<String, Rule>,
    public_streams: Vec<Pattern>,
    prefix: Prefix,
}

/// Why a subscription is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the identifier names no channel")]
    NoChannel,
    #[error("no [[channel]] rule names {0}, and no pattern of --public-streams opens its stream")]
    NotOpen(String),
    #[error("parameter {0} is missing, empty, or neither text, number nor boolean")]
    Parameter(String),
    #[error(transparent)]
    Name(#[from] StreamError),
    #[error("the identifier is longer than --max-identifier-bytes")]
    TooLong,
    #[error("the connection has as many subscriptions as --max-subscriptions allows")]
    TooMany,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two rules name the channel {0}")]
pub struct DuplicateRule(String);

impl Channels {
    pub fn new(
        rules: Vec<Rule>,
        public_streams: Vec<Pattern>,
        prefix: Prefix,
    ) -> Result<Self, DuplicateRule> {
        let mut by_name = HashMap::new();
        for rule in rules {
            if let Some(twice) = by_name.insert(rule.name.clone(), rule) {
                return Err(DuplicateRule(twice.name));
            }
        }
        Ok(Self { rules: by_name, public_streams, prefix })
    }

    pub fn resolve(&self, identifier: &Identifier<'_>, who: Option<&Identity>) -> Result<Target, Refusal> {
        let _ = who;
        let channel = identifier.channel().ok_or(Refusal::NoChannel)?;
        if let Some(rule) = self.rules.get(&channel) {
            let Allow::Public = rule.allow;
            let name =
                rule.stream.fill(|parameter| identifier.scalar(parameter)).map_err(Refusal::Parameter)?;
            return Ok(Target { stream: self.prefix.stream(&name)?, is_state: rule.state });
        }
        match identifier.text("stream_name").or_else(|| identifier.text("stream")) {
            Some(name) if self.public_streams.iter().any(|pattern| pattern.matches(&name)) => {
                Ok(Target { stream: self.prefix.stream(&name)?, is_state: false })
            }
            _ => Err(Refusal::NotOpen(channel)),
        }
    }

    /// Whether any rule is for state streams.
    pub fn have_states(&self) -> bool {
        self.rules.values().any(|rule| rule.state)
    }

    /// What is open, for people.
    pub fn describe(&self) -> Vec<String> {
        let mut rules: Vec<_> =
            self.rules.values().map(|rule| format!("{} -> {}", rule.name, rule.stream)).collect();
        rules.sort();
        let patterns = self.public_streams.iter().map(|pattern| format!("streams {pattern}"));
        rules.into_iter().chain(patterns).collect()
    }
}

impl Refusal {
    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoChannel | Self::NotOpen(_) => "channel_not_open",
            Self::Parameter(_) => "parameter",
            Self::Name(_) => "stream_name",
            Self::TooLong => "max_identifier_bytes",
            Self::TooMany => "max_subscriptions",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(rules: &[(&str, &str)], public: &[&str]) -> Channels {
        let rule = |(name, stream): &(&str, &str)| Rule {
            name: (*name).into(),
            stream: stream.parse().unwrap(),
            allow: Allow::Public,
            state: false,
        };
        let patterns = public.iter().map(|text| Pattern::new(text)).collect();
        Channels::new(rules.iter().map(rule).collect(), patterns, Prefix::default()).unwrap()
    }

    fn resolve(channels: &Channels, identifier: &str) -> Result<String, Refusal> {
        channels
            .resolve(&Identifier::parse(identifier).unwrap(), None)
            .map(|target| target.stream.to_string())
    }

    #[test]
    fn a_rule_fills_its_template() {
        let channels = channels(&[("ProgressChannel", "progress:{job_id}")], &[]);
        let stream =
            |id: &str| resolve(&channels, &format!(r#"{{"channel":"ProgressChannel","job_id":{id}}}"#));

        assert_eq!(stream("42").unwrap(), "progress:42");
        assert_eq!(stream("\"42\"").unwrap(), "progress:42");
        assert_eq!(stream("12345678901234567890123").unwrap(), "progress:12345678901234567890123");
        assert_eq!(stream("\"a:b%3A\"").unwrap(), "progress:a%3Ab%253A");
        for bad in ["null", "{}", "[1]", "\"\""] {
            assert_eq!(stream(bad), Err(Refusal::Parameter("job_id".into())), "{bad}");
        }
        assert_eq!(
            resolve(&channels, r#"{"channel":"ProgressChannel"}"#),
            Err(Refusal::Parameter("job_id".into()))
        );
        assert_eq!(stream("\"a\\u0000b\""), Err(Refusal::Name(StreamError::Nul)));
    }

    #[test]
    fn a_pattern_opens_streams_that_are_named() {
        let channels = channels(&[], &["progress:*"]);
        let by = |key: &str, name: &str| {
            resolve(&channels, &format!(r#"{{"channel":"$pubsub","{key}":"{name}"}}"#))
        };

        assert_eq!(by("stream_name", "progress:1:2").unwrap(), "progress:1:2");
        assert_eq!(by("stream", "progress:1").unwrap(), "progress:1");
        assert_eq!(by("stream_name", "secret:1"), Err(Refusal::NotOpen("$pubsub".into())));
        assert_eq!(by("signed_stream_name", "progress:1"), Err(Refusal::NotOpen("$pubsub".into())));
        assert_eq!(resolve(&channels, r#"{"stream":"progress:1"}"#), Err(Refusal::NoChannel));
    }

    #[test]
    fn nothing_opens_rails_own_streams() {
        let channels = channels(&[("C", "{name}"), ("D", "action_cable/{id}")], &["*"]);
        let reserved = Err(Refusal::Name(StreamError::Reserved));

        assert_eq!(resolve(&channels, r#"{"channel":"C","name":"action_cable/1"}"#), reserved);
        assert_eq!(resolve(&channels, r#"{"channel":"D","id":1}"#), reserved);
        assert_eq!(resolve(&channels, r#"{"channel":"$pubsub","stream_name":"action_cable/1"}"#), reserved);
    }

    #[test]
    fn a_rule_alone_answers_for_its_channel() {
        let channels = channels(&[("ProgressChannel", "progress:{job_id}")], &["*"]);

        let refusal = resolve(&channels, r#"{"channel":"ProgressChannel","stream":"anything"}"#);

        assert_eq!(refusal, Err(Refusal::Parameter("job_id".into())));
    }
}
