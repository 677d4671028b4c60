use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

/// The pages that may connect.
///
/// A browser sends its page's origin and, to this server, the cookies of whoever looks at it;
/// so a page of another site is refused unless the operator lists it. A request that names no
/// origin is no browser's; Rails refuses it too, unless all are let in.
#[derive(Debug, Clone)]
pub struct Origins {
    patterns: Vec<String>,
    any: bool,
    /// This server speaks TLS itself: a page of the same host that came without it may be anybody's
    /// who stands on the way.
    speaks_tls: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("an origin begins with http:// or https://, and {0:?} doesn't")]
pub struct OriginError(String);

impl Origins {
    pub fn new(patterns: &[String], speaks_tls: bool) -> Result<Self, OriginError> {
        let schemes = ["http://", "https://"];
        let is_good =
            |pattern: &str| pattern == "*" || schemes.iter().any(|scheme| pattern.starts_with(scheme));
        if let Some(bad) = patterns.iter().find(|pattern| !is_good(pattern)) {
            return Err(OriginError(bad.clone()));
        }
        Ok(Self {
            any: patterns.iter().any(|pattern| pattern == "*"),
            patterns: patterns.to_vec(),
            speaks_tls,
        })
    }

    pub fn is_any(&self) -> bool {
        self.any
    }

    /// `forwarded_host` is what a proxy was asked for, where one is believed.
    pub fn allows(&self, headers: &HeaderMap, forwarded_host: Option<&str>) -> bool {
        if self.any {
            return true;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        // A browser names one.
        let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
        let Ok(origin) = origin.to_str() else { return false };
        let may_be_same = !self.speaks_tls || origin.starts_with("https://");
        (may_be_same && is_same_host(origin, forwarded_host.or_else(|| host(headers))))
            || self.patterns.iter().any(|pattern| matches_by_label(pattern, origin))
    }
}

/// Whether a browser says that a page of another site makes this request.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let fetched_from_elsewhere = headers
        .get("sec-fetch-site")
        .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let origin_elsewhere = headers
        .get_all(ORIGIN)
        .iter()
        .any(|origin| !origin.to_str().is_ok_and(|o| is_same_host(o, host(headers))));
    fetched_from_elsewhere || origin_elsewhere
}

