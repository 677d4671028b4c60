//! Many clients that come at once, read by the thread that calls: each subscribes to one stream, and is to be
//! given some messages.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Poll, Registry, Token};

use crate::harness::clients::{Frames, connect, handshake, head_end, is_message, masked};
use crate::harness::process::now;
use crate::harness::report::{Figure, Times};
use crate::messages;
use crate::rules::{CONFIRM, CONFIRM_HISTORY};

/// When nothing has come for so long that should have, something is lost.
const PATIENCE: Duration = Duration::from_secs(20);
const BUFFER_BYTES: usize = 256 << 10;

/// How they come.
pub struct Coming<'a> {
    pub server: SocketAddr,
    /// As a header.
    pub protocol: &'a str,
    /// What each says once it is connected.
    pub subscribes: Vec<String>,
    pub awaited: Awaited,
}

/// What each is to be given: messages with these numbers, and then perhaps that it has been given all.
#[derive(Clone)]
pub struct Awaited {
    pub numbers: Range<usize>,
    pub confirm_history: bool,
}

/// Clients that have what they came for.
pub struct Crowd {
    connections: Vec<Connection>,
    awaited: Awaited,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    /// When the first of them knocked.
    began: i64,
    refused: usize,
}

struct Connection {
    socket: TcpStream,
    stage: Stage,
    frames: Frames,
    confirmed: Option<i64>,
    next_number: usize,
    history_confirmed: bool,
    /// When it had all.
    done: Option<i64>,
}

enum Stage {
    Connecting,
    /// With the answer's head so far.
    Handshaking(Vec<u8>),
    Open,
}

impl Crowd {
    /// All of them at the same moment. Who is turned away tries again at once.
    pub fn come(coming: &Coming<'_>) -> Self {
        let poll = Poll::new().expect("there is epoll");
        let (events, buffer) = (Events::with_capacity(1024), vec![0; BUFFER_BYTES]);
        let awaited = coming.awaited.clone();
        let began = now();
        let begin = |number| Connection::begin(coming, poll.registry(), number);
        let connections = (0..coming.subscribes.len()).map(begin).collect();
        let mut crowd = Self { connections, awaited, poll, events, buffer, began, refused: 0 };
        let mut done = 0;
        while done < crowd.connections.len() {
            let (some, came) = crowd.turn(Some(coming), PATIENCE);
            assert!(some, "nothing came for {PATIENCE:?}; {done} have all");
            done += came;
        }
        crowd
    }

    /// Nothing more may come to any, for so long.
    pub fn expect_no_more(&mut self, time: Duration) {
        let end = now() + time.as_nanos() as i64;
        while let left @ 1.. = end - now() {
            self.turn(None, Duration::from_nanos(left as u64));
        }
    }

    /// From the first knock.
    pub fn add_times(&self, figure: Figure) -> Figure {
        let times = |of: fn(&Connection) -> Option<i64>| {
            let since = |connection| of(connection).expect("it has all") - self.began;
            Times::new(self.connections.iter().map(since).collect())
        };
        let (confirms, dones) =
            (times(|connection| connection.confirmed), times(|connection| connection.done));
        figure
            .value("confirmed_last_ms", confirms.at(1.0) / 1000.0)
            .value("done_p50_ms", dones.at(0.5) / 1000.0)
            .value("done_p99_ms", dones.at(0.99) / 1000.0)
            .value("done_last_ms", dones.at(1.0) / 1000.0)
            .value("refused", self.refused as f64)
    }

    /// Takes what comes within a while. Says whether anything did, and how many have all that hadn't before.
    fn turn(&mut self, coming: Option<&Coming<'_>>, patience: Duration) -> (bool, usize) {
        self.poll.poll(&mut self.events, Some(patience)).expect("it isn't interrupted");
        let mut done = 0;
        for event in &self.events {
            let number = event.token().0;
            let connection = &mut self.connections[number];
            let was_done = connection.done.is_some();
            match connection.take(coming, number, &self.awaited, &mut self.buffer) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    let coming = coming.filter(|_| connection.confirmed.is_none());
                    let coming = coming.unwrap_or_else(|| panic!("client {number} is lost: {error}"));
                    self.refused += 1;
                    *connection = Connection::begin(coming, self.poll.registry(), number);
                }
            }
            done += usize::from(!was_done && connection.done.is_some());
        }
        (!self.events.is_empty(), done)
    }
}

impl Connection {
    fn begin(coming: &Coming<'_>, registry: &Registry, number: usize) -> Self {
        let socket = connect(coming.server, None, registry, Token(number));
        Self {
            socket,
            stage: Stage::Connecting,
            frames: Frames::default(),
            confirmed: None,
            next_number: coming.awaited.numbers.start,
            history_confirmed: false,
            done: None,
        }
    }

    /// All that there is for it.
    fn take(
        &mut self,
        coming: Option<&Coming<'_>>,
        number: usize,
        awaited: &Awaited,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if matches!(self.stage, Stage::Connecting) {
            let coming = coming.expect("all are connected");
            self.socket.take_error()?.map_or(Ok(()), Err)?;
            self.socket.write_all(handshake(coming.server, "/cable", coming.protocol).as_bytes())?;
            self.stage = Stage::Handshaking(Vec::new());
        }
        loop {
            let length = self.socket.read(buffer)?;
            let at = now();
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match &mut self.stage {
                Stage::Handshaking(head) => {
                    head.extend_from_slice(&buffer[..length]);
                    if let Some(end) = head_end(head) {
                        if !head.starts_with(b"HTTP/1.1 101") {
                            return Err(ErrorKind::ConnectionRefused.into());
                        }
                        self.frames.push(&head[end..]);
                        self.stage = Stage::Open;
                        let subscribe = &coming.expect("all are connected").subscribes[number];
                        self.socket.write_all(&masked(subscribe))?;
                    }
                }
                _ => self.frames.push(&buffer[..length]),
            }
            self.hear(at, awaited);
            if length < buffer.len() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, at: i64, awaited: &Awaited) {
        while let Some(frame) = self.frames.next() {
            if !is_message(frame) {
                continue;
            }
            if frame.ends_with(CONFIRM) {
                assert!(self.confirmed.is_none(), "confirmed twice");
                self.confirmed = Some(at);
            } else if frame.ends_with(CONFIRM_HISTORY) {
                self.history_confirmed = true;
            } else {
                assert!(self.confirmed.is_some(), "before its confirm: {}", frame.escape_ascii());
                assert!(self.done.is_none(), "too many: {}", frame.escape_ascii());
                assert_eq!(messages::number(frame), self.next_number, "of {:?}", awaited.numbers);
                self.next_number += 1;
            }
        }
        let has_all = self.confirmed.is_some()
            && self.next_number == awaited.numbers.end
            && self.history_confirmed == awaited.confirm_history;
        if has_all && self.done.is_none() {
            self.done = Some(at);
        }
    }
}
