//! One WebSocket of many.

use std::io::{ErrorKind, Read, Write};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::Connect;
use super::dialect::Door;
use crate::harness::clients::{Frames, head_end, masked};
use crate::harness::process::now;

pub struct Connection {
    socket: TcpStream,
    stage: Stage,
    pub frames: Frames,
    pub began: i64,
    pub messages: usize,
    /// When the server last said that it lives.
    pub heartbeat: i64,
}

enum Stage {
    Connecting,
    /// With the answer's head so far.
    Handshaking(Vec<u8>),
    Open,
}

/// One `read` that got something.
pub struct Received {
    /// When it returned.
    pub at: i64,
    /// It got all that there was: an event says when there is more.
    pub all: bool,
}

impl Connection {
    pub fn begin(wanted: &Connect, registry: &Registry, token: Token) -> Self {
        let Connect { door, receive_buffer, .. } = wanted;
        let socket = Socket::new(Domain::for_address(door.address), Type::STREAM, Some(Protocol::TCP))
            .expect("there are file descriptors");
        socket.set_nonblocking(true).expect("it is a socket");
        socket.set_tcp_nodelay(true).expect("it is TCP");
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(*bytes).expect("it is a socket");
        }
        let began = now();
        if let Err(error) = socket.connect(&door.address.into()) {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()), "{error}");
        }
        let mut socket = TcpStream::from_std(socket.into());
        registry
            .register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)
            .expect("it is a socket");
        Self {
            socket,
            stage: Stage::Connecting,
            frames: Frames::default(),
            began,
            messages: 0,
            heartbeat: began,
        }
    }

    /// Begins to talk, once it is connected.
    pub fn greet(&mut self, door: &Door) {
        if matches!(self.stage, Stage::Connecting) {
            if let Some(error) = self.socket.take_error().expect("it is a socket") {
                panic!("{} can't be reached: {error}", door.address);
            }
            self.stage = Stage::Handshaking(Vec::new());
            self.send(door.handshake().as_bytes());
        }
    }

    /// Reads what fits into the buffer, and goes on to subscribe when the handshake is through.
    pub fn read(&mut self, buffer: &mut [u8], subscribe: impl FnOnce() -> String) -> Option<Received> {
        let length = match self.socket.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("after {} messages: {error}", self.messages),
        };
        let received = Received { at: now(), all: length < buffer.len() };
        assert!(length > 0, "the server closed after {} messages", self.messages);
        let bytes = &buffer[..length];
        let Stage::Handshaking(head) = &mut self.stage else {
            self.frames.push(bytes);
            return Some(received);
        };
        head.extend_from_slice(bytes);
        if let Some(end) = head_end(head) {
            assert!(head.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", head.escape_ascii());
            self.frames.push(&head[end..]);
            self.stage = Stage::Open;
            self.say(&subscribe());
        }
        Some(received)
    }

    pub fn say(&mut self, text: &str) {
        self.send(&masked(text));
    }

    /// What a client says is little, and always fits into the socket's buffer.
    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }
}
