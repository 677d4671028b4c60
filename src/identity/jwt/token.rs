use std::borrow::Cow;

use axum::http::header::{AUTHORIZATION, HeaderMap, HeaderName, SEC_WEBSOCKET_PROTOCOL};
use percent_encoding::percent_decode_str;

const JID: HeaderName = HeaderName::from_static("x-jid");
const BEARER: &str = "bearer";
/// An entry of `Sec-WebSocket-Protocol` in which AnyCable's client carries its token.
const SUBPROTOCOL: &str = "anycable-token.";
pub const PARAMETERS: [&str; 2] = ["jid", "token"];

/// What a header that isn't text is read as: a token that is refused, rather than none.
const NOT_TEXT: &str = "\u{fffd}";

/// The token that a handshake shows: as `X-JID`, else as a bearer, else by a subprotocol, else as
/// `jid` or `token` of the query, the first of them. An empty one is none.
pub fn find<'a>(query: Option<&'a str>, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let as_jid = texts(headers, JID);
    let as_bearer = texts(headers, AUTHORIZATION).filter_map(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim())
    });
    let protocols = texts(headers, SEC_WEBSOCKET_PROTOCOL).flat_map(|text| text.split(','));
    let as_protocol = protocols.filter_map(|name| name.trim().strip_prefix(SUBPROTOCOL));
    let as_parameter = query.into_iter().flat_map(|query| query.split('&')).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        PARAMETERS.contains(&name).then(|| percent_decode_str(value).decode_utf8_lossy())
    });
    let of_headers = as_jid.chain(as_bearer).chain(as_protocol).map(Cow::Borrowed);
    of_headers.chain(as_parameter).find(|token| !token.is_empty())
}

fn texts(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| str::from_utf8(value.as_bytes()).unwrap_or(NOT_TEXT))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &[u8])]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_found_wherever_a_client_can_put_it() {
        let find_one = |name, value: &str| {
            let headers = headers(&[(name, value.as_bytes())]);
            find(None, &headers).map(Cow::into_owned)
        };

        assert_eq!(find_one(JID, "a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(find_one(AUTHORIZATION, "Bearer a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(find_one(AUTHORIZATION, "bearer  a.b.c ").as_deref(), Some("a.b.c"));
        assert_eq!(find_one(AUTHORIZATION, "Basic YTpi"), None);
        assert_eq!(find_one(AUTHORIZATION, "Bearer"), None);
        let offered = "actioncable-v1-json, anycable-token.a.b.c";
        assert_eq!(find_one(SEC_WEBSOCKET_PROTOCOL, offered).as_deref(), Some("a.b.c"));
        assert_eq!(find_one(SEC_WEBSOCKET_PROTOCOL, "actioncable-v1-json, token.a.b.c"), None);
        assert_eq!(find(Some("sid=1&jid=a.b.c"), &HeaderMap::new()).as_deref(), Some("a.b.c"));
        assert_eq!(find(Some("token=a.b.c"), &HeaderMap::new()).as_deref(), Some("a.b.c"));
        assert_eq!(find(Some("jid"), &HeaderMap::new()), None);
        assert_eq!(find(None, &HeaderMap::new()), None);
    }

    #[test]
    fn the_first_that_is_not_empty_counts() {
        let all = [
            (JID, b"jid".as_slice()),
            (AUTHORIZATION, b"Bearer bearer"),
            (SEC_WEBSOCKET_PROTOCOL, b"anycable-token.protocol"),
        ];
        let found =
            |pairs: &[_]| find(Some("token=&jid=query&token=last"), &headers(pairs)).unwrap().into_owned();

        assert_eq!(found(&all), "jid");
        assert_eq!(found(&all[1..]), "bearer");
        assert_eq!(found(&all[2..]), "protocol");
        assert_eq!(found(&[]), "query");
        let empty = [
            (JID, b"".as_slice()),
            (AUTHORIZATION, b"Bearer "),
            (SEC_WEBSOCKET_PROTOCOL, b"anycable-token."),
        ];
        assert_eq!(found(&empty), "query");
    }

    #[test]
    fn a_query_is_decoded_once_and_what_is_no_text_stays_a_token() {
        assert_eq!(find(Some("jid=a%2Eb%252E"), &HeaderMap::new()).as_deref(), Some("a.b%2E"));
        assert_eq!(find(Some("jid=%FF"), &HeaderMap::new()).as_deref(), Some("\u{fffd}"));
        assert_eq!(find(None, &headers(&[(JID, b"\xff")])).as_deref(), Some(NOT_TEXT));
    }
}
