//! Clients by their addresses: who they are behind proxies, how many connections an address may
//! have, and how many handshakes it may ask for.
//!
//! Nothing in here grows with the number of addresses that were ever seen: counts are kept for
//! those alone that have a connection open, and rates in a table of a fixed size.

mod addresses;
mod proxies;
mod rates;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;

pub use addresses::Place;
pub use proxies::Proxies;

use addresses::Addresses;
use rates::{AddressRates, Rate};

/// What addresses may take. None is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientLimits {
    /// Connections that an address may have open at once.
    pub max_connections_per_address: Option<usize>,
    /// WebSocket handshakes, and requests for what is past, a second in all.
    pub handshake_rate: Option<u32>,
    /// The same of one address.
    pub handshake_rate_per_address: Option<u32>,
}

pub struct Clients {
    proxies: Proxies,
    addresses: Option<Arc<Addresses>>,
    handshakes: Option<Rate>,
    handshakes_of: Option<AddressRates>,
    started: Instant,
}

/// Why a client isn't let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this address has as many connections open as --max-connections-per-address allows")]
    Connections,
    #[error("this address asks for more handshakes a second than --handshake-rate-per-address allows")]
    AddressRate,
    #[error("more handshakes are asked for each second than --handshake-rate allows")]
    Rate,
}

impl Refusal {
    /// The limit's name, for the metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "max_connections_per_address",
            Self::AddressRate => "handshake_rate_per_address",
            Self::Rate => "handshake_rate",
        }
    }
}

impl Clients {
    pub fn new(proxies: Proxies, limits: ClientLimits) -> Self {
        Self {
            proxies,
            addresses: limits.max_connections_per_address.map(|max| Arc::new(Addresses::new(max))),
            handshakes: limits.handshake_rate.map(Rate::new),
            handshakes_of: limits.handshake_rate_per_address.map(AddressRates::new),
            started: Instant::now(),
        }
    }

    /// A place for a socket that was accepted, where there is a limit. A proxy's sockets are
    /// counted when they say for whom they come: see [`Self::shake_hands`].
    pub fn accept(&self, peer: IpAddr) -> Result<Option<Place>, Refusal> {
        if self.proxies.trust(peer) { Ok(None) } else { self.enter(peer) }
    }

    /// Lets a handshake in, and gives it its place where the socket has none of its own.
    pub fn shake_hands(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Option<Place>, Refusal> {
        let client = self.proxies.client(peer, headers);
        let now = self.started.elapsed();
        // One address's surplus uses up nothing of what is for all.
        if self.handshakes_of.as_ref().is_some_and(|rates| !rates.take(client, now)) {
            return Err(Refusal::AddressRate);
        }
        if self.handshakes.as_ref().is_some_and(|rate| !rate.take(now)) {
            return Err(Refusal::Rate);
        }
        if self.proxies.trust(peer) { self.enter(client) } else { Ok(None) }
    }

    /// The host that a client asked a proxy for.
    pub fn forwarded_host<'a>(&self, peer: IpAddr, headers: &'a HeaderMap) -> Option<&'a str> {
        self.proxies.forwarded_host(peer, headers)
    }

    fn enter(&self, client: IpAddr) -> Result<Option<Place>, Refusal> {
        let place = self.addresses.as_ref().map(|addresses| addresses.enter(client));
        place.map(|place| place.ok_or(Refusal::Connections)).transpose()
    }
}

/// What counts as one client: an IPv4 address, or the network of an IPv6 address, since whoever
/// has one of these has 2⁶⁴ of them.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn clients(limits: ClientLimits) -> Clients {
        Clients::new(Proxies::new(&["10.0.0.1".into()]).unwrap(), limits)
    }

    fn forwarded_for(text: &str) -> HeaderMap {
        HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), text.parse().unwrap())])
    }

    #[test]
    fn a_connection_is_counted_once_where_its_address_is_known() {
        let clients =
            clients(ClientLimits { max_connections_per_address: Some(1), ..ClientLimits::default() });
        let (client, proxy) = (address("192.0.2.1"), address("10.0.0.1"));

        let socket = clients.accept(client).unwrap();
        assert!(socket.is_some());
        // The same connection's handshake, whatever it says of itself.
        assert_eq!(clients.shake_hands(client, &forwarded_for("192.0.2.9")).unwrap().map(drop), None);
        assert_eq!(clients.accept(client).map(drop), Err(Refusal::Connections));

        for _ in 0..9 {
            assert_eq!(clients.accept(proxy).unwrap().map(drop), None, "the proxy is nobody");
        }
        assert_eq!(
            clients.shake_hands(proxy, &forwarded_for("192.0.2.1")).map(drop),
            Err(Refusal::Connections)
        );
        let other = clients.shake_hands(proxy, &forwarded_for("192.0.2.2")).unwrap();
        drop(socket);
        assert!(clients.accept(client).unwrap().is_some());
        assert!(clients.accept(address("192.0.2.2")).is_err());
        drop(other);
        assert!(clients.accept(address("192.0.2.2")).unwrap().is_some());
    }

    #[test]
    fn one_addresss_surplus_takes_nothing_from_the_others() {
        let clients = clients(ClientLimits {
            handshake_rate: Some(3),
            handshake_rate_per_address: Some(1),
            ..ClientLimits::default()
        });
        let ask = |text: &str| clients.shake_hands(address(text), &HeaderMap::new()).map(drop);

        assert_eq!(ask("192.0.2.1"), Ok(()));
        for _ in 0..9 {
            assert_eq!(ask("192.0.2.1"), Err(Refusal::AddressRate));
        }
        assert_eq!(ask("192.0.2.2"), Ok(()));
        assert_eq!(ask("192.0.2.3"), Ok(()));
        assert_eq!(ask("192.0.2.4"), Err(Refusal::Rate));
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_a_mapped_ipv4_one_its_address() {
        assert_eq!(household(address("2001:db8::1")), household(address("2001:db8::ffff:1:2:3")));
        assert_ne!(household(address("2001:db8::1")), household(address("2001:db8:0:1::1")));
        assert_eq!(household(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_ne!(household(address("192.0.2.1")), household(address("192.0.2.2")));
    }
}
