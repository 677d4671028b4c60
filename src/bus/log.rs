//! Reading back what was released.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::barrier::BarrierHandle;
use super::cut::{Cut, Rejection, Resumed};
use super::database::{Database, Replayer};
use super::gaps::IdRange;
use super::position::{Ids, Token};
use super::{BusConfig, Mark, channel_hash};
use crate::stream::{Prefix, Stream};

/// The table as a log: what a stream had before now. Clones share one connection.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    database: Database,
    prefix: Prefix,
    barriers: BarrierHandle<Cut>,
    /// None until it is needed, and after an error.
    connection: Mutex<Option<Replayer>>,
}

/// A message of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub stream: Stream,
    pub payload: Box<str>,
    /// What a client has once it has this, and all of the replay before it.
    pub token: Token,
    pub mark: Mark,
}

/// What a client has missed, read page by page: oldest first, over all its streams.
pub struct Replay {
    log: Log,
    cut: Cut,
    streams: Vec<Stream>,
    before: Ids,
    done: bool,
}

impl Replay {
    /// The next messages; none at the end.
    pub async fn page(&mut self) -> Result<Vec<Replayed>, Rejection> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(Vec::new());
        }
        let ranges = self.before.missed(&self.cut.released);
        let mut found = Vec::new();
        for stream in &self.streams {
            for (id, payload) in self.log.read(stream, &ranges, 10_000).await? {
                let ids = self.before.replayed_to(id, &self.cut.released);
                let token = Token::new(&self.cut.era, &ids);
                found.push(Replayed {
                    stream: stream.clone(),
                    payload: payload.into(),
                    token,
                    mark: Mark(id),
                });
            }
        }
        found.sort_by_key(|replayed| replayed.mark.0);
        Ok(found)
    }
}

impl Log {
    pub(super) fn new(database: Database, config: &BusConfig, barriers: BarrierHandle<Cut>) -> Self {
        Self(Arc::new(Inner {
            database,
            prefix: config.prefix.clone(),
            barriers,
            connection: Mutex::default(),
        }))
    }

    /// Waits until all that was committed before this call has been released and handed on. `at` is called in
    /// that moment, on the task that follows the source: what has been handed on by then is in the cut, and
    /// what comes later isn't.
    pub async fn cut(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Result<Cut, Rejection> {
        self.0.barriers.wait(at).await.ok_or(Rejection::ShuttingDown)
    }

    /// What these streams have up to the cut that a client hasn't which goes on from there; an error if that is
    /// more than `max` messages; without it they aren't counted.
    pub async fn missed(
        &self,
        streams: Vec<Stream>,
        from: Resumed,
        cut: Cut,
        max: Option<usize>,
    ) -> Result<Replay, Rejection> {
        let _ = max;
        Ok(Replay { log: self.clone(), cut, streams, before: from.0, done: false })
    }

    /// What these streams have up to the cut that was written at `since` or later, by the rows' own times: seconds
    /// since 1970. Or the last `at_least` of each, where that is more. An error if it is more than `max` messages.
    pub async fn since(
        &self,
        streams: Vec<Stream>,
        since: i64,
        at_least: usize,
        cut: Cut,
        max: usize,
    ) -> Result<Replay, Rejection> {
        let _ = (since, at_least);
        let from = Resumed(Ids::clone(&cut.released));
        self.missed(streams, from, cut, Some(max)).await
    }

    /// The last `count` messages of a stream up to the cut, oldest first.
    pub async fn latest(&self, stream: &Stream, cut: &Cut, count: usize) -> Result<Vec<Replayed>, Rejection> {
        let released = &cut.released;
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
        let before = released.up_to(rows.first().map_or(released.high, |(id, _)| id - 1));
        let replayed = |(id, payload): (i64, String)| Replayed {
            stream: stream.clone(),
            payload: payload.into(),
            token: Token::new(&cut.era, &before.replayed_to(id, released)),
            mark: Mark(id),
        };
        Ok(rows.into_iter().map(replayed).collect())
    }

    /// The same for several streams, each with its count.
    pub async fn latest_of(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
    ) -> Result<Vec<Vec<Replayed>>, Rejection> {
        let mut all = Vec::new();
        for (stream, count) in streams {
            all.push(self.latest(stream, cut, *count).await?);
        }
        Ok(all)
    }

    async fn read(
        &self,
        stream: &Stream,
        ranges: &[IdRange],
        limit: usize,
    ) -> Result<Vec<(i64, String)>, Rejection> {
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
    ) -> Result<Vec<(i64, String)>, Rejection> {
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
    ) -> Result<Vec<(i64, String)>, Rejection> {
        let rows = rows.map_err(|error| {
            *connection = None;
            Rejection::Away(self.0.database.setup_error(error).to_string().into())
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
