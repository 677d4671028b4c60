//! Reading back what was released.
//!
//! # What bounds it
//!
//! What is read is what is found, however old or large the table is: rows are asked for along the index on
//! their channel's hash, in pages, and payloads only of what is given. Rows that have a stream's hash and are
//! none of its messages are passed, up to [`MAX_STRANGERS`]. All clients share a few connections ([`pool`]),
//! and none holds one for longer than a statement.
//!
//! For who waits there are ids in memory, and payloads of no more than [`PAGE_BYTES`]. What is read for many at
//! once is handed on stream by stream.

pub(super) mod found;
mod latest;
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

/// A page is bounded by both, so that memory is: thousands may have one at a time.
const PAGE_ROWS: usize = 64;
const PAGE_BYTES: usize = 128 << 10;
/// Payloads up to this size may come with their rows; larger ones are read when it is their turn.
const INLINE_BYTES: usize = 16 << 10;
/// Rows to a statement, whose payloads are read with it or not.
const LISTED_ROWS: usize = 2048;
/// So many rows are passed that have a stream's hash, and aren't its messages.
const MAX_STRANGERS: usize = 10_000;
/// A client may have many streams, and say that it lacks many ranges: of both together no more than so many are looked
/// for at once. SQLite takes 20 microseconds for each.
const MAX_PROBES: usize = 1024;
/// So many streams to a statement.
const STREAMS: usize = 256;
/// Rows of a stream that are asked for first when their times are looked at. Each further page is twice as long.
const FIRST_DATED_ROWS: usize = 32;
/// Clocks of those who write rows may be apart by as much.
const SKEW_SECS: i64 = 60;

impl Replay {
    /// The next messages, of about so many bytes and at least one; none at the end.
    pub async fn page(&mut self, bytes: usize) -> Result<Vec<Replayed>, Rejection> {
        while !self.waiting.is_empty() {
            let mut rows = self.next_rows(bytes.min(PAGE_BYTES));
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

    /// Nobody takes the next page for now: payloads that are here already are read again when somebody does.
    pub fn let_go(&mut self) {
        self.waiting.iter_mut().for_each(|row| row.payload = None);
    }

    fn next_rows(&mut self, bytes: usize) -> Vec<Waiting> {
        let count = page_of(self.waiting.iter().rev().map(|row| row.size), bytes);
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

    /// Gives rows of other streams too, each in its place.
    pub(super) fn mix_in(&mut self, streams: Vec<Stream>, rows: Vec<Found>) {
        let first = self.streams.len();
        self.streams.extend(streams);
        let waiting = rows.into_iter().map(|row| Waiting { stream: first + row.of, ..Waiting::from(row) });
        self.waiting.extend(waiting);
        self.waiting.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
    }
}

impl From<Found> for Waiting {
    fn from(Found { id, of, size, payload, .. }: Found) -> Self {
        Self { id, stream: of, size, is_owed: true, payload }
    }
}

/// How many of these sizes, the first, make a page.
fn page_of(sizes: impl Iterator<Item = usize>, bytes: usize) -> usize {
    let mut sum = 0;
    let fits = |(count, size): &(usize, usize)| {
        sum += size;
        *count == 0 || sum <= bytes
    };
    sizes.take(PAGE_ROWS).enumerate().take_while(fits).count()
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
            ranges: ranges(&before, &cut.released, channels.len()),
            before: &before,
            released: &cut.released,
            found: Vec::new(),
            strangers: 0,
        };
        // Few clients have missed more than a page, and those few are worth a second statement.
        scan.read(self, PAGE_ROWS, PAGE_BYTES / PAGE_ROWS).await?;
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

    fn channel(&self, stream: &Stream) -> Channel {
        Channel::new(self.0.prefix.channel(stream).into_bytes())
    }

    fn channels(&self, streams: &[Stream]) -> Vec<Channel> {
        streams.iter().map(|stream| self.channel(stream)).collect()
    }

    /// Of rows in the order of ids.
    pub(super) fn replay(
        &self,
        streams: Vec<Stream>,
        found: Vec<Found>,
        before: Ids,
        time: i64,
        cut: Cut,
        is_owed: impl Fn(&Found) -> bool,
    ) -> Replay {
        let waiting =
            found.into_iter().rev().map(|row| Waiting { is_owed: is_owed(&row), ..Waiting::from(row) });
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

    /// The newest rows of each walk from where it is, with payloads of no more than so many bytes.
    async fn newest(
        &self,
        channels: &[Channel],
        walks: &[Walk],
        bytes: usize,
    ) -> Result<Vec<Vec<Found>>, Rejection> {
        let rows: usize = walks.iter().map(|walk| walk.limit).sum();
        let inline = INLINE_BYTES.min(bytes / rows.max(1));
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
    before: &'a Ids,
    released: &'a Ids,
    found: Vec<Found>,
    strangers: usize,
}

/// Where what is missed of so many streams is looked for.
fn ranges(before: &Ids, released: &Ids, streams: usize) -> Vec<IdRange> {
    before.probes(released, MAX_PROBES / streams.max(1))
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
        // What has been committed since the cut may be among them, and what the client has.
        let is_missed = |id| self.released.contains(id) && !self.before.contains(id);
        self.found.extend(page.into_iter().filter(|row| row.own && is_missed(row.id)));
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

fn replayed(stream: Stream, id: i64, payload: Box<str>, before: &Ids, time: i64, cut: &Cut) -> Replayed {
    let ids = before.replayed_to(id, &cut.released);
    Replayed { stream, payload, token: cut.token_of(time, &ids), mark: Mark(id), created: time }
}

/// When a client had everything that is to be given these rows.
pub(super) fn oldest(created: impl Iterator<Item = Option<i64>>, cut: &Cut) -> i64 {
    created.flatten().min().map_or(cut.era.written_by(), |oldest| oldest.min(cut.era.written_by()))
}

/// What isn't JSON was skipped when it was released, too.
fn json(payload: Vec<u8>) -> Option<Box<str>> {
    is_json(&payload).then(|| String::from_utf8(payload).ok().map(String::into_boxed_str))?
}

fn is_json(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(tablecast_protocol::is_json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_with_many_gaps_costs_many_streams_no_more_than_few_looks() {
        let released = Ids { high: 10_000, gaps: Vec::new() };
        let gaps = (1..=90).map(|n| IdRange { first: 100 * n, last: 100 * n }).collect();
        let before = Ids { high: 9_500, gaps };
        for (streams, expected) in [(0, 91), (1, 91), (11, 91), (12, 85), (100, 10), (1000, 1), (5000, 1)] {
            assert_eq!(ranges(&before, &released, streams).len(), expected, "{streams} streams");
        }
    }
}
