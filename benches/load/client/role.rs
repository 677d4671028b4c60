//! The clients' process itself.

use std::io::{self, ErrorKind, stdin};
use std::time::Duration;

use mio::{Events, Poll};

use super::connection::Connection;
use super::dialect::Heard;
use super::tally::Tally;
use super::{Connect, Order, Reply, Streams};
use crate::harness::clients::STREAM;
use crate::harness::process::{die_with_parent, now};

/// When nothing has come for so long that should have, something is lost.
const PATIENCE: Duration = Duration::from_secs(20);

const BUFFER_BYTES: usize = 256 << 10;

pub fn main() {
    die_with_parent();
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit may be raised to its maximum");
    let mut clients: Option<Clients> = None;
    for line in stdin().lines() {
        let reply = match serde_json::from_str(&line.expect("it is text")).expect("it is an order") {
            Order::Connect(connect) => clients.insert(Clients::new(connect)).connect(),
            order => clients.as_mut().expect("they are connected").carry_out(order),
        };
        tell(&reply);
    }
}

fn tell(reply: &Reply) {
    println!("{}", serde_json::to_string(reply).expect("keys are text"));
}

struct Clients {
    wanted: Connect,
    connections: Vec<Connection>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
}

impl Clients {
    fn new(wanted: Connect) -> Self {
        let poll = Poll::new().expect("there is epoll");
        let (events, buffer) = (Events::with_capacity(1024), vec![0; BUFFER_BYTES]);
        Self { wanted, connections: Vec::new(), poll, events, buffer }
    }

    fn connect(&mut self) -> Reply {
        let mut tally = Tally::default();
        while tally.confirms.len() < self.wanted.count {
            let most = self.wanted.count.min(tally.confirms.len() + self.wanted.at_once);
            while self.connections.len() < most {
                let (number, registry) = (self.connections.len(), self.poll.registry());
                self.connections.push(Connection::begin(&self.wanted, registry, number));
            }
            self.expect_some(&mut tally);
        }
        Reply::Connected { times: tally.confirms, refused: tally.refused }
    }

    fn carry_out(&mut self, order: Order) -> Reply {
        match order {
            Order::Connect(_) => unreachable!("it is the first"),
            Order::Count { messages, step, record } => {
                let mut tally = Tally::expecting(messages, self.connections.len(), step, record);
                self.connections.iter_mut().for_each(|connection| connection.messages = 0);
                while !tally.is_complete() {
                    self.expect_some(&mut tally);
                }
                Reply::Counted { arrivals: tally.arrivals }
            }
            Order::Listen { time } => {
                let mut tally = Tally::default();
                let start = now();
                self.connections.iter_mut().for_each(|connection| connection.heartbeat = start);
                let end = start + time.as_nanos() as i64;
                while let left @ 1.. = end - now() {
                    self.turn(&mut tally, Duration::from_nanos(left as u64));
                }
                self.connections.iter().for_each(|connection| tally.gap(connection.heartbeat, end));
                let longest_gap = Duration::from_nanos(tally.longest_gap as u64);
                Reply::Listened { pings: tally.pings, longest_gap }
            }
        }
    }

    fn expect_some(&mut self, tally: &mut Tally) {
        if !self.turn(tally, PATIENCE) {
            let messages = || self.connections.iter().map(|connection| connection.messages);
            let (least, most) = (messages().min(), messages().max());
            panic!("nothing came for {PATIENCE:?}; of messages {least:?} to {most:?} have");
        }
    }

    /// Waits until something comes, and takes it. Says whether something did.
    fn turn(&mut self, tally: &mut Tally, patience: Duration) -> bool {
        self.poll.poll(&mut self.events, Some(patience)).expect("it isn't interrupted");
        let Self { wanted, connections, poll, events, buffer } = self;
        for event in &*events {
            let number = event.token().0;
            let connection = &mut connections[number];
            match take(connection, number, wanted, buffer, tally) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(()) => {}
                // It comes back until it is let in, as a browser does.
                Err(_) if !connection.is_subscribed => {
                    tally.refused += 1;
                    connection.begin_again(wanted, poll.registry(), number);
                }
                Err(error) => panic!("lost after {} messages: {error}", connection.messages),
            }
        }
        !events.is_empty()
    }
}

/// Takes all that there is for a connection.
fn take(
    connection: &mut Connection,
    number: usize,
    wanted: &Connect,
    buffer: &mut [u8],
    tally: &mut Tally,
) -> io::Result<()> {
    let dialect = &wanted.door.dialect;
    connection.greet(&wanted.door)?;
    loop {
        let received = connection.read(buffer, || dialect.subscribe(&wanted.streams.of(number)))?;
        while let Some(frame) = connection.frames.next() {
            match dialect.hear(frame) {
                Heard::Messages(count) => {
                    for _ in 0..count {
                        let reached = tally.message(connection.messages, received.at);
                        connection.messages += 1;
                        if let Some(messages) = reached
                            && !tally.is_complete()
                        {
                            tell(&Reply::Reached { messages });
                        }
                    }
                }
                Heard::Confirm => {
                    connection.is_subscribed = true;
                    tally.confirms.push(received.at - connection.began);
                }
                Heard::Ping => {
                    tally.pings += 1;
                    tally.gap(connection.heartbeat, received.at);
                    connection.heartbeat = received.at;
                    if let Some(pong) = dialect.pong() {
                        connection.say(pong)?;
                    }
                }
                Heard::Other => {}
            }
        }
        if received.all {
            return Ok(());
        }
    }
}

impl Streams {
    /// The stream of a client.
    pub fn of(self, number: usize) -> String {
        match self {
            Self::One => STREAM.to_owned(),
            Self::Each => format!("{STREAM}-{number}"),
        }
    }
}
