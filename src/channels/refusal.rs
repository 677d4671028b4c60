use tablecast_protocol::signed::SignedError;

use super::condition::Condition;
use super::reference::Reference;
use crate::stream::StreamError;

/// Why a subscription is rejected. It is for metrics and for the log: the client learns that it
/// is, and not why, since that would tell a guesser how near it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the identifier names no channel")]
    NoChannel,
    #[error(
        "no [[channel]] rule names {0}, no pattern of --public-streams opens its stream, and there is no key for \
         signed names of it"
    )]
    NotOpen(String),
    #[error("parameter {0} is missing, empty, no record's id, or neither text, number nor boolean")]
    Parameter(String),
    #[error(
        "claim {0} is missing, empty, no record's id, or neither text, an integer of 64 bits nor a boolean"
    )]
    Claim(String),
    #[error("the connection is anonymous, and the rule asks who it is")]
    NotIdentified,
    #[error("it does not hold that {0}")]
    Condition(Condition),
    #[error("there is no signed_stream_name, or it is no text")]
    Unsigned,
    #[error("signed_stream_name: {0}")]
    Signature(#[from] SignedError),
    #[error("the signed name is another than the one that the rule makes")]
    AnotherName,
    #[error(transparent)]
    Name(#[from] StreamError),
    #[error("the identifier is longer than --max-identifier-bytes")]
    TooLong,
    #[error("the connection has as many subscriptions as --max-subscriptions allows")]
    TooMany,
}

impl Refusal {
    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoChannel | Self::NotOpen(_) => "channel_not_open",
            Self::Parameter(_) => "parameter",
            Self::Claim(_) => "claim",
            Self::NotIdentified => "not_identified",
            Self::Condition(_) => "condition",
            Self::Signature(SignedError::Expired) => "signature_expired",
            Self::Unsigned | Self::Signature(_) => "signature",
            Self::AnotherName => "another_name",
            Self::Name(_) => "stream_name",
            Self::TooLong => "max_identifier_bytes",
            Self::TooMany => "max_subscriptions",
        }
    }
}

impl From<Reference> for Refusal {
    fn from(missing: Reference) -> Self {
        match missing {
            Reference::Parameter(name) => Self::Parameter(name),
            Reference::Claim(path) => Self::Claim(path),
        }
    }
}
