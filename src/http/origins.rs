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
}

#[derive(Debug, thiserror::Error)]
#[error("an origin begins with http:// or https://, and {0:?} doesn't")]
pub struct OriginError(String);

impl Origins {
    pub fn new(patterns: &[String]) -> Result<Self, OriginError> {
        let schemes = ["http://", "https://"];
        let is_good =
            |pattern: &str| pattern == "*" || schemes.iter().any(|scheme| pattern.starts_with(scheme));
        if let Some(bad) = patterns.iter().find(|pattern| !is_good(pattern)) {
            return Err(OriginError(bad.clone()));
        }
        Ok(Self { any: patterns.iter().any(|pattern| pattern == "*"), patterns: patterns.to_vec() })
    }

    pub fn is_any(&self) -> bool {
        self.any
    }

    pub fn allows(&self, headers: &HeaderMap) -> bool {
        if self.any {
            return true;
        }
        let Some(origin) = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok()) else { return false };
        is_same_host(origin, headers) || self.patterns.iter().any(|pattern| matches_by_label(pattern, origin))
    }
}

/// Whether a browser says that a page of another site makes this request.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let fetched_from_elsewhere = headers
        .get("sec-fetch-site")
        .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    let origin_elsewhere =
        headers.get(ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(|o| is_same_host(o, headers)));
    fetched_from_elsewhere || origin_elsewhere
}

/// Whether the page comes from the host that it asks. Its scheme is not compared: behind
/// a proxy that ends TLS ours isn't the one that the browser sees.
fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, from)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let bare = |name: &str| name.strip_suffix(default_port).unwrap_or(name).to_ascii_lowercase();
    bare(from) == bare(host)
}

/// `https://*.example.com` against `https://app.example.com`: a star stands for one
/// label, or a port, and never for a dot, colon or slash.
pub(super) fn matches_by_label(pattern: &str, text: &str) -> bool {
    let mut text = text.chars().peekable();
    let in_label = |c: &char| !matches!(c, '.' | ':' | '/');
    for expected in pattern.chars() {
        if expected == '*' {
            if text.next_if(in_label).is_none() {
                return false;
            }
            while text.next_if(in_label).is_some() {}
        } else if text.next().is_none_or(|found| !found.eq_ignore_ascii_case(&expected)) {
            return false;
        }
    }
    text.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], origin: Option<&str>, host: &str) -> bool {
        let patterns: Vec<_> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        Origins::new(&patterns).unwrap().allows(&headers)
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
    fn a_star_alone_lets_everybody_in() {
        assert!(allows(&["*"], None, "h"));
        assert!(allows(&["*"], Some("https://evil.example"), "h"));
    }
}
