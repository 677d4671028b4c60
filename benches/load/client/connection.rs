//! One WebSocket of many.

use std::io::{self, ErrorKind, Read, Write};

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
    /// When it first knocked.
    pub began: i64,
    pub is_subscribed: bool,
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
    pub fn begin(wanted: &Connect, registry: &Registry, number: usize) -> Self {
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
            .register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)
            .expect("it is a socket");
        Self {
            socket,
            stage: Stage::Connecting,
            frames: Frames::default(),
            began,
            is_subscribed: false,
            messages: 0,
            heartbeat: began,
        }
    }

    /// The time since the first time counts.
    pub fn begin_again(&mut self, wanted: &Connect, registry: &Registry, number: usize) {
        *self = Self { began: self.began, ..Self::begin(wanted, registry, number) };
    }

    /// Begins to talk, once it is connected.
    pub fn greet(&mut self, door: &Door) -> io::Result<()> {
        if matches!(self.stage, Stage::Connecting) {
            self.socket.take_error()?.map_or(Ok(()), Err)?;
            self.socket.write_all(door.handshake().as_bytes())?;
            self.stage = Stage::Handshaking(Vec::new());
        }
        Ok(())
    }

    /// Reads what fits into the buffer, and goes on to subscribe when the handshake is through.
    pub fn read(&mut self, buffer: &mut [u8], subscribe: impl FnOnce() -> String) -> io::Result<Received> {
        let length = self.socket.read(buffer)?;
        let received = Received { at: now(), all: length < buffer.len() };
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let bytes = &buffer[..length];
        let Stage::Handshaking(head) = &mut self.stage else {
            self.frames.push(bytes);
            return Ok(received);
        };
        head.extend_from_slice(bytes);
        if let Some(end) = head_end(head) {
            assert!(head.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", head.escape_ascii());
            self.frames.push(&head[end..]);
            self.stage = Stage::Open;
            self.say(&subscribe())?;
        }
        Ok(received)
    }

    /// What a client says is little, and always fits into the socket's buffer.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.socket.write_all(&masked(text))
    }
}
