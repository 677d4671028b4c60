//! Reading back what was released.
//!
//! # What bounds it
//!
//! What is read is what is found, however old or large the table is: rows are asked for along the index on
//! their channel's hash, in pages, and payloads only of what is given. Rows that have a stream's hash and are
//! none of its messages are passed, up to [`MAX_STRANGERS`]. All clients share a few connections ([`pool`]),
//! and none holds one for longer than a statement.

pub(super) mod found;
mod pool;

use std::collections::HashMap;
use std::sync::Arc;

use self::found::{Channel, Found, Latest, Ranges};
use self::pool::Pool;
use super::barrier::BarrierHandle;
use super::cut::{Cut, Rejection, Resumed};
use super::database::{Database, Replayer};
use super::gaps::IdRange;
use super::position::{Ids, Token};
use super::{BusConfig, Mark};
use crate::stream::{Prefix, Stream};

/// The table as a log: what streams had before now. Clones share its connections.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    prefix: Prefix,
    barriers: BarrierHandle<Cut>,
    pool: Pool,
}

/// A message of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    pub stream: Stream,
    pub payload: Box<str>,
    /// What a client has once it has this, and all of the replay before it.
    pub token: Token,
    pub mark: Mark,
    /// As old as the oldest of the replay is what a client may lack that has this: seconds since 1970.
    pub(super) created: i64,
}

/// What a client has missed, read page by page: oldest first, over all its streams.
pub struct Replay {
    log: Log,
    cut: Cut,
    streams: Vec<Stream>,
    /// What the client has before it, and when it had all of that: until the replay has ended it lacks what
    /// is as old.
    before: Ids,
    time: i64,
    /// Nothing is given beside it: with its last message the client has all up to the cut.
    is_whole: bool,
    /// By id, the next last.
    waiting: Vec<Waiting>,
}

/// A row that is to be given.
struct Waiting {
    id: i64,
    stream: usize,
    size: usize,
    /// The client must get it: if it is no longer there, it was trimmed too early.
    is_owed: bool,
    /// None until its page is read.
    payload: Option<Vec<u8>>,
}

/// A page is bounded by both, so that memory is.
const PAGE_ROWS: usize = 64;
const PAGE_BYTES: usize = 1 << 20;
/// So large payloads come with the first page of rows; larger ones are read when it is their turn.
const INLINE_BYTES: usize = 16 << 10;
/// A stream's last messages end, whatever their count, with the one that makes them so large together.
const LATEST_BYTES: usize = 4 << 20;
/// Rows to a statement that reads no payloads.
const LISTED_ROWS: usize = 2048;
/// So many rows are passed that have a stream's hash, and aren't its messages.
const MAX_STRANGERS: usize = 10_000;
/// So many streams to a statement.
const STREAMS: usize = 256;
/// Rows of a stream that are asked for first when their times are looked at. Each further page is twice as long.
const FIRST_DATED_ROWS: usize = 32;
/// Clocks of those who write rows may be apart by as much.
const SKEW_SECS: i64 = 60;

impl Replay {
    /// The next messages; none at the end.
    pub async fn page(&mut self) -> Result<Vec<Replayed>, Rejection> {
        while !self.waiting.is_empty() {
            let mut rows = self.next_rows();
            let absent = rows.iter().filter(|row| row.payload.is_none());
            let absent: Vec<i64> = absent.map(|row| row.id).collect();
            let mut payloads = self.log.payloads(&absent).await?;
            for row in &mut rows {
                row.payload = row.payload.take().or_else(|| payloads.remove(&row.id));
                if row.is_owed && row.payload.is_none() {
                    return Err(Rejection::TooOld);
                }
            }
            let mut page: Vec<Replayed> = rows.into_iter().filter_map(|row| self.message(row)).collect();
            if let Some(last) = page.last_mut() {
                if self.waiting.is_empty() && self.is_whole {
                    last.token = self.cut.token();
                }
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }

    fn next_rows(&mut self) -> Vec<Waiting> {
        let mut bytes = 0;
        let rows = self.waiting.iter().rev().take(PAGE_ROWS).take_while(|row| {
            let is_first = bytes == 0;
            bytes += row.size;
            is_first || bytes <= PAGE_BYTES
        });
        let count = rows.count();
        let mut rows = self.waiting.split_off(self.waiting.len() - count);
        rows.reverse();
        rows
    }

    /// None for what was no message when it was released, either.
    fn message(&self, row: Waiting) -> Option<Replayed> {
        let payload = json(row.payload?)?;
        let stream = self.streams[row.stream].clone();
        Some(replayed(stream, row.id, payload, &self.before, self.time, &self.cut))
    }

    /// Other messages are given between its own.
    pub(super) fn in_part(self) -> Self {
        Self { is_whole: false, ..self }
    }
}

/// How many messages may be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Most {
    /// Who has missed more gets none.
    OrNone(usize),
    /// Who has missed more gets the first.
    OrFirst(usize),
}

impl Most {
    fn count(self) -> usize {
        match self {
            Self::OrNone(count) | Self::OrFirst(count) => count,
        }
    }
}

impl Log {
    pub(super) fn new(database: Database, config: &BusConfig, barriers: BarrierHandle<Cut>) -> Self {
        Self(Arc::new(Inner {
            prefix: config.prefix.clone(),
            barriers,
            pool: Pool::new(database, config.replay_connections),
        }))
    }

