//! Publishing: at a pace, or as fast as the slowest client reads.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::client::{Clients, Order, Reply};
use crate::harness::clients::{Publisher, post, runtime};
use crate::harness::process::now;
use crate::harness::report::Times;

/// How messages get into a server.
pub enum Inlet {
    /// A line says how often the one message is to be broadcast.
    Pipe(ChildStdin),
    Http(SocketAddr, Way),
}

/// What a server wants to be asked.
#[derive(Clone, Copy)]
pub enum Way {
    /// tablecast's, and that of the program beside it.
    Broadcast,
    AnyCable,
    Centrifugo,
}

pub struct Message {
    pub stream: String,
    pub data: String,
}

/// Something that is published at once.
pub struct Batch {
    bytes: Vec<u8>,
    messages: usize,
}

enum Connection<'a> {
    Pipe(&'a ChildStdin),
    Http(Publisher),
}

impl Inlet {
    pub fn batch(&self, messages: &[Message]) -> Batch {
        let bytes = match self {
            Self::Pipe(_) => format!("{}\n", messages.len()).into_bytes(),
            Self::Http(address, way) => {
                let (path, body) = way.request(messages);
                post(*address, path, &body)
            }
        };
        Batch { bytes, messages: messages.len() }
    }

    async fn connect(&self) -> Connection<'_> {
        match self {
            Self::Pipe(pipe) => Connection::Pipe(pipe),
            Self::Http(address, _) => Connection::Http(Publisher::connect(*address).await),
        }
    }
}

impl Way {
    fn request(self, messages: &[Message]) -> (&'static str, String) {
        // The data goes in as it is: a server that reads and writes it again does so itself.
        let joined = |one: fn(&Message) -> String| messages.iter().map(one).collect::<Vec<_>>().join(",");
        let body = match self {
            Self::Broadcast => {
                joined(|Message { stream, data }| format!(r#"{{"stream":"{stream}","data":{data}}}"#))
            }
            Self::AnyCable => {
                joined(|Message { stream, data }| json!({ "stream": stream, "data": data }).to_string())
            }
            Self::Centrifugo => joined(|Message { stream, data }| {
                format!(r#"{{"publish":{{"channel":"{stream}","data":{data}}}}}"#)
            }),
        };
        match self {
            Self::Centrifugo => ("/api/batch", format!(r#"{{"commands":[{body}]}}"#)),
            Self::AnyCable | Self::Broadcast => {
                let path = if matches!(self, Self::AnyCable) { "/_broadcast" } else { "/broadcast" };
                (path, if messages.len() == 1 { body } else { format!("[{body}]") })
            }
        }
    }
}

impl Connection<'_> {
    async fn publish(&mut self, batch: &Batch) {
        match self {
            Self::Pipe(pipe) => pipe.write_all(&batch.bytes).expect("the server reads"),
            Self::Http(publisher) => publisher.publish(&batch.bytes).await,
        }
    }
}

/// Publishes each batch once, so many a second, to clients that count. Gives back when each was
/// published and when its messages came.
pub fn paced(inlet: &Inlet, batches: &[Batch], per_second: u32, clients: &mut Clients) -> Paced {
    let messages = batches.iter().map(|batch| batch.messages).sum();
    clients.order(&Order::Count { messages, step: messages, record: true });
    let sent = runtime().block_on(async {
        let mut connection = inlet.connect().await;
        let start = now();
        let mut sent = Vec::with_capacity(messages);
        for (number, batch) in batches.iter().enumerate() {
            let due = start + number as i64 * 1_000_000_000 / i64::from(per_second);
            // The server's time begins when the message was due, or a server that is late with
            // its answers would delay the question and not be seen to; but it is not its fault
            // when we wake up late.
            let early = due - now();
            if early > 0 {
                // Nothing else runs here, and the runtime's own timer counts in milliseconds.
                thread::sleep(Duration::from_nanos(early as u64));
            }
            sent.extend(vec![if early > 0 { now() } else { due }; batch.messages]);
            connection.publish(batch).await;
        }
        sent
    });
    let Reply::Counted { arrivals } = clients.reply() else { panic!("all come at once") };
    Paced { sent, arrivals }
}

pub struct Paced {
    sent: Vec<i64>,
    arrivals: Vec<Vec<i64>>,
}

impl Paced {
    pub fn deliveries(&self) -> usize {
        self.arrivals.iter().map(Vec::len).sum()
    }

    /// How long each delivery took.
    pub fn latencies(&self) -> Times {
        let one =
            |(sent, arrivals): (&i64, &Vec<i64>)| arrivals.iter().map(|at| at - sent).collect::<Vec<_>>();
        Times::new(self.sent.iter().zip(&self.arrivals).flat_map(one).collect())
    }
}

/// Publishes without a pace, over several connections, the batches in turn until each client has
/// got its messages; but never more than a window ahead of the slowest client, so that no server
/// has to drop any.
pub fn flood(inlet: &Inlet, batches: &[Batch], flood: Flood, clients: &mut Clients) -> Duration {
    let Flood { messages, window, streams, connections } = flood;
    let cycle: usize = batches.iter().map(|batch| batch.messages).sum();
    assert!((messages * streams).is_multiple_of(cycle), "all streams get the same");
    let count = messages * streams / cycle * batches.len();
    clients.order(&Order::Count { messages, step: flood.step(), record: false });
    let room = Semaphore::new(window * streams);
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        let counting = scope.spawn(|| make_room(&room, streams, clients));
        runtime().block_on(join_all((0..connections).map(|_| async {
            let mut connection = inlet.connect().await;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                let batch = &batches[number % batches.len()];
                room.acquire_many(batch.messages as u32).await.expect("it stays open").forget();
                connection.publish(batch).await;
            }
        })));
        counting.join().expect("all messages come");
    });
    start.elapsed()
}

#[derive(Clone, Copy)]
pub struct Flood {
    /// To each client.
    pub messages: usize,
    /// How many of these may be under way.
    pub window: usize,
    /// Among which the clients are divided.
    pub streams: usize,
    pub connections: usize,
}

impl Flood {
    /// How often the clients say how far they are.
    fn step(self) -> usize {
        (1..=self.window.div_ceil(8)).rev().find(|step| self.messages.is_multiple_of(*step)).unwrap_or(1)
    }
}

/// Until all have come.
fn make_room(room: &Semaphore, streams: usize, clients: &mut Clients) {
    let mut known = 0;
    while let Reply::Reached { messages } = clients.reply() {
        room.add_permits((messages - known) * streams);
        known = messages;
    }
}