/// Whether the page comes from the host that it asks. Its scheme is not compared here: behind
/// a proxy that ends TLS ours isn't the one that the browser sees.
fn is_same_host(origin: &str, host: Option<&str>) -> bool {
    let Some((scheme, from)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let Some(host) = host else { return false };
    let bare = |name: &str| name.strip_suffix(default_port).unwrap_or(name).to_ascii_lowercase();
    bare(from) == bare(host)
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// `https://*.example.com` against `https://app.example.com`: a star stands for one
/// label, or a port, and never for a dot, colon or slash.
pub fn matches_by_label(pattern: &str, text: &str) -> bool {
    pattern.matches(BETWEEN_LABELS).eq(text.matches(BETWEEN_LABELS))
        && pattern.split(BETWEEN_LABELS).zip(text.split(BETWEEN_LABELS)).all(|(p, t)| is_label(p, t))
}

const BETWEEN_LABELS: [char; 3] = ['.', ':', '/'];

/// One label against its pattern, where each star takes a character at least: the pieces between
/// the stars are found as early as can be.
fn is_label(pattern: &str, label: &str) -> bool {
    let (pattern, label) = (pattern.to_ascii_lowercase(), label.to_ascii_lowercase());
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut label) = label.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*');
    let last = pieces.next_back().expect("splitting gives at least one piece");
    for piece in pieces {
        let behind_one = label.chars().next().and_then(|taken| label.get(taken.len_utf8()..));
        let Some((_, rest)) = behind_one.and_then(|label| label.split_once(piece)) else { return false };
        label = rest;
    }
    label.strip_suffix(last).is_some_and(|taken| !taken.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(patterns: &[&str], origin: Option<&str>, host: &str) -> bool {
        let patterns: Vec<_> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        Origins::new(&patterns, false).unwrap().allows(&headers, None)
    }

    #[test]
    fn by_default_a_page_connects_to_its_own_host() {
        assert!(allows(&[], Some("http://app.example:3000"), "app.example:3000"));
        assert!(allows(&[], Some("https://app.example"), "app.example"));
        assert!(allows(&[], Some("https://app.example"), "APP.example:443"));
        assert!(!allows(&[], Some("http://app.example:3000"), "app.example"));
        assert!(!allows(&[], Some("http://evil.example"), "app.example"));
        assert!(!allows(&[], Some("null"), "app.example"));
        assert!(!allows(&[], Some("app.example"), "app.example"));
        assert!(!allows(&[], None, "app.example"));
    }

    #[test]
    fn behind_a_proxy_the_host_is_the_one_that_it_was_asked_for() {
        let headers = HeaderMap::from_iter([
            (HOST, "10.0.0.5:8080".parse().unwrap()),
            (ORIGIN, "https://app.example".parse().unwrap()),
        ]);
        let origins = Origins::new(&[], false).unwrap();

        assert!(origins.allows(&headers, Some("app.example")));
        assert!(!origins.allows(&headers, Some("other.example")));
        assert!(!origins.allows(&headers, None));
    }

    #[test]
    fn two_origins_are_none() {
        let mut headers = HeaderMap::from_iter([(HOST, "h".parse().unwrap())]);
        headers.append(ORIGIN, "http://h".parse().unwrap());
        assert!(Origins::new(&[], false).unwrap().allows(&headers, None) && !is_cross_site(&headers));

        headers.append(ORIGIN, "http://evil.example".parse().unwrap());
        assert!(!Origins::new(&[], false).unwrap().allows(&headers, None));
        assert!(is_cross_site(&headers));
    }

    #[test]
    fn where_this_server_speaks_tls_a_page_of_the_same_host_has_come_by_tls() {
        let allows = |origin: &str| {
            let headers =
                HeaderMap::from_iter([(HOST, "h".parse().unwrap()), (ORIGIN, origin.parse().unwrap())]);
            Origins::new(&["http://listed".into()], true).unwrap().allows(&headers, None)
        };
        assert!(allows("https://h") && allows("http://listed"));
        assert!(!allows("http://h"));
    }

    #[test]
    fn a_star_is_one_label() {
        let patterns = &["https://*.example.com", "http://localhost:*"];
        for good in ["https://app.example.com", "https://APP.example.com", "http://localhost:5173"] {
            assert!(allows(patterns, Some(good), "h"), "{good}");
        }
        for bad in [
            "http://app.example.com",
            "https://a.b.example.com",
            "https://.example.com",
            "https://evil.com/.example.com",
            "https://app.example.com.evil.com",
            "https://app.example.com:8443",
            "http://localhost:",
            "http://localhost",
        ] {
            assert!(!allows(patterns, Some(bad), "h"), "{bad}");
        }
    }

    #[test]
    fn a_star_is_a_part_of_a_label_too() {
        let patterns = &["https://pr-*-app.example.com", "https://*-a*b.example.com"];
        for good in ["pr-7-app", "PR-app-app-app", "x-a-ab", "x-a-bb"] {
            assert!(allows(patterns, Some(&format!("https://{good}.example.com")), "h"), "{good}");
        }
        for bad in ["pr--app", "pr-7.8-app", "pr-7-apps", "-a-b", "x-ab", "x-a.b"] {
            assert!(!allows(patterns, Some(&format!("https://{bad}.example.com")), "h"), "{bad}");
        }
    }

    fn by_the_book(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', pattern @ ..], [taken, text @ ..]) if !BETWEEN_LABELS.contains(taken) => {
                by_the_book(pattern, text) || by_the_book(&[&['*'], pattern].concat(), text)
            }
            ([p, pattern @ ..], [t, text @ ..]) if *p != '*' => {
                p.eq_ignore_ascii_case(t) && by_the_book(pattern, text)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[aBé.:*]{0,7}", text in "[abé.:]{0,8}") {
            let (p, t): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches_by_label(&pattern, &text), by_the_book(&p, &t));
        }
    }

    #[test]
    fn a_star_alone_lets_everybody_in() {
        assert!(allows(&["*"], None, "h"));
        assert!(allows(&["*"], Some("https://evil.example"), "h"));
    }
}