    /// One that has its answers from there, and cuts from there.
    #[cfg(test)]
    pub(super) fn of(replayer: Replayer, barriers: BarrierHandle<Cut>) -> Self {
        let config = super::memory::nowhere();
        let pool = Pool::of(Database::new(&config), replayer);
        Self(Arc::new(Inner { prefix: config.prefix, barriers, pool }))
    }

    /// Waits until all that was committed before this call has been released and handed on. `at` is called in
    /// that moment, on the task that follows the source: what has been handed on by then is in the cut, and
    /// what comes later isn't.
    pub async fn cut(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Result<Cut, Rejection> {
        self.0.barriers.wait(at).await.ok_or(Rejection::ShuttingDown)
    }

    /// The next moment between two batches, without the wait for what was committed: for who needs what is read to
    /// join what is published, and no more. It doesn't wait for a database that is away.
    pub async fn next_cut(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Result<Cut, Rejection> {
        self.0.barriers.next(at).await.ok_or(Rejection::ShuttingDown)
    }

    /// What these streams have up to the cut that a client hasn't which goes on from there. Where nothing can have
    /// been missed the database isn't asked.
    pub async fn missed(
        &self,
        streams: Vec<Stream>,
        from: Resumed,
        cut: Cut,
        most: Most,
    ) -> Result<Replay, Rejection> {
        let Resumed { ids: before, time } = from;
        let max = most.count();
        let channels = self.channels(&streams);
        let mut scan = Scan {
            channels: &channels,
            ranges: before.probes(&cut.released),
            released: &cut.released,
            found: Vec::new(),
            strangers: 0,
        };
        // Few clients have missed more than a page, and those few are worth a second statement.
        scan.read(self, PAGE_ROWS, INLINE_BYTES).await?;
        while !scan.is_done() && scan.found.len() <= max {
            let rows = (max + 1 - scan.found.len()).clamp(PAGE_ROWS, LISTED_ROWS);
            scan.read(self, rows, 0).await?;
            if scan.strangers > MAX_STRANGERS {
                return Err(Rejection::TooMany(max));
            }
        }
        let mut found = scan.found;
        let is_whole = found.len() <= max;
        match most {
            Most::OrNone(_) if !is_whole => return Err(Rejection::TooMany(max)),
            _ => found.truncate(max),
        }
        let replay = self.replay(streams, found, before, time, cut, |_| true);
        Ok(Replay { is_whole, ..replay })
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
        let channels = self.channels(&streams);
        let mut walks: Vec<Walk> = (0..streams.len())
            .map(|of| Walk {
                of,
                high: cut.released.high,
                limit: FIRST_DATED_ROWS.max(at_least),
                passed: 0,
                own: 0,
            })
            .collect();
        let mut found: Vec<Found> = Vec::new();
        while !walks.is_empty() {
            let mut going_on = Vec::new();
            for walks in walks.chunks(STREAMS) {
                let pages = self.newest(&channels, walks, 0).await?;
                for (walk, page) in walks.iter().zip(pages) {
                    let reaches_back = |row: &Found| row.created.is_some_and(|at| at < since - SKEW_SECS);
                    let is_short = page.len() < walk.limit;
                    let is_past = page.last().is_some_and(reaches_back);
                    let is_before = page.last().is_some_and(|row| row.created.is_some_and(|at| at < since));
                    let mut next = walk.next(&page);
                    for row in page.into_iter().filter(|row| row.own && cut.released.contains(row.id)) {
                        if next.own < at_least || row.created.is_some_and(|at| at >= since) {
                            found.push(row);
                        }
                        next.own += 1;
                    }
                    if found.len() > max {
                        return Err(Rejection::TooMany(max));
                    }
                    let is_end = is_short || is_past && next.own >= at_least;
                    match next.passed > max + MAX_STRANGERS {
                        _ if is_end => {}
                        false => going_on.push(next),
                        // What is left may lie there only where clocks are apart.
                        true if is_before => {}
                        true => return Err(Rejection::TooMany(max)),
                    }
                }
            }
            walks = going_on;
        }
        found.sort_unstable_by_key(|row| row.id);
        let first = found.first().map_or(cut.released.high, |row| row.id - 1);
        let before = cut.released.up_to(first);
        let time = oldest(found.iter().map(|row| row.created), &cut);
        let is_since = |row: &Found| row.created.is_some_and(|at| at >= since);
        Ok(self.replay(streams, found, before, time, cut, is_since))
    }

    /// The last `count` messages of a stream up to the cut, oldest first; fewer where they are large.
    pub async fn latest(&self, stream: &Stream, cut: &Cut, count: usize) -> Result<Vec<Replayed>, Rejection> {
        let asked = [(stream.clone(), count)];
        Ok(self.latest_of(&asked, cut).await?.pop().expect("one was asked for"))
    }

    /// [`latest`](Self::latest) of many streams, in few statements.
    pub async fn latest_of(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
    ) -> Result<Vec<Vec<Replayed>>, Rejection> {
        let names: Vec<Stream> = streams.iter().map(|(stream, _)| stream.clone()).collect();
        let channels = self.channels(&names);
        let mut found: Vec<Vec<Message>> = streams.iter().map(|_| Vec::new()).collect();
        let wanted = streams.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        let mut walks: Vec<Walk> = wanted
            .map(|(of, (_, count))| Walk { of, high: cut.released.high, limit: *count, passed: 0, own: 0 })
            .collect();
        while !walks.is_empty() {
            let mut going_on = Vec::new();
            for walks in walks.chunks(STREAMS) {
                let pages = self.newest(&channels, walks, INLINE_BYTES).await?;
                for (walk, page) in walks.iter().zip(pages) {
                    let count = streams[walk.of].1;
                    let is_end = page.len() < walk.limit;
                    let next = walk.next(&page);
                    // Rows of open gaps may be there, and are still to be released.
                    let rows = page.into_iter().filter(|row| row.own && cut.released.contains(row.id));
                    let is_full = self.take_messages(rows, count, &mut found[walk.of]).await?;
                    if !is_end && !is_full && next.passed <= count + MAX_STRANGERS {
                        going_on.push(next);
                    }
                }
            }
            walks = going_on;
        }
        let replays = names.into_iter().zip(found).map(|(stream, mut found)| {
            found.reverse();
            let first = found.first().map_or(cut.released.high, |message| message.id - 1);
            let before = cut.released.up_to(first);
            let time = oldest(found.iter().map(|message| message.created), cut);
            let message =
                |Message { id, payload, .. }| replayed(stream.clone(), id, payload, &before, time, cut);
            let mut all: Vec<Replayed> = found.into_iter().map(message).collect();
            if let Some(last) = all.last_mut() {
                last.token = cut.token();
            }
            all
        });
        Ok(replays.collect())
    }

    /// Appends rows that are messages, with their payloads, until there are `count`, or many bytes of them. Says
    /// whether it is so.
    async fn take_messages(
        &self,
        rows: impl Iterator<Item = Found>,
        count: usize,
        found: &mut Vec<Message>,
    ) -> Result<bool, Rejection> {
        let mut bytes: usize = found.iter().map(|message| message.payload.len()).sum();
        for row in rows {
            if found.len() == count || bytes >= LATEST_BYTES {
                return Ok(true);
            }
            let payload = match row.payload {
                Some(payload) => Some(payload),
                None => self.payloads(&[row.id]).await?.remove(&row.id),
            };
            if let Some(payload) = payload.and_then(json) {
                bytes += payload.len();
                found.push(Message { id: row.id, created: row.created, payload });
            }
        }
        Ok(found.len() == count || bytes >= LATEST_BYTES)
    }

    fn channels(&self, streams: &[Stream]) -> Vec<Channel> {
        streams.iter().map(|stream| Channel::new(self.0.prefix.channel(stream).into_bytes())).collect()
    }

    fn replay(
        &self,
        streams: Vec<Stream>,
        found: Vec<Found>,
        before: Ids,
        time: i64,
        cut: Cut,
        is_owed: impl Fn(&Found) -> bool,
    ) -> Replay {
        let waiting = found.into_iter().rev().map(|row| Waiting {
            is_owed: is_owed(&row),
            id: row.id,
            stream: row.of,
            size: row.size,
            payload: row.payload,
        });
        let waiting = waiting.collect();
        Replay { log: self.clone(), cut, streams, before, time, is_whole: true, waiting }
    }

    /// Runs what is asked of a connection.
    async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&mut Replayer) -> Result<T, sqlx::Error>,
    ) -> Result<T, Rejection> {
        let answered = async {
            let mut connection = self.0.pool.lend().await?;
            let answer = ask(&mut connection.replayer).await?;
            connection.give_back();
            Ok(answer)
        };
        answered.await.map_err(|error| self.0.pool.away(error))
    }

