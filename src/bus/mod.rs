//! The bus: a database table with what reads, writes and trims it.
//!
//! # The pattern
//!
//! Solid Cable's `solid_cable_messages` is a log: writers append rows, in
//! transactions of their own, from any process; readers follow it by id. A row's
//! `channel` is a stream's name with the prefix in front, its `payload` one JSON
//! document. Writers don't need to know the readers.
//!
//! # Who runs
//!
//! - one [`Tail`] for each process follows the table and *releases* committed rows
//!   as [`Message`]s, each once, in an order that is the same for all who listen;
//! - one writer task (behind [`Publisher`]) commits what HTTP publishes, as many
//!   requests to a transaction as are waiting, and trims;
//! - any number of other processes, tablecast or Rails, do the same on the same
//!   table; none depends on another.
//!
//! # The seam
//!
//! All above the bus sees a [`Source`] of [`Batch`]es, a [`Log`] that reads back what was
//! released, and a [`Publisher`], and no ids: what a row's id means, which database there is and
//! how it wakes us stays in here. The table's tail is one source, the tests' in-memory one another.
//!
//! What a database brings along is told where it is kept: [`sqlite`] gives ids out in the order of
//! commits, [`postgres`] and [`mysql`] don't ([`gaps`]), and each says in its own way who may yet
//! commit, what is worth a look, and whether the table is the one that was followed.
//!
//! # Invariants
//!
//! - A row is released only once its transaction has committed, and never twice by
//!   one source.
//! - The tail never writes. Everything that this process writes goes through one
//!   connection, so that it can't lock itself out.
//! - Trimming never takes a row that this process's tail has not released.
//! - An error of the database ends nothing here: sources and the writer try again for
//!   as long as it takes, and say so in [`Status`].

mod barrier;
mod clock;
mod cut;
mod database;
pub mod gaps;
mod group;
mod hash;
mod log;
#[cfg(test)]
pub mod memory;
pub mod mysql;
pub(crate) mod patience;
mod poll;
pub mod position;
pub mod postgres;
mod publish;
mod request;
mod row;
#[cfg(test)]
mod simulation;
pub mod sqlite;
mod status;
mod tail;
mod together;
mod trim;
mod url;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

pub use cut::{Cut, Rejection, Resumed};
pub use database::{Database, DefaultPrefix, Migration, Schema, SetupError};
pub use hash::channel_hash;
pub use log::{Log, Most, Replay, Replayed};
pub use position::Token;
pub use publish::{Answer, PublishError, Publisher};
pub use request::{IdempotencyKey, Outgoing};
pub use status::{Status, StatusHandle};
pub use tail::Tail;
pub use url::{DatabaseUrl, UrlError};

use self::position::{Era, Ids, Steps, Walk};
use crate::stream::{Prefix, Stream};

/// One released row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub stream: Stream,
    /// A JSON document, as its writer wrote it.
    pub payload: Box<str>,
    /// It comes late, and a newer one of its stream was released before it: where the latest
    /// counts, this one doesn't.
    pub superseded: bool,
    pub mark: Mark,
}

/// Tells a row from others, for who has given back a position: see [`Resumed::has`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(i64);

/// What a source yields at a time.
#[derive(Debug)]
pub enum Batch {
    /// Messages in release order. The order of two messages is a promise also
    /// where their streams differ: one may have been written because of the other.
    Released(Messages),
    /// The table is not the one that was followed until now: it was restored,
    /// replaced or made anew. What clients hold may never have happened.
    NewHistory,
}

/// Messages, and the position after each.
#[derive(Debug)]
pub struct Messages {
    pub messages: Vec<Message>,
    /// How many ids had been released with each message: other rows come between.
    counts: Vec<usize>,
    steps: Steps,
    era: Arc<Era>,
}

/// The positions after the messages of a batch, one after the other.
#[derive(Debug)]
pub struct Tokens<'a> {
    of: &'a Messages,
    walk: Walk<'a>,
}

