//! Clients that cost little: WebSocket subscribers and publishers by HTTP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::process::now;

/// Nothing that is waited for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub const STREAM: &str = "bench";

/// A message's data of `size` bytes, or little more for a tiny one.
pub fn data(size: usize, is_last: bool) -> String {
    let json = |padding: &str| format!(r#"{{"padding":"{padding}","last":{is_last}}}"#);
    json(&"x".repeat(size.saturating_sub(json("").len())))
}

/// How the frame of the last message ends: `data(_, true)` inside its envelope.
pub const LAST: &[u8] = br#""last":true}}"#;

/// Puts a server's bytes together to frames.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
    /// A message that came in fragments.
    joined: Vec<u8>,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message's payload. A server masks nothing, and ours sends no fragments, but
    /// others do.
    pub fn next(&mut self) -> Option<&[u8]> {
        let (mut is_last, first) = frame(&self.bytes, self.taken)?;
        if is_last {
            self.taken = first.end;
            return Some(&self.bytes[first]);
        }
        let mut end = first.end;
        self.joined.clear();
        self.joined.extend_from_slice(&self.bytes[first]);
        while !is_last {
            let fragment;
            (is_last, fragment) = frame(&self.bytes, end)?;
            end = fragment.end;
            self.joined.extend_from_slice(&self.bytes[fragment]);
        }
        self.taken = end;
        Some(&self.joined)
    }

    /// The next message's frame, past heartbeats.
    fn next_message(&mut self) -> Option<Vec<u8>> {
        while let Some(frame) = self.next() {
            if is_message(frame) {
                return Some(frame.to_owned());
            }
        }
        None
    }
}

/// The payload of the frame at this place, if all of it is there, and whether its message ends
/// with it.
fn frame(bytes: &[u8], start: usize) -> Option<(bool, Range<usize>)> {
    let frame = &bytes[start..];
    let (head, length) = match *frame {
        [_, 126, a, b, ..] => (4, u16::from_be_bytes([a, b]).into()),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            (10, u64::from_be_bytes([a, b, c, d, e, f, g, h]).try_into().expect("it fits into memory"))
        }
        [_, length, ..] if length < 126 => (2, usize::from(length)),
        _ => return None,
    };
    let payload = start + head..start + head + length;
    (payload.end <= bytes.len()).then_some((frame[0] & 0x80 != 0, payload))
}

/// What a client of the extended protocol is sent in place of a ping while it may lack something.
const KEEP_ALIVE: &[u8] = br#"{"identifier":"keep-alive","type":"confirm_history"}"#;

pub fn is_message(frame: &[u8]) -> bool {
    assert!(!frame.starts_with(br#"{"type":"disconnect""#), "disconnected: {}", frame.escape_ascii());
    !frame.starts_with(br#"{"type":"#) && frame != KEEP_ALIVE
}

/// A WebSocket that waits for each answer.
pub struct Subscriber {
    pub socket: TcpStream,
    pub frames: Frames,
}

impl Subscriber {
    /// Has subscribed to [`STREAM`] and was confirmed.
    pub fn connect(server: SocketAddr) -> Self {
        let mut subscriber = Self::open(server, PROTOCOL);
        subscriber.subscribe();
        subscriber
    }

    /// Has said nothing yet. `protocol` is a header.
    pub fn open(server: SocketAddr, protocol: &str) -> Self {
        let mut socket = TcpStream::connect(server).expect("the server listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("it isn't zero");
        socket.set_nodelay(true).expect("it is TCP");
        let handshake = handshake(server, "/cable", protocol);
        socket.write_all(handshake.as_bytes()).expect("the server reads");
        let mut received = Vec::new();
        let head = loop {
            read_some(&mut socket, &mut received).expect("the server answers");
            if let Some(end) = head_end(&received) {
                break end;
            }
        };
        assert!(received.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", received.escape_ascii());
        let mut subscriber = Self { socket, frames: Frames::default() };
        subscriber.frames.push(&received[head..]);
        subscriber
    }

    fn subscribe(&mut self) {
        let command = serde_json::json!({
            "command": "subscribe",
            "identifier": identifier(STREAM),
        });
        self.say(&command.to_string());
        let (_, confirm) = self.message().expect("it is confirmed");
        assert!(confirm.ends_with(br#""type":"confirm_subscription"}"#), "{}", confirm.escape_ascii());
    }

    pub fn say(&mut self, text: &str) {
        self.socket.write_all(&masked(text)).expect("the server reads");
    }

    /// The next message's frame, and when the read that completed it returned.
    pub fn message(&mut self) -> io::Result<(i64, Vec<u8>)> {
        let mut received = now();
        loop {
            if let Some(frame) = self.frames.next_message() {
                return Ok((received, frame));
            }
            let mut bytes = Vec::new();
            read_some(&mut self.socket, &mut bytes)?;
            received = now();
            self.frames.push(&bytes);
        }
    }

    /// How many messages come before the last one.
    pub fn count_to_last(&mut self) -> u64 {
        let mut count = 0;
        loop {
            let (_, frame) = self.message().expect("the last message comes");
            if frame.ends_with(LAST) {
                return count;
            }
            count += 1;
        }
    }
}

/// As a header.
pub const PROTOCOL: &str = "Sec-WebSocket-Protocol: actioncable-v1-json\r\n";
/// The one in which messages have positions.
pub const EXTENDED: &str = "Sec-WebSocket-Protocol: actioncable-v1-ext-json\r\n";

/// A socket that is on its way to a server, for who waits for thousands at once: `token` says when it is there.
pub fn connect(
    server: SocketAddr,
    receive_buffer: Option<usize>,
    registry: &Registry,
    token: Token,
) -> mio::net::TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))
        .expect("there are file descriptors");
    socket.set_nonblocking(true).expect("it is a socket");
    socket.set_tcp_nodelay(true).expect("it is TCP");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("it is a socket");
    }
    if let Err(error) = socket.connect(&server.into()) {
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()), "{error}");
    }
    let mut socket = mio::net::TcpStream::from_std(socket.into());
    registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).expect("it is a socket");
    socket
}