    /// The newest rows of each walk from where it is.
    async fn newest(
        &self,
        channels: &[Channel],
        walks: &[Walk],
        inline: usize,
    ) -> Result<Vec<Vec<Found>>, Rejection> {
        let asked: Vec<Latest> = walks
            .iter()
            .map(|walk| Latest { channel: &channels[walk.of], high: walk.high, limit: walk.limit })
            .collect();
        let rows = self.ask(async |replayer| replayer.latest(&asked, inline).await).await?;
        let mut pages: Vec<Vec<Found>> = walks.iter().map(|_| Vec::new()).collect();
        for row in rows {
            let at = row.of;
            pages[at].push(Found { of: walks[at].of, ..row });
        }
        Ok(pages)
    }

    async fn payloads(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<u8>>, Rejection> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = self.ask(async |replayer| replayer.payloads(ids).await).await?;
        Ok(rows.into_iter().collect())
    }
}

/// The rows of some channels in some ranges, in the order of ids.
struct Scan<'a> {
    channels: &'a [Channel],
    /// Those that are still to be read.
    ranges: Vec<IdRange>,
    released: &'a Ids,
    found: Vec<Found>,
    strangers: usize,
}

impl Scan<'_> {
    fn is_done(&self) -> bool {
        self.ranges.is_empty() || self.channels.is_empty()
    }

    async fn read(&mut self, log: &Log, limit: usize, inline: usize) -> Result<(), Rejection> {
        if self.is_done() {
            return Ok(());
        }
        let asked = Ranges { channels: self.channels, ranges: &self.ranges, limit, inline };
        let page = log.ask(async |replayer| replayer.ranges(asked).await).await?;
        match page.last() {
            Some(last) if page.len() == limit => {
                let read_to = last.id;
                self.ranges.retain(|range| range.last > read_to);
                if let Some(range) = self.ranges.first_mut() {
                    range.first = range.first.max(read_to + 1);
                }
            }
            _ => self.ranges.clear(),
        }
        let rows = page.len();
        let before = self.found.len();
        // What has been committed since the cut may be among them.
        self.found.extend(page.into_iter().filter(|row| row.own && self.released.contains(row.id)));
        self.strangers += rows - (self.found.len() - before);
        Ok(())
    }
}