impl Messages {
    /// O(gaps) at first.
    pub fn tokens(&self) -> Tokens<'_> {
        Tokens { of: self, walk: self.steps.walk() }
    }

    /// What has been released once this message has. O(gaps + rows of the batch): made only
    /// where somebody asks.
    pub fn released_with(&self, index: usize) -> Ids {
        self.steps.after(self.counts[index])
    }
}

/// Some that no database has released: there are no positions between them.
impl From<Vec<Message>> for Messages {
    fn from(messages: Vec<Message>) -> Self {
        let counts = vec![0; messages.len()];
        Self { messages, counts, steps: Steps::default(), era: Arc::default() }
    }
}

impl Message {
    pub fn new(stream: Stream, payload: &str) -> Self {
        Self { stream, payload: payload.into(), superseded: false, mark: Mark(0) }
    }
}

impl Tokens<'_> {
    /// What a client has once it has this message, and all before it. Not for one before the last that was
    /// asked for. O(gaps), and O(1) for each row in between.
    pub fn after(&mut self, index: usize) -> Token {
        Token::new(&self.of.era, self.walk.to(self.of.counts[index]))
    }
}

/// Where messages come from.
pub trait Source: Send + 'static {
    /// Waits for the next batch. Never fails: a source whose database is away comes
    /// back to it by itself. Cancel-safe: a batch is returned or not begun.
    fn next(&mut self) -> impl Future<Output = Batch> + Send;
}

/// What the bus needs to know.
#[derive(Debug, Clone)]
pub struct BusConfig {
    pub url: DatabaseUrl,
    pub table: String,
    pub prefix: Prefix,
    /// Whether a server without prefix may trim all rows; none: if `migrate` made the table.
    pub owns_table: Option<bool>,
    /// Rows older than this are trimmed; none: never.
    pub retention: Option<Duration>,
    /// The longest that an idle tail sleeps.
    pub poll_interval: Duration,
    pub wake: Wake,
    pub max_payload_bytes: usize,
    /// How many bytes of publishes may wait for the database.
    pub max_pending_bytes: usize,
    /// Whether to look what each late message is worth: see [`Message::superseded`].
    pub marks_superseded: bool,
    /// So many connections read back at a time.
    pub replay_connections: usize,
    pub sqlite_synchronous: sqlite::Synchronous,
}

/// What wakes an idle tail before its poll interval has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The database's own signal; it is an error if there is none.
    Notify,
    /// Nothing: the tail polls.
    Poll,
    /// The database's signal where there is one.
    Auto,
}

/// The bus of a server, opened.
pub struct Bus {
    pub tail: Tail,
    pub log: Log,
    pub publisher: Publisher,
    /// Ends once the publisher was closed and all that it accepted is committed.
    pub writer: JoinHandle<()>,
    pub status: StatusHandle,
    pub info: Info,
}

/// What a server says of its table when it starts.
#[derive(Debug, Clone)]
pub struct Info {
    /// For people: `SQLite tablecast.db`.
    pub database: String,
    pub table: String,
    /// Where an INSERT that names no prefix goes.
    pub default_prefix: Prefix,
    pub owns_table: bool,
    /// Prefixes that others registered and whose rows a server without prefix would see.
    pub foreign_prefixes: Vec<String>,
}

impl Bus {
    /// Opens the table for a server: creates what is missing (SQLite), reads where
    /// the log ends, and starts the writer.
    pub async fn open(config: &BusConfig) -> Result<Self, SetupError> {
        let database = Database::new(config);
        let info = database.prepare(config).await?;
        let status = StatusHandle::default();
        let tail = Tail::open(database.clone(), config, status.clone()).await?;
        let log = Log::new(database.clone(), config, tail.barriers());
        let (publisher, writer) = Publisher::start(database, config, &info, tail.progress());
        Ok(Self { tail, log, publisher, writer, status, info })
    }
}
