//! Limits by address, and who says which address a client has.

use std::time::Instant;

use crate::support::{PATIENCE, Server, Socket, Wire, get, request, server, until};

fn from(server: &Server, address: [u8; 4], headers: &[(&str, &str)]) -> Socket {
    let wire = Wire::plain_from(address.into(), server.public);
    Socket::try_open_over(wire, server.public, "/cable", headers)
}

/// One that comes through a proxy, whose address is the usual one.
fn forwarded(server: &Server, address: &str) -> Socket {
    Socket::try_open(server.public, "/cable", &[("X-Forwarded-For", address)])
}

fn is_let_in(socket: &Socket) -> bool {
    socket.head.starts_with("HTTP/1.1 101 ")
}

fn is_told(socket: Socket, status: &str, flag: &str) {
    assert!(socket.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}", socket.head);
    assert!(socket.head.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{}", socket.head);
    let body = socket.body();
    assert!(body.contains(flag), "{body}");
}

#[test]
fn an_address_has_so_many_connections_and_others_have_theirs() {
    let server = server().open().arg("--max-connections-per-address=2").start();
    let first = from(&server, [127, 0, 0, 1], &[]);
    let second = from(&server, [127, 0, 0, 1], &[]);
    assert!(is_let_in(&first) && is_let_in(&second));

    // What it says of itself changes nothing.
    for headers in [&[][..], &[("X-Forwarded-For", "192.0.2.1")]] {
        is_told(from(&server, [127, 0, 0, 1], headers), "429", "--max-connections-per-address");
    }
    assert!(is_let_in(&from(&server, [127, 0, 0, 2], &[])));
    assert_eq!(server.refused("max_connections_per_address"), 2.0);
    // Workers are not counted.
    for _ in 0..3 {
        assert_eq!(get(server.internal, "/health").status, 200);
    }

    drop(first);
    until("there is a place again", || is_let_in(&from(&server, [127, 0, 0, 1], &[])));
}

#[test]
fn a_socket_that_asks_for_nothing_has_its_place_too() {
    let server = server().arg("--max-connections-per-address=3").start();
    let idle: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(server.public).unwrap()).collect();
    until("it is refused", || {
        let answered = from(&server, [127, 0, 0, 1], &[]);
        answered.head.starts_with("HTTP/1.1 429 ")
    });
    drop(idle);
}

#[test]
fn behind_a_trusted_proxy_it_is_the_clients_address_that_counts() {
    let server =
        server().arg("--max-connections-per-address=1").arg("--trusted-proxies=10.0.0.0/8,127.0.0.1").start();
    let one = forwarded(&server, "192.0.2.1");
    assert!(is_let_in(&one));

    for address in ["192.0.2.1", "192.0.2.7, 192.0.2.1", "192.0.2.1, 10.1.2.3", "192.0.2.1:4711"] {
        is_told(forwarded(&server, address), "429", "--max-connections-per-address");
    }
    assert!(is_let_in(&forwarded(&server, "192.0.2.1, 192.0.2.2")));
    let network = forwarded(&server, "2001:db8::1");
    assert!(is_let_in(&network));
    is_told(forwarded(&server, "2001:db8::ffff:2"), "429", "--max-connections-per-address");
    assert!(is_let_in(&forwarded(&server, "2001:db8:0:1::1")));

    drop(one);
    until("there is a place again", || is_let_in(&forwarded(&server, "192.0.2.1")));
}

/// Handshakes as fast as one can, until many are refused: how many were let in, and how many there
/// may have been.
fn let_in(per_second: f64, refused: &mut u32, mut shake: impl FnMut() -> Socket) -> (f64, f64) {
    let started = Instant::now();
    let mut count = 0.0;
    while *refused < 20 {
        assert!(started.elapsed() < PATIENCE, "none is refused");
        if is_let_in(&shake()) {
            count += 1.0;
        } else {
            *refused += 1;
        }
    }
    (count, per_second * (1.0 + started.elapsed().as_secs_f64()))
}

#[test]
fn handshakes_over_the_rate_of_an_address_are_refused_and_others_are_not() {
    let server = server().arg("--handshake-rate-per-address=5").arg("--trusted-proxies=127.0.0.1").start();

    let mut over = 0;
    let (count, may) = let_in(5.0, &mut over, || forwarded(&server, "192.0.2.1"));
    assert!(count >= 5.0 && count <= may, "{count} of {may}");
    assert_eq!(server.refused("handshake_rate_per_address"), 20.0);
    // 429 at once, or a place by the passing of time.
    let socket = forwarded(&server, "192.0.2.1");
    if !is_let_in(&socket) {
        is_told(socket, "429", "--handshake-rate-per-address");
    }
    // Of many that come at once few share a bucket with it.
    let others = (0..100).filter(|n| is_let_in(&forwarded(&server, &format!("198.51.100.{n}"))));
    assert!(others.count() >= 98);
    assert_eq!(get(server.public, "/health").status, 200);
}

#[test]
fn handshakes_over_the_rate_of_all_are_refused_and_other_requests_are_not() {
    let server = server().arg("--handshake-rate=5").arg("--trusted-proxies=127.0.0.1").start();

    let (mut over, mut n) = (0, 0);
    let (count, may) = let_in(5.0, &mut over, || {
        n += 1;
        forwarded(&server, &format!("198.51.100.{n}"))
    });
    assert!(count >= 5.0 && count <= may, "{count} of {may}");
    assert_eq!(server.refused("handshake_rate"), 20.0);
    let socket = forwarded(&server, "192.0.2.1");
    if !is_let_in(&socket) {
        is_told(socket, "503", "--handshake-rate");
    }
    assert_eq!(get(server.public, "/ready").status, 200);
}

#[test]
fn a_forwarded_host_is_believed_from_a_trusted_proxy_alone() {
    let asks = |server: &Server, origin: &str, forwarded: &str| {
        let headers = [("Origin", origin), ("X-Forwarded-Host", forwarded)];
        Socket::try_open(server.public, "/cable", &headers).head[..12].to_owned()
    };
    let behind = server().arg("--trusted-proxies=127.0.0.1").arg("--allowed-hosts=*.example.com").start();

    let app = "https://app.example.com";
    assert_eq!(asks(&behind, app, "app.example.com"), "HTTP/1.1 101");
    assert_eq!(asks(&behind, app, "other.example.com, app.example.com"), "HTTP/1.1 101");
    assert_eq!(asks(&behind, app, "app.example.com, other.example.com"), "HTTP/1.1 404");
    // Instead of Host, not besides it.
    assert_eq!(asks(&behind, &format!("http://{}", behind.public), "app.example.com"), "HTTP/1.1 404");
    assert_eq!(asks(&behind, app, ""), "HTTP/1.1 404");
    // A page that points its own name at the proxy.
    assert_eq!(asks(&behind, "https://evil.test", "evil.test"), "HTTP/1.1 421");

    let open = server().arg("--allowed-hosts=*.example.com").start();
    assert_eq!(asks(&open, app, "app.example.com"), "HTTP/1.1 404");
    assert_eq!(asks(&open, &format!("http://{}", open.public), "evil.test"), "HTTP/1.1 101");
    // The internal listener believes nobody.
    let headers = [("Origin", app), ("X-Forwarded-Host", "app.example.com")];
    request(behind.internal, "GET", "/health", &headers, b"").problem(403);
}
