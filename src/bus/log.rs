//! Reading back what was released.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::barrier::BarrierHandle;
use super::database::{Database, Replayer};
use super::gaps::IdRange;
use super::position::Ids;
use super::{BusConfig, Message, Tail, channel_hash};
use crate::stream::{Prefix, Stream};

/// The table as a log: what a stream had before now. Clones share one connection.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    database: Database,
    prefix: Prefix,
    barriers: BarrierHandle,
    /// None until it is needed, and after an error.
    connection: Mutex<Option<Replayer>>,
}

/// Messages of one stream, oldest first, each with what a client has once it has got it.
#[derive(Debug)]
pub struct Replay {
    pub messages: Vec<Message>,
    ids: Vec<i64>,
    before: Ids,
    released: Arc<Ids>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the database is away: {0}")]
    Away(Arc<str>),
    #[error("more than {0} messages were missed")]
    TooMany(usize),
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl Replay {
    /// The client's own set after it has got this message.
    pub fn position_after(&self, index: usize) -> Ids {
        self.before.replayed_to(self.ids[index], &self.released)
    }
}

impl Log {
    pub(super) fn new(database: Database, config: &BusConfig, tail: &Tail) -> Self {
        Self(Arc::new(Inner {
            database,
            prefix: config.prefix.clone(),
            barriers: tail.barriers(),
            connection: Mutex::default(),
        }))
    }

    /// Waits until all that was committed before this call has been released and handed on, and says
    /// what has been.
    pub async fn barrier(&self) -> Result<Ids, ReplayError> {
        self.0.barriers.wait().await.ok_or(ReplayError::ShuttingDown)
    }

    /// What a stream has in `released` that is not in `before`: it is what a client missed that
    /// has come after a barrier.
    pub async fn missed(
        &self,
        stream: &Stream,
        before: Ids,
        released: Arc<Ids>,
        limit: usize,
    ) -> Result<Replay, ReplayError> {
        let ranges = before.missed(&released);
        let rows = self.read(stream, &ranges, limit + 1).await?;
        if rows.len() > limit {
            return Err(ReplayError::TooMany(limit));
        }
        Ok(self.replay(stream, rows, before, released))
    }

    /// The last `count` messages of a stream in `released`.
    pub async fn latest(
        &self,
        stream: &Stream,
        released: Arc<Ids>,
        count: usize,
    ) -> Result<Replay, ReplayError> {
        let mut rows: Vec<(i64, String)> = Vec::new();
        let mut below = released.high;
        loop {
            let wanted = count - rows.len();
            let page = self.read_latest(stream, below, wanted).await?;
            let complete = page.len() < wanted;
            below = page.last().map_or(0, |(id, _)| id - 1);
            // Rows of open gaps may be there, and are still to be released.
            rows.extend(page.into_iter().filter(|(id, _)| released.contains(*id)));
            if complete || rows.len() == count {
                break;
            }
        }
        rows.reverse();
        let before = match rows.first() {
            Some((id, _)) => Ids { high: id - 1, gaps: Vec::new() },
            None => Ids::clone(&released),
        };
        Ok(self.replay(stream, rows, before, released))
    }

    fn replay(&self, stream: &Stream, rows: Vec<(i64, String)>, before: Ids, released: Arc<Ids>) -> Replay {
        let (ids, payloads): (Vec<i64>, Vec<String>) = rows.into_iter().unzip();
        let message = |payload: String| Message {
            stream: stream.clone(),
            payload: payload.into_boxed_str(),
            superseded: false,
        };
        Replay { messages: payloads.into_iter().map(message).collect(), ids, before, released }
    }

    async fn read(
        &self,
        stream: &Stream,
        ranges: &[IdRange],
        limit: usize,
    ) -> Result<Vec<(i64, String)>, ReplayError> {
        let channel = self.0.prefix.channel(stream).into_bytes();
        let hash = channel_hash(&channel);
        let mut connection = self.0.connection.lock().await;
        let rows = async {
            let replayer = open(&mut connection, &self.0.database).await?;
            replayer.ranges(&channel, hash, ranges, limit).await
        };
        let rows = rows.await;
        self.settle(&mut connection, rows)
    }

    /// Newest first.
    async fn read_latest(
        &self,
        stream: &Stream,
        high: i64,
        count: usize,
    ) -> Result<Vec<(i64, String)>, ReplayError> {
        let channel = self.0.prefix.channel(stream).into_bytes();
        let hash = channel_hash(&channel);
        let mut connection = self.0.connection.lock().await;
        let rows = async {
            let replayer = open(&mut connection, &self.0.database).await?;
            replayer.latest(&channel, hash, high, count).await
        };
        let rows = rows.await;
        self.settle(&mut connection, rows)
    }

    /// Rows that are messages; what isn't was skipped when it was released, too.
    fn settle(
        &self,
        connection: &mut Option<Replayer>,
        rows: Result<Vec<(i64, Vec<u8>)>, sqlx::Error>,
    ) -> Result<Vec<(i64, String)>, ReplayError> {
        let rows = rows.map_err(|error| {
            *connection = None;
            ReplayError::Away(self.0.database.setup_error(error).to_string().into())
        })?;
        let is_message = |(id, payload)| match String::from_utf8(payload) {
            Ok(payload) if tablecast_protocol::is_json(&payload) => Some((id, payload)),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(is_message).collect())
    }
}

async fn open<'a>(
    connection: &'a mut Option<Replayer>,
    database: &Database,
) -> Result<&'a mut Replayer, sqlx::Error> {
    match connection {
        Some(replayer) => Ok(replayer),
        None => Ok(connection.insert(database.replayer().await?)),
    }
}