/// A way back through a stream's rows, newest first.
struct Walk {
    of: usize,
    high: i64,
    limit: usize,
    passed: usize,
    /// Of those, rows that count.
    own: usize,
}

impl Walk {
    /// After a page of rows. Each is twice as long as the one before.
    fn next(&self, page: &[Found]) -> Self {
        Self {
            of: self.of,
            high: page.last().map_or(0, |row| row.id - 1),
            limit: (self.limit * 2).clamp(1, LISTED_ROWS.max(self.limit)),
            passed: self.passed + page.len(),
            own: self.own,
        }
    }
}

/// A row that is a message.
struct Message {
    id: i64,
    created: Option<i64>,
    payload: Box<str>,
}

fn replayed(stream: Stream, id: i64, payload: Box<str>, before: &Ids, time: i64, cut: &Cut) -> Replayed {
    let ids = before.replayed_to(id, &cut.released);
    Replayed { stream, payload, token: cut.token_of(time, &ids), mark: Mark(id), created: time }
}

/// When a client had everything that is to be given these rows.
fn oldest(created: impl Iterator<Item = Option<i64>>, cut: &Cut) -> i64 {
    created.flatten().min().map_or(cut.era.written_by(), |oldest| oldest.min(cut.era.written_by()))
}

/// What isn't JSON was skipped when it was released, too.
fn json(payload: Vec<u8>) -> Option<Box<str>> {
    let payload = String::from_utf8(payload).ok()?;
    tablecast_protocol::is_json(&payload).then(|| payload.into_boxed_str())
}
