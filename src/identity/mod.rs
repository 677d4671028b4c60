//! Who a connection belongs to: settled once, before its welcome.

mod identification;
pub mod jwt;
pub mod lookup;
pub mod rails;

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tablecast_protocol::DisconnectReason;

pub use identification::{Identification, IdentificationConfig};
use lookup::OpenSession;

/// What is known of who is connected.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// What channel rules read as `{user.…}`.
    pub claims: Map<String, Value>,
    /// By which the application ends the connections of this identity; Rails' connection
    /// identifier. Limits for each user go by it too.
    pub name: Option<Arc<str>>,
    /// When it ends by itself.
    pub expires: Option<SystemTime>,
    /// The session that it was let in by, where that is asked for again.
    pub session: Option<OpenSession>,
}

/// Who is connected; none is anybody.
pub type Who = Option<Arc<Identity>>;

/// Why a connection ends before its welcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    #[error("the connection shows no identity, and this server asks for one")]
    Missing,
    #[error("the token has expired")]
    Expired,
    #[error("the identity can't be looked up now")]
    Unavailable,
}

impl Unidentified {
    /// What the client is told.
    pub fn reason(&self) -> DisconnectReason {
        match self {
            Self::Missing => DisconnectReason::Unauthorized,
            Self::Expired => DisconnectReason::TokenExpired,
            Self::Unavailable => DisconnectReason::IdentityUnavailable,
        }
    }
}

impl Identity {
    /// A claim as a template or a condition reads it: text, a number or a boolean, found by a path
    /// of members (`org.id`). Of numbers integers of 64 bits alone: others have lost digits when
    /// they were read, and two users could be one.
    pub fn scalar(&self, path: &str) -> Option<String> {
        text(self.find(path)?)
    }

    /// The scalars of a claim that is a list; none of another one.
    pub fn members(&self, path: &str) -> impl Iterator<Item = String> {
        let list = self.find(path).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(text)
    }

    fn find(&self, path: &str) -> Option<&Value> {
        let mut members = path.split('.');
        let first = self.claims.get(members.next()?)?;
        members.try_fold(first, |value, member| value.get(member))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(flag) => Some(flag.to_string()),
        other => id_text(other),
    }
}

/// What can tell one from all others: a text, or a number that has kept its digits.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => (!number.is_f64()).then(|| number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_its_path() {
        let Value::Object(claims) =
            json!({"id": 9007199254740993_u64, "org": {"id": "a"}, "roles": ["x"], "none": null})
        else {
            unreachable!()
        };
        let identity = Identity { claims, name: None, expires: None, session: None };

        assert_eq!(identity.scalar("id").as_deref(), Some("9007199254740993"));
        assert_eq!(identity.scalar("org.id").as_deref(), Some("a"));
        for path in ["", "org", "org.name", "roles", "none", "id.x"] {
            assert_eq!(identity.scalar(path), None, "{path}");
        }
    }

    #[test]
    fn a_list_has_its_scalars_as_members() {
        let Value::Object(claims) = json!({"rooms": ["a", 7, true, null, ["b"], {"c": "d"}], "room": "a"})
        else {
            unreachable!()
        };
        let identity = Identity { claims, name: None, expires: None, session: None };

        assert_eq!(identity.members("rooms").collect::<Vec<_>>(), ["a", "7", "true"]);
        assert_eq!(identity.members("room").count() + identity.members("none").count(), 0);
    }

    #[test]
    fn a_number_that_lost_digits_is_no_value() {
        let claims = r#"{"a": 12345678901234567890123, "b": 1.5, "c": 1e3, "d": 18446744073709551615}"#;
        let identity = Identity {
            claims: serde_json::from_str(claims).unwrap(),
            name: None,
            expires: None,
            session: None,
        };

        for path in ["a", "b", "c"] {
            assert_eq!(identity.scalar(path), None, "{path}");
        }
        assert_eq!(identity.scalar("d").as_deref(), Some("18446744073709551615"));
    }
}
