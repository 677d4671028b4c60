//! A source without a database, for the tests of what stands above the bus.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::barrier::Barriers;
use super::position::{Era, Ids, Token};
use super::{Batch, Cut, Mark, Message, Resumed, Source};
use super::{BusConfig, Database, DatabaseUrl, Log, Wake, sqlite};
use crate::stream::{Prefix, Stream};

pub struct MemorySource(mpsc::UnboundedReceiver<Batch>);

#[derive(Clone)]
pub struct MemoryWriter(mpsc::UnboundedSender<Batch>);

pub fn memory() -> (MemoryWriter, MemorySource) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (MemoryWriter(sender), MemorySource(receiver))
}

impl MemoryWriter {
    /// One batch of messages of one stream.
    pub fn release(&self, stream: &Stream, payloads: &[&str]) {
        let message = |payload: &&str| message(stream, payload);
        self.send(Batch::Released(payloads.iter().map(message).collect::<Vec<_>>().into()));
    }

    pub fn send(&self, batch: Batch) {
        self.0.send(batch).expect("the source is alive");
    }
}

impl Source for MemorySource {
    async fn next(&mut self) -> Batch {
        match self.0.recv().await {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }
}

/// One that no database has released.
pub fn message(stream: &Stream, payload: &str) -> Message {
    Message { stream: stream.clone(), payload: payload.into(), superseded: false, mark: Mark(0) }
}

/// The same, told from others.
pub fn marked(stream: &Stream, payload: &str, id: i64) -> Message {
    Message { mark: Mark(id), ..message(stream, payload) }
}

pub fn mark(id: i64) -> Mark {
    Mark(id)
}

/// What a client has that goes on behind this id.
pub fn resumed(high: i64) -> Resumed {
    Resumed { ids: Ids { high, gaps: Vec::new() }, time: 0 }
}

/// The word of a client that has all up to this id, in a life of the table that all of these are of.
pub fn token(high: i64) -> Token {
    cut(high).token()
}

/// What a word says, to a server that has released all up to this id.
pub fn accepted(high: i64, word: &str) -> Resumed {
    cut(high).accept(word, None).expect("it is good")
}

fn cut(high: i64) -> Cut {
    Cut::new(Ids { high, gaps: Vec::new() }, Arc::new(Era { history: Some(7), ..Era::default() }))
}

/// Who follows a source, and says when it has handed on what.
pub struct Cuts(Barriers<Cut>);

impl Cuts {
    /// All up to this id has been handed on.
    pub fn pass(&mut self, high: i64) {
        self.0.begin_look();
        self.0.end_look();
        self.0.pass(|| cut(high));
    }
}

impl Log {
    /// One that says that the server is shutting down.
    pub fn nowhere() -> Self {
        Self::with_cuts().0
    }

    /// One whose table is away, but not the one who follows it.
    pub fn with_cuts() -> (Self, Cuts) {
        let barriers = Barriers::new(Arc::default());
        let config = nowhere();
        (Self::new(Database::new(&config), &config, barriers.handle()), Cuts(barriers))
    }
}

/// A table that isn't there.
pub(super) fn nowhere() -> BusConfig {
    BusConfig {
        url: DatabaseUrl::parse("sqlite:nowhere.db").expect("it is a URL"),
        table: "nowhere".into(),
        prefix: Prefix::default(),
        owns_table: None,
        retention: None,
        poll_interval: Duration::from_secs(1),
        wake: Wake::Poll,
        max_payload_bytes: 1,
        max_pending_bytes: 1,
        marks_superseded: false,
        replay_connections: 1,
        sqlite_synchronous: sqlite::Synchronous::Normal,
    }
}
