use std::fmt;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};

use crate::channels::Pattern;

/// The keys that open publishing by HTTP: several, so that a new one is known before the old one
/// goes.
#[derive(Debug, Clone, Default)]
pub struct PublishKeys(Vec<PublishKey>);

#[derive(Debug, Clone)]
pub struct PublishKey {
    pub secret: SecretString,
    pub opens: Scope,
}

/// What a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// Publishing into these streams, and nothing else.
    Streams(Vec<Pattern>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("a publish key is empty")]
    Empty,
    #[error("two publish keys are the same, and it can't be told which is meant")]
    Twice,
}

impl PublishKeys {
    pub fn new(keys: Vec<PublishKey>) -> Result<Self, KeysError> {
        let secrets = || keys.iter().map(|key| key.secret.expose_secret());
        if secrets().any(str::is_empty) {
            return Err(KeysError::Empty);
        }
        if secrets().enumerate().any(|(index, secret)| secrets().skip(index + 1).any(|other| other == secret))
        {
            return Err(KeysError::Twice);
        }
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that this is; none if it is none. How long it takes depends on how many there are, and
    /// not on which it is or how much of one was guessed.
    pub fn find(&self, given: &[u8]) -> Option<&PublishKey> {
        let same = |key: &PublishKey| {
            let secret = key.secret.expose_secret().as_bytes();
            aws_lc_rs::constant_time::verify_slices_are_equal(given, secret).is_ok()
        };
        self.0.iter().fold(None, |found, key| if same(key) { Some(key) } else { found })
    }

    /// A key to publish into a stream with.
    pub fn for_stream(&self, stream: &str) -> Option<&SecretString> {
        self.0.iter().find(|key| key.opens.publishing(stream)).map(|key| &key.secret)
    }
}

impl PublishKey {
    /// Bytes that only this key makes of `text`.
    pub fn seal(&self, text: &[u8]) -> Vec<u8> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.expose_secret().as_bytes());
        hmac::sign(&key, text).as_ref().to_vec()
    }
}

impl Scope {
    /// Whether it opens publishing into a stream, named without its prefix.
    pub fn publishing(&self, stream: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Streams(patterns) => patterns.iter().any(|pattern| pattern.matches(stream)),
        }
    }
}

/// For people: how many, and what they are limited to.
impl fmt::Display for PublishKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [_] => f.write_str("with a key"),
            keys => write!(f, "with one of {} keys", keys.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str, streams: Option<&[&str]>) -> PublishKey {
        let patterns = |texts: &[&str]| Scope::Streams(texts.iter().map(|text| Pattern::new(text)).collect());
        PublishKey { secret: secret.into(), opens: streams.map_or(Scope::Everything, patterns) }
    }

    #[test]
    fn each_key_opens_what_it_is_for() {
        let keys = PublishKeys::new(vec![
            key("all", None),
            key("some", Some(&["a", "b:*"])),
            key("none", Some(&[])),
        ])
        .unwrap();
        let opens =
            |secret: &str, stream: &str| keys.find(secret.as_bytes()).map(|key| key.opens.publishing(stream));

        assert_eq!(opens("all", "x"), Some(true));
        assert_eq!(opens("some", "b:1"), Some(true));
        assert_eq!(opens("some", "b"), Some(false));
        assert_eq!(opens("none", "a"), Some(false));
        for wrong in ["", "al", "all ", "All", "al\0", "allall"] {
            assert_eq!(opens(wrong, "a"), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_client_takes_the_first_key_that_opens_its_stream() {
        let keys = PublishKeys::new(vec![key("a", Some(&["a:*"])), key("all", None)]).unwrap();
        let chosen = |stream| keys.for_stream(stream).map(|key| key.expose_secret().to_owned());
        assert_eq!(chosen("a:1").as_deref(), Some("a"));
        assert_eq!(chosen("b").as_deref(), Some("all"));
    }

    #[test]
    fn an_empty_key_and_one_that_is_there_twice_are_errors() {
        let error = |keys| PublishKeys::new(keys).unwrap_err();
        assert_eq!(error(vec![key("", None)]), KeysError::Empty);
        assert_eq!(error(vec![key("a", None), key("b", None), key("a", Some(&["s"]))]), KeysError::Twice);
    }

    #[test]
    fn no_key_is_shown() {
        let keys = PublishKeys::new(vec![key("s3cret", None)]).unwrap();
        assert!(!format!("{keys:?} {keys}").contains("s3cret"));
    }
}
