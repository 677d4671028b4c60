//! Who a connection belongs to: settled once, before its welcome.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tablecast_protocol::DisconnectReason;

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
    /// of members (`org.id`). Numbers keep their spelling.
    pub fn scalar(&self, path: &str) -> Option<String> {
        let mut members = path.split('.');
        let first = self.claims.get(members.next()?)?;
        match members.try_fold(first, |value, member| value.get(member))? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
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
        let identity = Identity { claims, name: None, expires: None };

        assert_eq!(identity.scalar("id").as_deref(), Some("9007199254740993"));
        assert_eq!(identity.scalar("org.id").as_deref(), Some("a"));
        for path in ["", "org", "org.name", "roles", "none", "id.x"] {
            assert_eq!(identity.scalar(path), None, "{path}");
        }
    }
}
