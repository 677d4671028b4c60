use std::fmt;
use std::str::FromStr;

use tablecast_protocol::Identifier;

use crate::identity::Identity;

/// What stands in braces: a value that the client chooses, or one that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `{job_id}`: a parameter of the identifier.
    Parameter(String),
    /// `{user.id}`: a claim of the connection's identity, by its path.
    Claim(String),
}

/// The text in braces is neither a parameter's name nor a claim's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoReference;

/// Who asks for what: where references find their values.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub identifier: &'a Identifier<'a>,
    pub who: Option<&'a Identity>,
}

const CLAIMS: &str = "user.";

impl Reference {
    pub fn is_claim(&self) -> bool {
        matches!(self, Self::Claim(_))
    }
}

impl Asked<'_> {
    /// The value as text: a string, a number or a boolean. An empty one counts as missing: it
    /// tells nobody apart.
    pub fn value(&self, reference: &Reference) -> Option<String> {
        let value = match reference {
            Reference::Parameter(name) => self.identifier.scalar(name),
            Reference::Claim(path) => self.who?.scalar(path),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Whether the claim is a list that holds the value.
    pub fn is_member(&self, value: &str, path: &str) -> bool {
        self.who.is_some_and(|who| who.members(path).any(|member| member == value))
    }
}

impl FromStr for Reference {
    type Err = NoReference;

    fn from_str(text: &str) -> Result<Self, NoReference> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_name = |name: &str, also: fn(char) -> bool| {
            !name.is_empty() && name.chars().all(|c| is_word(c) || also(c))
        };
        match text.strip_prefix(CLAIMS) {
            Some(path) if path.split('.').all(|member| is_name(member, |c| c == '-')) => {
                Ok(Self::Claim(path.into()))
            }
            None if is_name(text, |_| false) => Ok(Self::Parameter(text.into())),
            _ => Err(NoReference),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => f.write_str(name),
            Self::Claim(path) => write!(f, "{CLAIMS}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_hold_a_parameter_or_a_claim() {
        for text in ["job_id", "Room2", "user", "user.id", "user.org.id", "user.0", "user.org-id"] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        for text in ["", "a b", "a.b", "a-b", "user.", "user..id", "user.a b", "user.{", "é", "User.id"] {
            assert_eq!(text.parse::<Reference>(), Err(NoReference), "{text}");
        }
    }
}
