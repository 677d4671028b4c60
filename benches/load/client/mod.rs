//! Clients: a process of one thread that reads many WebSockets, counts, and takes the times.
//!
//! It is the same for every server, does little else than `read`, and ends the run where a
//! connection gets one message more or fewer than it should.

mod connection;
pub mod dialect;
pub mod role;
mod tally;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::CLIENTS;
use crate::harness::process::Process;
use dialect::Door;

/// What the process is told, a line of JSON each. It reads its sockets only while it carries
/// out an order.
#[derive(Serialize, Deserialize)]
pub enum Order {
    Connect(Connect),
    /// Reads until each connection has got so many messages more, and says so at each step.
    Count {
        messages: usize,
        step: usize,
        record: bool,
    },
    /// Reads for so long, and expects heartbeats alone.
    Listen {
        time: Duration,
    },
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Connect {
    pub door: Door,
    pub count: usize,
    /// How many may be on their way at the same time.
    pub at_once: usize,
    /// One for all, or each its own.
    pub streams: Streams,
    /// How much the kernel may keep of what isn't read, where that is to be little.
    pub receive_buffer: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Streams {
    One,
    Each,
}

/// What it answers, a line of JSON each.
#[derive(Serialize, Deserialize)]
pub enum Reply {
    /// For each connection how long it took from its first `connect` to the confirm, in
    /// nanoseconds; and how often one was turned away and tried again.
    Connected {
        times: Vec<i64>,
        refused: usize,
    },
    /// Each connection has got so many messages.
    Reached {
        messages: usize,
    },
    /// The same for all that were ordered; where it was asked for, with the times at which
    /// each message came.
    Counted {
        arrivals: Vec<Vec<i64>>,
    },
    Listened {
        pings: usize,
        longest_gap: Duration,
    },
}

/// The process, in the bench's eyes.
pub struct Clients {
    process: Process,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
    pub count: usize,
}

impl Clients {
    pub fn start() -> Self {
        let mut process = Process::spawn(Process::this(CLIENTS).stdin(Stdio::piped()));
        let orders = process.0.stdin.take().expect("it is piped");
        let replies = process.stdout();
        Self { process, orders, replies, count: 0 }
    }

    /// So many that have subscribed to one stream, gently.
    pub fn subscribed(door: &Door, count: usize) -> Self {
        let mut clients = Self::start();
        clients.connect(Connect::gently(door, count));
        clients
    }

    /// How long each took, and how often one was turned away.
    pub fn connect(&mut self, connect: Connect) -> (Vec<i64>, usize) {
        self.count = connect.count;
        self.order(&Order::Connect(connect));
        let Reply::Connected { times, refused } = self.reply() else { panic!("they connect") };
        (times, refused)
    }

    /// When they have read for so long: how many pings came, and the longest wait for one.
    pub fn listen(&mut self, time: Duration) -> (usize, Duration) {
        self.order(&Order::Listen { time });
        self.listened()
    }

    pub fn listened(&mut self) -> (usize, Duration) {
        let Reply::Listened { pings, longest_gap } = self.reply() else { panic!("they listen") };
        (pings, longest_gap)
    }

    pub fn order(&mut self, order: &Order) {
        let line = serde_json::to_string(order).expect("keys are text");
        writeln!(self.orders, "{line}").expect("the clients live");
    }

    pub fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.replies.read_line(&mut line).expect("it is text");
        assert!(!line.is_empty(), "the clients of process {} ended", self.process.0.id());
        serde_json::from_str(&line).expect("it is a reply")
    }
}

impl Connect {
    pub fn gently(door: &Door, count: usize) -> Self {
        Self { door: door.clone(), count, at_once: 64, streams: Streams::One, receive_buffer: None }
    }
}
