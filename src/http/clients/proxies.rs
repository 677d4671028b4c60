use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// The proxies that are believed when they say for whom they ask. Anybody can send their headers.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address such as 10.0.0.1, and no network such as 10.0.0.0/8")]
pub struct ProxyError(String);

impl Proxies {
    /// By addresses and networks.
    pub fn new(texts: &[String]) -> Result<Self, ProxyError> {
        let network = |text: &String| {
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| ProxyError(text.clone()))
        };
        Ok(Self(texts.iter().map(network).collect::<Result<_, _>>()?))
    }

    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address that a request comes from: the last one that isn't a proxy's. What stands
    /// before it in X-Forwarded-For is the client's own word.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        let hops = values.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
        let mut client = peer.to_canonical();
        for hop in hops {
            let Some(before) = hop_address(hop.trim()).filter(|_| self.trust(client)) else { break };
            client = before;
        }
        client
    }

    /// The host that a proxy was asked for, as it says: the last entry of X-Forwarded-Host.
    pub fn forwarded_host<'a>(&self, peer: IpAddr, headers: &'a HeaderMap) -> Option<&'a str> {
        let value = headers.get_all(FORWARDED_HOST).iter().next_back().filter(|_| self.trust(peer))?;
        let host = value.to_str().unwrap_or("?").rsplit(',').next().unwrap_or_default().trim();
        (!host.is_empty()).then_some(host)
    }
}

/// With or without a port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    Some(address.ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(texts: &[&str]) -> Result<Proxies, ProxyError> {
        Proxies::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn client(trusted: &[&str], peer: &str, values: &[&str]) -> String {
        let headers = headers(FORWARDED_FOR, values);
        proxies(trusted).unwrap().client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn forwarded_addresses_are_believed_from_proxies_alone() {
        let trusted = &["10.0.0.0/8", "2001:db8::/32"];

        assert_eq!(client(&[], "192.0.2.1", &["192.0.2.9"]), "192.0.2.1");
        assert_eq!(client(&[], "127.0.0.1", &["192.0.2.9"]), "127.0.0.1", "not even from loopback");
        assert_eq!(client(trusted, "192.0.2.1", &["192.0.2.9"]), "192.0.2.1");
        assert_eq!(client(trusted, "10.1.2.3", &["192.0.2.9"]), "192.0.2.9");
        assert_eq!(client(trusted, "::ffff:10.1.2.3", &["192.0.2.9"]), "192.0.2.9");
        assert_eq!(client(trusted, "10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn the_client_is_the_last_that_is_no_proxy_whatever_it_says_of_itself() {
        let trusted = &["10.0.0.0/8", "2001:db8::/32"];
        for (values, expected) in [
            (&["1.1.1.1, 192.0.2.9"][..], "192.0.2.9"),
            (&["1.1.1.1,192.0.2.9, 10.0.0.2 ,2001:db8::1"], "192.0.2.9"),
            (&["1.1.1.1, 192.0.2.9", "10.0.0.2"], "192.0.2.9"),
            (&["10.0.0.9, 192.0.2.9"], "192.0.2.9"),
            (&["192.0.2.9:4711"], "192.0.2.9"),
            (&["[2001:db9::1]:4711"], "2001:db9::1"),
            (&["[2001:db9::1]"], "2001:db9::1"),
            (&["::ffff:192.0.2.9"], "192.0.2.9"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["192.0.2.9, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.9, "], "10.0.0.1"),
        ] {
            assert_eq!(client(trusted, "10.0.0.1", values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_forwarded_host_is_the_last_one_that_a_proxy_names() {
        let proxies = proxies(&["10.0.0.1"]).unwrap();
        let host = |peer: &str, values: &[&str]| {
            let headers = headers(FORWARDED_HOST, values);
            proxies.forwarded_host(peer.parse().unwrap(), &headers).map(str::to_owned)
        };

        assert_eq!(host("10.0.0.1", &["a.example, b.example"]).as_deref(), Some("b.example"));
        assert_eq!(host("10.0.0.1", &["a.example", "b.example:81"]).as_deref(), Some("b.example:81"));
        assert_eq!(host("10.0.0.1", &["", " "]), None);
        assert_eq!(host("10.0.0.1", &[]), None);
        assert_eq!(host("10.0.0.2", &["b.example"]), None);
    }

    #[test]
    fn what_is_no_address_and_no_network_is_an_error() {
        assert!(proxies(&["127.0.0.1", "::1", "fd00::/8", "0.0.0.0/0"]).is_ok());
        for bad in ["localhost", "10.0.0.0/33", "10.0.0", "*", "10.0.0.1:80"] {
            assert_eq!(proxies(&[bad]).unwrap_err(), ProxyError(bad.into()));
        }
    }
}
