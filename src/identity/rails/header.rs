//! The `Cookie` header as Rack reads it, which is what the application's own answers are by.

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use percent_encoding::percent_decode;

use super::CookieError;

/// The value of the first cookie with this name, in all the fields that HTTP/2 may have made of
/// the header. The same name comes twice where paths or domains differ, and Rails looks at the
/// first alone.
pub(super) fn value(headers: &HeaderMap, name: &str) -> Result<Option<String>, CookieError> {
    let mut fields = headers.get_all(COOKIE).iter();
    let found = fields.find_map(|field| named(field.as_bytes(), name));
    found.map(form_decoded).transpose()
}

/// The first cookie with this name in one field, as it stands there. Its name is taken as it
/// is, and so are quotes and spaces around its value. One without a value is empty.
pub fn named<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = field.split(|&byte| byte == b';').enumerate();
    let mut pairs = pairs.map(|(n, pair)| {
        // Spaces are a part of what stands between two, and not of the first.
        let pair = if n == 0 { pair } else { trim_spaces(pair) };
        let end = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        (&pair[..end], pair.get(end + 1..).unwrap_or_default())
    });
    pairs.find_map(|(key, value)| (key == name.as_bytes()).then_some(value))
}

fn trim_spaces(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Decoded as a field of a form is, once: `+` is a space. With one bad escape in it all of it
/// stays as it is.
pub fn form_decoded(raw: &[u8]) -> Result<String, CookieError> {
    let mut escapes = raw.split(|&byte| byte == b'%').skip(1);
    let is_good = escapes.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit));
    let bytes = if is_good {
        let spaced: Vec<_> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_decode(&spaced).collect()
    } else {
        raw.to_vec()
    };
    String::from_utf8(bytes).map_err(|_| CookieError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_of(fields: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, field.parse().unwrap());
        }
        value(&headers, "id").unwrap()
    }

    #[test]
    fn the_first_of_a_name_counts_in_whatever_field() {
        assert_eq!(value_of(&["a=1; id=2; id=3"]).as_deref(), Some("2"));
        assert_eq!(value_of(&["a=1", "id=2", "id=3"]).as_deref(), Some("2"));
        assert_eq!(value_of(&["a=1;   id=2"]).as_deref(), Some("2"));
        assert_eq!(value_of(&["id; id=3"]).as_deref(), Some(""));
        assert_eq!(value_of(&["id=a=b"]).as_deref(), Some("a=b"));
    }

    #[test]
    fn a_name_is_exact() {
        for field in ["ID=1", "%69d=1", "id =1", " id=1", "xid=1", "a=1, id=2", "a=id=1", ""] {
            assert_eq!(value_of(&[field]), None, "{field}");
        }
    }

    #[test]
    fn a_value_is_decoded_once_as_a_form() {
        assert_eq!(value_of(&["id=%2B+%2f%2541"]).as_deref(), Some("+ /%41"));
        assert_eq!(value_of(&["id=%41+%zz"]).as_deref(), Some("%41+%zz"));
        assert_eq!(value_of(&["id=%4"]).as_deref(), Some("%4"));
        assert_eq!(value_of(&["id=\"1\" "]).as_deref(), Some("\"1\" "));
        assert_eq!(form_decoded(b"%ff"), Err(CookieError::Utf8));
    }
}
