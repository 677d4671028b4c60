use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

/// A subscription's name, read: `{"channel":"ProgressChannel","job_id":42}`.
///
/// The raw text stays the name. It is echoed byte for byte, and
/// `{"a":1,"channel":"X"}` and `{"channel":"X","a":1}` are two subscriptions.
#[derive(Debug)]
pub struct Identifier<'a> {
    parameters: HashMap<Cow<'a, str>, &'a RawValue>,
}

/// The text isn't a JSON object, so it names no channel.
#[derive(Debug, thiserror::Error)]
#[error("an identifier is a JSON object")]
pub struct IdentifierError(#[from] serde_json::Error);

impl<'a> Identifier<'a> {
    pub fn parse(raw: &'a str) -> Result<Self, IdentifierError> {
        Ok(Self { parameters: serde_json::from_str(raw)? })
    }

    /// The channel class it asks for.
    pub fn channel(&self) -> Option<String> {
        self.text("channel")
    }

    /// Whether it has the parameter, whatever that holds.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// A parameter that is a JSON string.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.parameters.get(name)?.get()).ok()
    }

    /// A parameter that can stand in a stream's name: a string, a number or a
    /// boolean. A number keeps its digits, however many: `1e3` is not `1000`.
    pub fn scalar(&self, name: &str) -> Option<String> {
        let raw = self.parameters.get(name)?.get();
        match raw.as_bytes().first()? {
            b'"' => self.text(name),
            b'{' | b'[' | b'n' => None,
            _ => Some(raw.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scalars_can_name_a_stream() {
        let raw = r#"{"s":"é","n":123456789012345678901234567890,"b":true,"o":{},"a":[],"z":null}"#;

        let identifier = Identifier::parse(raw).unwrap();

        let scalar = |name| identifier.scalar(name);
        assert_eq!(scalar("s").as_deref(), Some("é"));
        assert_eq!(scalar("n").as_deref(), Some("123456789012345678901234567890"));
        assert_eq!(scalar("b").as_deref(), Some("true"));
        for name in ["o", "a", "z", "missing"] {
            assert_eq!(scalar(name), None, "{name}");
        }
    }

    #[test]
    fn an_identifier_is_an_object() {
        for raw in ["", "1", "[]", "null", "\"x\"", "{", "{\"a\":}"] {
            assert!(Identifier::parse(raw).is_err(), "{raw}");
        }
    }
}
