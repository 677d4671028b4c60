use std::str::FromStr;

use serde_json::Value;

use super::CookieError;

/// Where an id stands in a cookie's value: keys and indexes with dots between them, such as
/// `user_id` or `warden.user.user.key.0.0`. The empty path is the value itself.
///
/// Keys of a Rails session hold dots themselves. At each object the longest key that is there
/// is taken, and no other is tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(String);

#[derive(Debug, thiserror::Error)]
#[error("it must be keys and indexes with dots between them, such as user_id or warden.user.user.key.0.0")]
pub struct PathError;

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let is_good = text.is_empty() || text.split('.').all(|step| !step.is_empty());
        if is_good { Ok(Self(text.to_owned())) } else { Err(PathError) }
    }
}

impl Path {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id there; none where nothing or null is.
    pub fn id(&self, value: &Value) -> Result<Option<Value>, CookieError> {
        let found = find(value, &self.0).unwrap_or(&Value::Null);
        let what = match found {
            Value::Null => return Ok(None),
            Value::String(text) if !text.is_empty() => return Ok(Some(found.clone())),
            // No row has it, and much becomes it that wasn't meant to be a number.
            Value::Number(number) if number.as_i64() == Some(0) => "0",
            // Larger ones have lost digits, and with them who they are.
            Value::Number(number) if number.is_i64() || number.is_u64() => return Ok(Some(found.clone())),
            Value::Number(_) => "a number that isn't whole or doesn't fit 64 bits",
            Value::String(_) => "an empty text",
            Value::Bool(_) => "true or false",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Err(CookieError::NotAnId(what))
    }
}

fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(value);
    }
    let ends = std::iter::once(path.len()).chain(path.rmatch_indices('.').map(|(at, _)| at));
    let (inner, end) = match value {
        Value::Object(members) => ends.filter_map(|end| Some((members.get(&path[..end])?, end))).next()?,
        Value::Array(items) => {
            let end = path.find('.').unwrap_or(path.len());
            (items.get(index(&path[..end])?)?, end)
        }
        _ => return None,
    };
    find(inner, path.get(end + 1..).unwrap_or_default())
}

/// Digits alone: `usize` would take a sign too.
fn index(step: &str) -> Option<usize> {
    if step.bytes().all(|byte| byte.is_ascii_digit()) { step.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(value: Value, path: &str) -> Result<Option<Value>, CookieError> {
        path.parse::<Path>().unwrap().id(&value)
    }

    #[test]
    fn a_path_goes_through_keys_that_hold_dots() {
        let session = json!({ "warden.user.user.key": [[7], "salt"], "user_id": "x", "a": { "b.c": 1, "b": { "c": 2 } } });

        assert_eq!(id(session.clone(), "warden.user.user.key.0.0"), Ok(Some(json!(7))));
        assert_eq!(id(session.clone(), "user_id"), Ok(Some(json!("x"))));
        assert_eq!(id(session, "a.b.c"), Ok(Some(json!(1))));
    }

    #[test]
    fn where_the_path_is_not_there_is_an_anonymous_visitor() {
        for (value, path) in [
            (json!({ "session_id": "x" }), "user_id"),
            (json!({ "user_id": null }), "user_id"),
            (json!({ "user_id": 7 }), "user_id.0"),
            (json!({ "key": [[7]] }), "key.1.0"),
            (json!({ "key": [[7]] }), "key.+0.0"),
            (json!({ "key": [[7]] }), "key.00000000000000000000000.x"),
            (json!(7), "user_id"),
            (json!(null), ""),
        ] {
            assert_eq!(id(value.clone(), path), Ok(None), "{path} of {value}");
        }
    }

    #[test]
    fn only_texts_and_whole_numbers_are_ids() {
        for value in [json!(-1), json!(9_007_199_254_740_993_u64), json!(u64::MAX), json!("42"), json!("0")] {
            assert_eq!(id(value.clone(), ""), Ok(Some(value)));
        }
        let beyond: Value = serde_json::from_str("18446744073709551616").unwrap();
        for value in
            [json!(0), json!(42.9), json!(""), json!(true), json!(false), json!([42]), json!({}), beyond]
        {
            assert!(matches!(id(value.clone(), ""), Err(CookieError::NotAnId(_))), "{value}");
        }
    }

    #[test]
    fn a_path_with_an_empty_step_is_a_mistake() {
        for path in [".", "a.", ".a", "a..b"] {
            assert!(path.parse::<Path>().is_err(), "{path}");
        }
    }
}
