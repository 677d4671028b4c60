use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};

use super::origins::matches_by_label;

/// The names that requests may be addressed to.
///
/// A page elsewhere can point its own name at 127.0.0.1 and then be of the "same origin" as
/// what listens there. So a listener on a loopback address answers to loopback names alone,
/// and to those that the operator lists.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<String>);

#[derive(Debug, thiserror::Error)]
#[error("requests for host {0:?} are not answered here; --allowed-hosts lists the names that are")]
pub struct ForeignHost(String);

impl Hosts {
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.to_vec())
    }

    /// All hosts that a request names: one header, what an absolute URI has before its path, and what
    /// a proxy that is believed was asked for.
    pub fn check(
        &self,
        headers: &HeaderMap,
        uri: &Uri,
        forwarded_host: Option<&str>,
        is_loopback: bool,
    ) -> Result<(), ForeignHost> {
        let mut named = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        let header = named.next().unwrap_or_default();
        let authority = uri.authority().map(|authority| authority.as_str());
        named
            .chain(authority)
            .chain(forwarded_host)
            .chain([header])
            .try_for_each(|host| self.check_name(host, is_loopback))
    }

    fn check_name(&self, host: &str, is_loopback: bool) -> Result<(), ForeignHost> {
        let any = self.0.is_empty() && !is_loopback;
        let name = without_port(host);
        if any
            || (is_loopback && is_loopback_name(name))
            || self.0.iter().any(|pattern| matches_by_label(pattern, name))
        {
            Ok(())
        } else {
            Err(ForeignHost(host.chars().take(128).collect()))
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn is_loopback_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], is_loopback: bool, host: &str) -> bool {
        let patterns: Vec<_> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        Hosts::new(&patterns).check(&headers, &Uri::from_static("/"), None, is_loopback).is_ok()
    }

    #[test]
    fn a_loopback_listener_answers_to_loopback_names() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "app.localhost:3000",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(allows(&[], true, host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:1", "10.0.0.1", ""]
        {
            assert!(!allows(&[], true, host), "{host}");
        }
    }

    #[test]
    fn what_a_proxy_was_asked_for_is_looked_at_too() {
        let headers = HeaderMap::from_iter([(HOST, "localhost:8080".parse().unwrap())]);
        let hosts = Hosts::new(&["app.example.com".into()]);
        let allows = |forwarded| hosts.check(&headers, &Uri::from_static("/"), forwarded, true).is_ok();

        assert!(allows(None));
        assert!(allows(Some("app.example.com")));
        assert!(!allows(Some("evil.example")));
    }

    #[test]
    fn the_list_adds_to_loopback_and_fences_other_addresses() {
        assert!(allows(&["app.example.com"], true, "app.example.com:443"));
        assert!(allows(&["app.example.com"], true, "localhost"));
        assert!(allows(&["*.example.com"], false, "app.example.com"));
        assert!(!allows(&["*.example.com"], false, "a.b.example.com"));
        assert!(!allows(&["app.example.com"], false, "localhost"));
        assert!(allows(&[], false, "anything.example"));
    }
}
