use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::RngExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check::{Delivery, Log, Payload, stream_of};
use super::session::Session;
use super::{Name, STREAMS, Stage, stream_name};
use crate::support::{Frame, Server, Socket, pubsub};

/// Who writes the last message of each stream, which has the stream's number.
pub const MARKER: u16 = u16::MAX;
/// So many connections of each server stay from the beginning to the end.
pub const WHOLE: usize = 3;
/// How long after its commit a stream's last message may take.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What comes after the last message, in this time, is told as out of order.
const AFTERMATH: Duration = Duration::from_secs(2);

/// A connection that listens from before the first message.
pub struct Whole {
    connection: Connection,
    /// Where others look for what it saw last.
    slot: usize,
}

struct Connection {
    socket: Socket,
    streams: HashMap<String, u16>,
    log: Log,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    identifier: Option<String>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

impl Whole {
    pub fn subscribe(server: &Server, server_number: usize, one: usize, stage: &Stage) -> Self {
        // One listens to half of the streams.
        let streams = (0..STREAMS).filter(|stream| one < WHOLE - 1 || stream % 2 == 0).collect();
        let name = format!("server {server_number}, connection {one}");
        let mut connection = Connection::open(server, server_number, name, streams);
        connection.log.whole = true;
        while connection.log.confirmed.values().any(Option::is_none) {
            assert!(connection.take_next(stage).is_none(), "nobody has written yet");
        }
        Self { connection, slot: server_number * WHOLE + one }
    }

    pub fn read(mut self, stage: &Stage) -> Log {
        let mut written: Option<Instant> = None;
        let mut marked: Option<Instant> = None;
        let mut markers = 0;
        while self.connection.log.ended.is_none() {
            if let Some(Delivery { writer, number, .. }) = self.connection.take_next(stage) {
                if writer == MARKER {
                    markers += 1;
                } else {
                    stage.seen[self.slot].store(pack((writer, number)), Relaxed);
                }
            }
            if markers >= self.connection.streams.len() {
                if marked.get_or_insert_with(Instant::now).elapsed() >= AFTERMATH {
                    break;
                }
            } else if stage.is_written() && written.get_or_insert_with(Instant::now).elapsed() >= LONGEST_WAIT
            {
                break;
            }
        }
        self.connection.log
    }
}

/// A reader that comes and goes until the run is over: each connection's log.
pub fn come_and_go(server: &Server, number: usize, stage: &Stage) -> Vec<Log> {
    let mut random = stage.random(1000 + number as u64);
    let mut logs = Vec::new();
    while !stage.is_over() {
        let streams = (0..STREAMS).filter(|_| random.random()).collect();
        let name = format!("server {number}, visit {}", logs.len());
        let mut connection = Connection::open(server, number, name, streams);
        let end = stage.now() + random.random_range(500..8000);
        while stage.now() < end && connection.log.ended.is_none() {
            connection.take_next(stage);
        }
        connection.socket.close();
        logs.push(connection.log);
    }
    logs
}

impl Connection {
    /// Connects, and asks for the streams.
    fn open(server: &Server, server_number: usize, name: String, streams: Vec<u16>) -> Self {
        let mut socket = server.connect();
        let identifiers: HashMap<String, u16> =
            streams.iter().map(|stream| (pubsub(&stream_name(*stream)), *stream)).collect();
        for identifier in identifiers.keys() {
            socket.command("subscribe", identifier);
        }
        let log = Log {
            server: server_number,
            name,
            whole: false,
            confirmed: streams.into_iter().map(|stream| (stream, None)).collect(),
            deliveries: Vec::new(),
            ended: None,
        };
        Self { socket, streams: identifiers, log }
    }

    /// Takes in one frame; gives back the message, if it is one.
    fn take_next(&mut self, stage: &Stage) -> Option<Delivery> {
        let frame = self.socket.frame();
        let now = stage.now();
        let text = match frame {
            Frame::Text(text) => text,
            other => {
                self.log.ended = Some(format!("{other:?} at {now} ms"));
                return None;
            }
        };
        let incoming: Incoming = serde_json::from_str(&text).unwrap();
        match incoming.kind.as_deref() {
            None => {}
            Some("ping") => return None,
            Some("confirm_subscription") => {
                let stream = self.streams[&incoming.identifier.unwrap()];
                self.log.confirmed.insert(stream, Some(now));
                return None;
            }
            Some(_) => {
                self.log.ended = Some(format!("{text} at {now} ms"));
                return None;
            }
        }
        let payload: Payload = serde_json::from_str(incoming.message.unwrap().get()).unwrap();
        let stream = self.streams[&incoming.identifier.unwrap()];
        let delivery = Delivery { writer: payload.w, number: payload.n, stream, at: now };
        self.log.deliveries.push(delivery);
        Some(delivery)
    }
}

/// Follows the table as Solid Cable does: what has a higher id than what it saw last. Unlike that it
/// survives the loss of its connection.
pub struct Naive {
    stage: Arc<Stage>,
    session: Session,
    last: i64,
    log: Log,
}

impl Naive {
    pub async fn begin(stage: Arc<Stage>) -> Self {
        let mut session = Session::open(&stage).await.unwrap();
        let last = session.last_id().await.unwrap();
        let log = Log {
            server: usize::MAX,
            name: "naive reader".into(),
            whole: true,
            confirmed: (0..STREAMS).map(|stream| (stream, Some(0))).collect(),
            deliveries: Vec::new(),
            ended: None,
        };
        Self { stage, session, last, log }
    }

    pub async fn read(mut self) -> Log {
        let mut written: Option<Instant> = None;
        let mut markers = 0;
        while markers < STREAMS {
            if self.stage.is_written() && written.get_or_insert_with(Instant::now).elapsed() >= LONGEST_WAIT {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Ok(rows) = self.session.read(self.last, 100_000).await else {
                if let Ok(session) = Session::open(&self.stage).await {
                    self.session = session;
                }
                continue;
            };
            for row in rows {
                self.last = row.id;
                let Some(stream) = stream_of(&row.channel) else { continue };
                let Payload { w: writer, n: number, .. } = serde_json::from_slice(&row.payload).unwrap();
                markers += u16::from(writer == MARKER);
                self.log.deliveries.push(Delivery { writer, number, stream, at: self.stage.now() });
            }
        }
        self.log
    }
}

pub fn pack((writer, number): Name) -> u64 {
    (1 << 63) | (u64::from(writer) << 32) | u64::from(number)
}

pub fn unpack(packed: u64) -> Option<Name> {
    (packed != 0).then_some(((packed >> 32) as u16 & 0x7fff, packed as u32))
}
