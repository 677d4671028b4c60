//! Streams and prefixes: the names under which messages flow.
//!
//! This is the one place that joins a prefix and a stream, and takes them apart.

use std::fmt;
use std::sync::Arc;

/// A named flow of messages, without its prefix: `progress:42`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(Arc<str>);

/// What a server's channels begin with in the table: `staging` in `staging:progress:42`.
///
/// It holds no colon, so a channel's first colon ends it, whatever names follow:
/// nobody who chooses a stream's name can step into another prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(Option<Arc<str>>);

/// The longest name with its prefix, in bytes; what Solid Cable's column holds.
pub const MAX_CHANNEL_BYTES: usize = 1024;

/// Rails' remote disconnects live under these names.
const RESERVED: &str = "action_cable/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("a stream's name is empty")]
    Empty,
    #[error("a stream's name is {0} bytes with its prefix, more than {MAX_CHANNEL_BYTES}")]
    TooLong(usize),
    #[error("a stream's name holds a NUL character")]
    Nul,
    #[error("streams that begin with {RESERVED} belong to Rails")]
    Reserved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    #[error("a channel prefix holds no colon")]
    Colon,
    #[error("a channel prefix holds no NUL character")]
    Nul,
    #[error("a channel prefix is shorter than {} bytes", MAX_CHANNEL_BYTES / 2)]
    TooLong,
}

impl Prefix {
    /// An empty one counts as none.
    pub fn new(text: &str) -> Result<Self, PrefixError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        if text.contains(':') {
            return Err(PrefixError::Colon);
        }
        if text.contains('\0') {
            return Err(PrefixError::Nul);
        }
        if text.len() >= MAX_CHANNEL_BYTES / 2 {
            return Err(PrefixError::TooLong);
        }
        Ok(Self(Some(text.into())))
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The prefix, or `""`.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// A stream under this prefix by its name.
    pub fn stream(&self, name: &str) -> Result<Stream, StreamError> {
        let stream = self.any_stream(name.into())?;
        // Without a prefix of our own, another's reserved names are in reach too.
        let behind_a_prefix = name.split_once(':').map_or("", |(_, rest)| rest);
        if name.starts_with(RESERVED) || (self.is_none() && behind_a_prefix.starts_with(RESERVED)) {
            return Err(StreamError::Reserved);
        }
        Ok(stream)
    }

    /// Where the remote disconnects of the connections of this name go, Rails' and ours.
    pub fn disconnects(&self, name: &str) -> Result<Stream, StreamError> {
        if name.is_empty() {
            return Err(StreamError::Empty);
        }
        self.any_stream(format!("{RESERVED}{name}").into())
    }

    /// One that the table can hold, whoever it belongs to.
    fn any_stream(&self, name: Arc<str>) -> Result<Stream, StreamError> {
        if name.is_empty() {
            return Err(StreamError::Empty);
        }
        if name.contains('\0') {
            return Err(StreamError::Nul);
        }
        let length = self.lead().len() + name.len();
        if length > MAX_CHANNEL_BYTES { Err(StreamError::TooLong(length)) } else { Ok(Stream(name)) }
    }

    /// What the table's `channel` holds for a stream.
    pub fn channel(&self, stream: &Stream) -> String {
        self.lead() + &stream.0
    }

    /// The stream that a row's `channel` names here; none for another prefix's row,
    /// or a name that no client can subscribe to.
    pub fn strip(&self, channel: &[u8]) -> Option<Stream> {
        let name = channel.strip_prefix(self.lead().as_bytes())?;
        Some(Stream(std::str::from_utf8(name).ok()?.into()))
    }

    /// What each channel of this prefix begins with: `staging:`, or nothing.
    pub fn lead(&self) -> String {
        self.0.as_ref().map(|prefix| format!("{prefix}:")).unwrap_or_default()
    }
}

impl Stream {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the connections that its messages end, if it is one of [`Prefix::disconnects`].
    pub fn disconnects(&self) -> Option<&str> {
        self.0.strip_prefix(RESERVED)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// For people: `prefix staging`, or `no prefix`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(prefix) => write!(f, "prefix {prefix}"),
            None => f.write_str("no prefix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).unwrap()
    }

    #[test]
    fn no_name_steps_into_another_prefix() {
        let a = prefix("a");

        let channel = a.channel(&a.stream("b:x").unwrap());

        assert_eq!(channel, "a:b:x");
        assert_eq!(a.strip(b"a:b:x"), a.stream("b:x").ok());
        assert_eq!(prefix("b").strip(b"a:b:x"), None);
    }

    #[test]
    fn a_prefix_holds_no_colon_and_an_empty_one_is_none() {
        assert_eq!(Prefix::new("a:b"), Err(PrefixError::Colon));
        assert!(prefix("").is_none());
    }

    #[test]
    fn names_are_bounded_with_their_prefix() {
        assert!(prefix("").stream(&"x".repeat(1024)).is_ok());
        assert_eq!(prefix("ab").stream(&"x".repeat(1022)), Err(StreamError::TooLong(1025)));
        assert_eq!(prefix("").stream("a\0b"), Err(StreamError::Nul));
        assert_eq!(prefix("").stream(""), Err(StreamError::Empty));
    }

    #[test]
    fn rails_own_streams_are_nobody_elses() {
        assert_eq!(prefix("a").stream("action_cable/1"), Err(StreamError::Reserved));
        assert_eq!(prefix("").stream("action_cable/1"), Err(StreamError::Reserved));
        assert_eq!(prefix("").stream("staging:action_cable/1"), Err(StreamError::Reserved));
        assert!(prefix("a").stream("b:action_cable/1").is_ok());

        let stream = prefix("a").disconnects("Z2lk").unwrap();
        assert_eq!(prefix("a").channel(&stream), "a:action_cable/Z2lk");
        assert_eq!(stream.disconnects(), Some("Z2lk"));
        assert_eq!(prefix("a").strip(b"a:b:action_cable/1").unwrap().disconnects(), None);
        assert_eq!(prefix("").disconnects(""), Err(StreamError::Empty));
    }
}
