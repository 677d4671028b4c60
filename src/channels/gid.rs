use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// An application's name in its GlobalIDs: `my-app` in `gid://my-app/Post/1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalIdApp(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be letters, digits and hyphens, as GlobalID.app gives it")]
pub struct AppError;

/// A record's class: `Post`, `Admin::User`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model(String);

/// The text is no name of a Ruby class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoModel;

/// What Ruby's `CGI.escape` leaves as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl GlobalIdApp {
    /// What Rails' `to_gid_param` makes of a record, which is how `stream_for` names it; none if
    /// the id is none (see [`is_id`]).
    pub fn param(&self, model: &Model, id: &str) -> Option<String> {
        if !is_id(id) {
            return None;
        }
        // A form's space is a plus; the percent signs of the id itself are escaped by now.
        let id = utf8_percent_encode(id, ESCAPED).to_string().replace("%20", "+");
        Some(URL_SAFE_NO_PAD.encode(format!("gid://{}/{}/{id}", self.0, model.0)))
    }
}

/// A number is an id as the database writes it. `Post.find` casts `042` and `4.2` as well, and
/// then the stream has the record's own id in its name: who asks so would wait for ever at a
/// stream of another name, and is better refused. Any other text may be a key.
fn is_id(text: &str) -> bool {
    let is_numeric = text.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || "+-._".contains(c));
    let is_canonical = text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
    !text.is_empty() && (!is_numeric || is_canonical)
}

impl FromStr for GlobalIdApp {
    type Err = AppError;

    fn from_str(text: &str) -> Result<Self, AppError> {
        let is_good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if is_good { Ok(Self(text.into())) } else { Err(AppError) }
    }
}

impl FromStr for Model {
    type Err = NoModel;

    fn from_str(text: &str) -> Result<Self, NoModel> {
        let is_constant = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if text.split("::").all(is_constant) { Ok(Self(text.into())) } else { Err(NoModel) }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(app: &str, model: &str, id: &str) -> Option<String> {
        app.parse::<GlobalIdApp>().unwrap().param(&model.parse().unwrap(), id)
    }

    fn uri(app: &str, model: &str, id: &str) -> String {
        let bytes = URL_SAFE_NO_PAD.decode(param(app, model, id).unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_record_is_named_as_rails_names_it() {
        assert_eq!(param("app", "User", "7").unwrap(), "Z2lkOi8vYXBwL1VzZXIvNw");
        assert_eq!(param("my-app", "User", "1").unwrap(), "Z2lkOi8vbXktYXBwL1VzZXIvMQ");
        assert_eq!(param("TestApp", "Post", "1").unwrap(), "Z2lkOi8vVGVzdEFwcC9Qb3N0LzE");
        assert_eq!(uri("my-app", "Admin::User", "a/b c+é"), "gid://my-app/Admin::User/a%2Fb+c%2B%C3%A9");
        let uuid = "2d931510-d99f-494a-8c67-87feb05e1594";
        assert_eq!(uri("a", "Post", uuid), format!("gid://a/Post/{uuid}"));
    }

    #[test]
    fn a_number_is_an_id_in_one_spelling() {
        for good in ["0", "42", "9223372036854775807", "42-title", "01ARZ3NDEK", "a", "550e8400-e29b"] {
            assert!(param("a", "P", good).is_some(), "{good}");
        }
        for bad in ["", "042", "00", "+42", "-42", "42.0", "4_2", " 42", "42\n", " ", "-", "."] {
            assert_eq!(param("a", "P", bad), None, "{bad:?}");
        }
    }

    #[test]
    fn apps_and_models_are_names() {
        for bad in ["", "my_app", "a/b", "a b", "é", "a.b"] {
            assert_eq!(bad.parse::<GlobalIdApp>(), Err(AppError), "{bad}");
        }
        for bad in ["", "post", "Post::", "::Post", "Post::user", "A/B", "A B", "É"] {
            assert_eq!(bad.parse::<Model>(), Err(NoModel), "{bad}");
        }
    }
}