pub fn handshake(server: SocketAddr, path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nOrigin: http://{server}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
}

pub fn identifier(stream: &str) -> String {
    format!(r#"{{"channel":"$pubsub","stream_name":"{stream}"}}"#)
}

fn read_some(socket: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 16 << 10];
    match socket.read(&mut chunk)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length => {
            into.extend_from_slice(&chunk[..length]);
            Ok(())
        }
    }
}

/// A client's text frame. Its mask is zero, which changes nothing.
pub fn masked(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a command is short");
    let head = match u8::try_from(length) {
        Ok(length) if length < 126 => vec![0x81, 0x80 | length],
        _ => [&[0x81, 0x80 | 126], length.to_be_bytes().as_slice()].concat(),
    };
    [head.as_slice(), &[0; 4], text.as_bytes()].concat()
}

/// A kept-alive connection to the internal listener.
pub struct Publisher {
    socket: tokio::net::TcpStream,
    answer: Vec<u8>,
}

impl Publisher {
    pub async fn connect(server: SocketAddr) -> Self {
        let socket = tokio::net::TcpStream::connect(server).await.expect("the server listens");
        socket.set_nodelay(true).expect("it is TCP");
        Self { socket, answer: Vec::new() }
    }

    /// Returns when the answer is there, which must be that all was taken (201, and 200 of
    /// Centrifugo). From tablecast that means committed.
    pub async fn publish(&mut self, request: &[u8]) {
        self.socket.write_all(request).await.expect("the server reads");
        self.answer.clear();
        while !is_complete(&self.answer) {
            let length = self.socket.read_buf(&mut self.answer).await.expect("the server answers");
            assert!(length > 0, "the server closed");
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 20"), "refused: {}", self.answer.escape_ascii());
    }
}

/// A whole POST /broadcast.
pub fn request(server: SocketAddr, body: &str) -> Vec<u8> {
    post(server, "/broadcast", body)
}

pub fn post(server: SocketAddr, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What a GET is answered with, its head included.
pub fn get(server: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(server).expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    socket.write_all(request.as_bytes()).expect("the server reads");
    socket.read_to_string(&mut answer).expect("the server answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

/// A number that a server counts, by its whole name in its metrics.
pub fn counted(server: SocketAddr, name: &str) -> Option<f64> {
    let metrics = get(server, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|number| number.trim().parse().expect("a number"))
}

pub fn message(data: &str) -> String {
    format!(r#"{{"stream":"{STREAM}","data":{data}}}"#)
}

fn is_complete(answer: &[u8]) -> bool {
    let Some(head) = head_end(answer) else { return false };
    let length = std::str::from_utf8(&answer[..head])
        .expect("a head is ASCII")
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("content-length").then_some(value))
        .expect("the server knows how much it answers");
    answer.len() == head + length.parse::<usize>().expect("a number")
}

pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4)
}

/// One thread for many clients.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is a thread")
}
