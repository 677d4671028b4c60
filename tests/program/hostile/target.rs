//! Whom hostile clients attack, for a test and for a bench.

use std::net::{IpAddr, TcpStream};

use crate::support::{Server, Socket, Wire, server};

pub const HONEST: &str = "honest";
/// A stream whose messages are large.
pub const FAT: &str = "fat";

pub const KEY: &str = "a key";
pub const JWT_KEY: &str = "0123456789abcdef0123456789abcdef";
pub const LIMITED_KEY: &str = "a key for jobs";
pub const MAX_SUBSCRIPTIONS: usize = 20;
pub const MAX_PER_ADDRESS: usize = 30;
pub const HANDSHAKE_RATE: usize = 20;
pub const RATE_BURST: usize = 100;

/// Whom a kind attacks, from an address of its own.
pub struct Target<'a> {
    pub server: &'a Server,
    pub from: IpAddr,
}

/// All of 127.0.0.0/8 is this machine's.
const PROXY: [u8; 4] = [127, 0, 3, 1];

impl Target<'_> {
    pub fn stream(&self) -> TcpStream {
        let Wire::Plain(stream) = Wire::plain_from(self.from, self.server.public) else { unreachable!() };
        stream
    }

    pub fn shake_hands(&self, headers: &[(&str, &str)]) -> Socket {
        let wire = Wire::plain_from(self.from, self.server.public);
        Socket::try_open_over(wire, self.server.public, "/cable", headers)
    }

    pub fn connect(&self) -> Socket {
        let mut socket = self.shake_hands(&[]);
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#, "{}", socket.head);
        socket
    }

    /// By the proxy that the server trusts.
    pub fn by_proxy(&self, headers: &[(&str, &str)]) -> Socket {
        let wire = Wire::plain_from(PROXY.into(), self.server.public);
        Socket::try_open_over(wire, self.server.public, "/cable", headers)
    }
}

/// A server with every limit on.
pub fn guarded() -> Server {
    server()
        .arg("--public-streams=honest,fat,hostile:*")
        .arg(&format!("--jwt-key={JWT_KEY}"))
        .arg("--allow-anonymous")
        .arg(&format!("--max-subscriptions={MAX_SUBSCRIPTIONS}"))
        .arg(&format!("--max-connections-per-address={MAX_PER_ADDRESS}"))
        .arg(&format!("--handshake-rate-per-address={HANDSHAKE_RATE}"))
        .arg("--rate-limit=10")
        .arg(&format!("--rate-burst={RATE_BURST}"))
        .arg("--send-buffer-bytes=256KiB")
        .arg("--trusted-proxies=127.0.3.1")
        .config(&format!(
            "[[publish_key]]\nkey = {KEY:?}\n[[publish_key]]\nkey = {LIMITED_KEY:?}\nstreams = [\"jobs:*\"]\n"
        ))
        .start()
}
