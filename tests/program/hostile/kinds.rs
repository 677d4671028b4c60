//! What hostile clients do, one kind each: an attack goes on until the server has refused or ended
//! it, and gives how often that was seen.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::{FAT, Target};
use crate::support::{Frame, Socket, Wire, pubsub, request, until};

pub struct Kind {
    pub name: &'static str,
    /// What the server counts it as.
    pub counted: &'static str,
    pub attack: fn(&Target) -> usize,
}

macro_rules! kinds {
    ($($name:literal, $metric:ident $label:ident = $reason:literal, $attack:expr;)*) => {
        &[$(Kind {
            name: $name,
            counted: concat!("tablecast_", stringify!($metric), "_total{", stringify!($label), "=\"", $reason, "\"}"),
            attack: $attack,
        }),*]
    };
}

#[rustfmt::skip]
pub static KINDS: &[Kind] = kinds! {
    // Commands and frames.
    "a flood of commands", refusals reason = "rate_limit", |t| flood(t, 0x81, b"{}");
    "a flood of pings", refusals reason = "rate_limit", |t| flood(t, 0x89, b"are you there");
    "a flood of pongs", refusals reason = "rate_limit", |t| flood(t, 0x8a, b"");
    "a flood of binary messages", refusals reason = "rate_limit", |t| flood(t, 0x82, b"\xff\xfe");
    "subscribing and unsubscribing without end", refusals reason = "rate_limit", subscribing_again;
    "unsubscribing from nothing", refusals reason = "rate_limit", unsubscribing_from_nothing;
    "more subscriptions than one may have", refusals reason = "max_subscriptions", subscribe_storm;
    "one subscription again and again", subscribes answer = "repeated", duplicates;
    "huge identifiers", refusals reason = "max_identifier_bytes", |t| rejected(t, &json!({ "channel": "x".repeat(5000) }).to_string());
    "streams that aren't open", refusals reason = "channel_not_open", |t| rejected(t, &pubsub("secret"));
    "names that no stream has", refusals reason = "stream_name", |t| rejected(t, &pubsub("hostile:\0"));
    "a command of a gigabyte", connections_closed reason = "max_command_bytes", |t| closed(t, 1009, &[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4]);
    "fragments without end", connections_closed reason = "max_command_bytes", fragments;
    "frames that are not masked", connections_closed reason = "unmasked", |t| closed(t, 1002, b"\x81\x02{}");
    "reserved opcodes", connections_closed reason = "reserved_opcode", |t| closed(t, 1002, &[0x83, 0x80, 0, 0, 0, 0]);
    "compressed frames unasked", connections_closed reason = "reserved_bits", |t| closed(t, 1002, &[0xc1, 0x80, 0, 0, 0, 0]);
    "text that is no UTF-8", connections_closed reason = "not_utf8", |t| closed(t, 1007, &[0x81, 0x81, 0, 0, 0, 0, 0xff]);
    "messages within messages", connections_closed reason = "interrupted_message", |t| closed(t, 1002, &[0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0]);
    "closing with a forbidden code", connections_closed reason = "close_code", |t| closed(t, 1002, &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed]);
    // Sockets.
    "never reading", deliveries result = "slow_consumer", never_reading;
    "half-closed", connections_closed reason = "gone", half_closed;
    "connecting and leaving", connections_closed reason = "gone", connecting_and_leaving;
    "another address each time, by a proxy", connections_closed reason = "gone", many_addresses;
    "hoarding sockets", refusals reason = "max_connections_per_address", hoarding;
    "a storm of handshakes", refusals reason = "handshake_rate_per_address", |t| storm(t, false);
    "a storm under false addresses", refusals reason = "handshake_rate_per_address", |t| storm(t, true);
    // HTTP.
    "a handshake byte by byte", refusals reason = "head_timeout", |t| half_open(t, true);
    "half a handshake", refusals reason = "head_timeout", |t| half_open(t, false);
    "garbage", refusals reason = "malformed_head", |t| answered(t, b"\x16\x03\x01\x02\0garbage\r\n\r\n", "400");
    "a flood of headers", refusals reason = "max_header_bytes", header_flood;
    "long queries", refusals reason = "max_query_bytes", |t| answered(t, format!("GET /cable?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9000)).as_bytes(), "414");
    "pages of other sites", refusals reason = "origin", bad_origin;
    "names that were pointed here", refusals reason = "host", |t| answered(t, b"GET /cable HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421");
    "garbage for a token", refusals reason = "token_malformed", |t| shown(t, "e30.garbage.e30", "unauthorized");
    "a token of one's own making", refusals reason = "token_signature", |t| shown(t, &token("guess", FAR), "unauthorized");
    "a token replayed when it is over", refusals reason = "token_expired", |t| shown(t, &token(super::JWT_KEY, 1), "token_expired");
    "requests in one piece", refusals reason = "host", pipelined;
    // The internal listener.
    "pages of other sites that publish", refusals reason = "cross_site", |t| publishing(t, super::KEY, ("Origin", "http://evil.example"), 403);
    "guessed publish keys", refusals reason = "publish_key", |t| publishing(t, "guess", ("X", "x"), 401);
    "a publish key for what it doesn't open", refusals reason = "publish_key_scope", |t| publishing(t, super::LIMITED_KEY, ("X", "x"), 403);
};

/// Seconds since 1970 that are still to come.
const FAR: u64 = 1 << 40;

/// A token with nothing in it but its end.
fn token(key: &str, exp: u64) -> String {
    let parts = [r#"{"alg":"HS256"}"#.to_owned(), json!({ "id": 7, "exp": exp }).to_string()];
    let text = parts.map(|part| BASE64URL_NOPAD.encode(part.as_bytes())).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    format!("{text}.{}", BASE64URL_NOPAD.encode(hmac::sign(&key, text.as_bytes()).as_ref()))
}

/// Shows a token several times, and is told each time that it isn't let in, and not to come back.
fn shown(target: &Target, token: &str, reason: &str) -> usize {
    let authorization = format!("Bearer {token}");
    for _ in 0..3 {
        let mut socket = target.shake_hands(&[("Authorization", &*authorization)]);
        let told = json!({ "type": "disconnect", "reason": reason, "reconnect": false });
        assert_eq!(socket.json(), told, "{}", socket.head);
    }
    3
}

/// The word by which the server ends the connection: a disconnect's reason, or a close code.
fn end(socket: &mut Socket) -> String {
    loop {
        match socket.next() {
            Frame::Text(text) if text.starts_with(r#"{"type":"disconnect""#) => {
                let told: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(told["reconnect"], true);
                return told["reason"].as_str().unwrap().to_owned();
            }
            Frame::Close(code, _) => return code.to_string(),
            Frame::End => return "end".to_owned(),
            _ => {}
        }
    }
}

fn is_ended(mut socket: Socket, word: &str) -> usize {
    assert_eq!(end(&mut socket), word);
    1
}

/// More than the burst of a connection.
const MANY: usize = 2 * super::RATE_BURST;

fn flood(target: &Target, first: u8, payload: &[u8]) -> usize {
    let mut socket = target.connect();
    for _ in 0..MANY {
        socket.send_frame(first, true, payload);
    }
    is_ended(socket, "rate_limit")
}

fn subscribing_again(target: &Target) -> usize {
    let mut socket = target.connect();
    for _ in 0..MANY / 2 {
        socket.command("subscribe", &pubsub("hostile:1"));
        socket.command("unsubscribe", &pubsub("hostile:1"));
    }
    is_ended(socket, "rate_limit")
}

fn unsubscribing_from_nothing(target: &Target) -> usize {
    let mut socket = target.connect();
    for n in 0..MANY {
        socket.command("unsubscribe", &pubsub(&format!("hostile:{n}")));
    }
    is_ended(socket, "rate_limit")
}

fn subscribe_storm(target: &Target) -> usize {
    let mut socket = target.connect();
    for n in 0..2 * super::MAX_SUBSCRIPTIONS {
        socket.command("subscribe", &pubsub(&format!("hostile:{n}")));
    }
    let answers: Vec<_> = (0..2 * super::MAX_SUBSCRIPTIONS).map(|_| socket.json()["type"].clone()).collect();
    let rejected = answers.iter().filter(|answer| *answer == "reject_subscription").count();
    assert_eq!(rejected, super::MAX_SUBSCRIPTIONS);
    rejected
}

fn duplicates(target: &Target) -> usize {
    let mut socket = target.connect();
    socket.subscribe(&pubsub("hostile:1"));
    for _ in 0..super::RATE_BURST / 2 {
        socket.command("subscribe", &pubsub("hostile:1"));
    }
    socket.nothing_else();
    super::RATE_BURST / 2
}

fn rejected(target: &Target, identifier: &str) -> usize {
    let mut socket = target.connect();
    for _ in 0..10 {
        socket.rejected(identifier);
    }
    10
}

fn closed(target: &Target, code: u16, bytes: &[u8]) -> usize {
    let mut socket = target.connect();
    socket.send_raw(bytes);
    is_ended(socket, &code.to_string())
}

fn fragments(target: &Target) -> usize {
    let mut socket = target.connect();
    socket.send_frame(0x01, true, b"{");
    for _ in 0..100 {
        socket.send_frame(0x00, true, &[b' '; 1000]);
    }
    is_ended(socket, "1009")
}

fn never_reading(target: &Target) -> usize {
    let slow = || target.server.metric(r#"tablecast_deliveries_total{result="slow_consumer"}"#);
    let before = slow();
    let mut socket =
        Socket::try_open_over(Wire::narrow(target.server.public), target.server.public, "/cable", &[]);
    assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
    socket.subscribe(&pubsub(FAT));
    until("its queue is full", || slow() > before);
    is_ended(socket, "slow_consumer")
}

fn half_closed(target: &Target) -> usize {
    let mut socket = target.connect();
    socket.subscribe(&pubsub("hostile:1"));
    let Wire::Plain(stream) = socket.wire() else { unreachable!() };
    stream.shutdown(Shutdown::Write).unwrap();
    is_ended(socket, "end")
}

fn connecting_and_leaving(target: &Target) -> usize {
    for _ in 0..5 {
        drop(target.connect());
    }
    5
}

fn many_addresses(target: &Target) -> usize {
    for _ in 0..50 {
        let address = std::net::Ipv4Addr::from_bits(rand::random());
        let headers = [("X-Forwarded-For", &*address.to_string())];
        let socket = target.by_proxy(&headers);
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    }
    50
}

fn hoarding(target: &Target) -> usize {
    let sockets: Vec<TcpStream> = (0..2 * super::MAX_PER_ADDRESS).map(|_| target.stream()).collect();
    let is_refused = |mut stream: &TcpStream| {
        let mut head = [0; 12];
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 429"
    };
    let mut refused = 0;
    until("those that are too many are refused", || {
        refused += sockets.iter().filter(|stream| is_refused(stream)).count();
        refused >= super::MAX_PER_ADDRESS
    });
    refused
}

fn storm(target: &Target, lying: bool) -> usize {
    let attempts = (0..4 * super::HANDSHAKE_RATE).map(|n| {
        let address = format!("198.51.100.{n}");
        let headers = [("X-Forwarded-For", address.as_str())];
        target.shake_hands(if lying { &headers } else { &[] })
    });
    attempts.filter(|socket| socket.head.starts_with("HTTP/1.1 429 ")).count()
}

fn half_open(target: &Target, byte_by_byte: bool) -> usize {
    let stream = target.stream();
    let mut bytes =
        b"GET /cable HTTP/1.1\r\nHost: localhost\r\nX-Header: ".iter().chain(std::iter::repeat(&b'x'));
    let mut send = |count| {
        let bytes: Vec<u8> = bytes.by_ref().take(count).copied().collect();
        let _ = (&stream).write_all(&bytes);
    };
    send(10);
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut ended = false;
    until("it is ended", || {
        if byte_by_byte {
            send(1);
        }
        ended |= !matches!((&stream).read(&mut [0; 1024]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ended
    });
    1
}

/// Sends what is no good request, and expects a status.
fn answered(target: &Target, bytes: &[u8], status: &str) -> usize {
    let mut stream = target.stream();
    let _ = stream.write_all(bytes);
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(std::str::from_utf8(&head), Ok(format!("HTTP/1.1 {status}").as_str()));
    1
}

fn header_flood(target: &Target) -> usize {
    let header = |n: usize| format!("X-{n}: {}\r\n", "x".repeat(100));
    let many: String = (0..150).map(header).collect();
    let large = format!("X: {}\r\n", "x".repeat(100_000));
    let ask = |headers: &str| {
        answered(target, format!("GET /cable HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes(), "431")
    };
    ask(&many) + ask(&large)
}

fn bad_origin(target: &Target) -> usize {
    let origins = ["http://evil.example", "null", "", "http://127.0.0.1"];
    for origin in origins {
        let socket = target.shake_hands(&[("Origin", origin)]);
        assert!(socket.head.starts_with("HTTP/1.1 404 "), "{origin}: {}", socket.head);
    }
    origins.len()
}

fn pipelined(target: &Target) -> usize {
    let count = 200;
    let mut stream = target.stream();
    let bad = "GET /cable HTTP/1.1\r\nHost: evil.example\r\n\r\n".repeat(count);
    stream
        .write_all(
            format!("{bad}GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 421 ").count(), count);
    assert!(answers.ends_with("ok\n"));
    count
}

fn publishing(target: &Target, key: &str, header: (&str, &str), status: u16) -> usize {
    let authorization = format!("Bearer {key}");
    let headers = [("Content-Type", "application/json"), ("Authorization", &*authorization), header];
    let body = json!({ "stream": super::HONEST, "data": "false" }).to_string();
    request(target.server.internal, "POST", "/broadcast", &headers, body.as_bytes()).problem(status);
    1
}
