use std::fmt;

use serde_json::Value;

/// What a cookie names a session by: an integer or a text, normalised to text, since applications
/// write both `42` and `"42"` for the same row.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// Far more than a token has, and less than what a database would have to be asked to compare.
const LONGEST: usize = 1024;

impl Key {
    /// None for what names no session anywhere: what is neither text nor an integer (a float, a
    /// truth value, an array), 0, and text that is empty, is longer than a kilobyte, holds control
    /// characters or has blanks at its ends, which some collations don't see.
    pub fn new(value: &Value) -> Option<Self> {
        let text = match value {
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return None,
        };
        let is_good = (1..=LONGEST).contains(&text.len())
            && text != "0"
            && text.trim() == text
            && !text.contains(char::is_control);
        is_good.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The integer that this is the one way to write of.
    pub(super) fn integer(&self) -> Option<i128> {
        let integer: i128 = self.0.parse().ok()?;
        (integer.to_string() == *self.0).then_some(integer)
    }

    /// The bytes of a UUID as databases print it: lower case, with hyphens.
    pub(super) fn uuid(&self) -> Option<[u8; 16]> {
        let text = self.0.as_bytes();
        let is_uuid = text.len() == 36
            && text.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        let number = is_uuid.then(|| u128::from_str_radix(&self.0.replace('-', ""), 16))?;
        Some(number.ok()?.to_be_bytes())
    }

    /// Whether a column holds exactly this.
    pub(super) fn is(&self, column: &Value) -> bool {
        match column {
            Value::String(text) => **text == *self.0,
            Value::Number(number) => number.to_string() == *self.0,
            _ => false,
        }
    }
}

/// Whoever reads a session's name in a log may be able to use it.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_and_texts_name_sessions() {
        assert_eq!(Key::new(&json!(42)), Key::new(&json!("42")));
        for value in [json!(9_007_199_254_740_993_u64), json!(u64::MAX), json!(-7)] {
            assert_eq!(Key::new(&value).unwrap().as_str(), value.to_string());
        }
    }

    #[test]
    fn what_names_no_session_is_none() {
        for value in [
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!("0"),
            json!(""),
            json!(42.9),
            json!([42]),
            json!({"id": 42}),
            json!(" 42"),
            json!("42\n"),
            json!("42\0"),
            json!("a".repeat(1025)),
            // 2^64, which is a float to JSON's reader.
            serde_json::from_str("18446744073709551616").unwrap(),
        ] {
            assert_eq!(Key::new(&value), None, "{value}");
        }
    }

    #[test]
    fn an_integer_is_written_in_one_way() {
        let integer = |text: &str| Key::new(&json!(text)).unwrap().integer();
        assert_eq!(integer("9007199254740993"), Some(9_007_199_254_740_993));
        for text in ["42abc", "042", "+42", "-0", "4.2e1", "42.0", "0x2a", "4_2", "٤٢"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn a_uuid_is_written_in_one_way() {
        let uuid = |text: &str| Key::new(&json!(text)).unwrap().uuid();
        assert_eq!(uuid("00000000-0000-0000-0000-0000000000ff"), Some(255_u128.to_be_bytes()));
        for text in [
            "00000000-0000-0000-0000-0000000000FF",
            "000000000000000000000000000000ff",
            "{00000000-0000-0000-0000-0000000000ff}",
            "00000000-0000-0000-0000-0000000000f",
            "00000000-0000-0000-0000-0000000000f+",
        ] {
            assert_eq!(uuid(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        assert!(!format!("{:?}", Key::new(&json!("quiet")).unwrap()).contains("quiet"));
    }
}
