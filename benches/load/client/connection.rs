//! One WebSocket of many.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use mio::{Registry, Token};

use super::Connect;
use super::dialect::Door;
use crate::harness::clients::{Frames, connect, head_end, masked};
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
        let began = now();
        let socket = connect(door.address, *receive_buffer, registry, Token(number));
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
