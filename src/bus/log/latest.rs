//! The last messages of streams, for newcomers.

use std::collections::VecDeque;

use super::found::{Channel, Found};
use super::{
    LISTED_ROWS, Log, MAX_STRANGERS, PAGE_BYTES, Replayed, STREAMS, Walk, is_json, oldest, page_of, replayed,
};
use crate::bus::cut::{Cut, Rejection};
use crate::stream::Stream;

/// A stream's last messages end, whatever their count, with the one that makes them so large together.
const LATEST_BYTES: usize = 4 << 20;
/// Of payloads that are read by their ids, where they are kept.
const CHUNK_BYTES: usize = 1 << 20;

/// How the last messages of streams are read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// A stream's end, whatever their count, with the one that makes them so large together.
    most_bytes: usize,
    /// For somebody who waits: a payload that doesn't come with its row is left where it is.
    is_for_later: bool,
}

impl Reading {
    /// What payloads a statement may bring along.
    fn statement_bytes(self) -> usize {
        if self.is_for_later { PAGE_BYTES } else { LATEST_BYTES }
    }
}

impl Log {
    /// The last `count` messages of a stream up to the cut, oldest first; fewer where that makes more than about so
    /// many bytes.
    pub async fn latest(
        &self,
        stream: &Stream,
        cut: &Cut,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Replayed>, Rejection> {
        let asked = [(stream.clone(), count)];
        let reading = Reading { most_bytes: bytes.min(LATEST_BYTES), is_for_later: false };
        let mut latest = Vec::new();
        self.find(&asked, cut, reading, |_, found| latest = replay_at_once(stream, found, cut)).await?;
        Ok(latest)
    }

    /// [`latest`](Self::latest) of many streams, in few statements. Each stream's are handed on as soon as they are
    /// read: no more than a few MiB are held at a time.
    pub async fn latest_of(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
        mut each: impl FnMut(usize, Vec<Replayed>) + Send,
    ) -> Result<(), Rejection> {
        let reading = Reading { most_bytes: LATEST_BYTES, is_for_later: false };
        self.find(streams, cut, reading, |of, found| each(of, replay_at_once(&streams[of].0, found, cut)))
            .await
    }

    /// The same for somebody who is given it by and by: where the last messages are, in the order of ids. Few payloads
    /// come along.
    pub(in crate::bus) async fn latest_for_later(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
    ) -> Result<Vec<Found>, Rejection> {
        let reading = Reading { most_bytes: LATEST_BYTES, is_for_later: true };
        let (mut all, mut bytes) = (Vec::new(), 0);
        self.find(streams, cut, reading, |_, found| {
            all.extend(found.into_iter().map(|mut row: Found| {
                bytes += row.payload.as_ref().map_or(0, Vec::len);
                row.payload = row.payload.filter(|_| bytes <= PAGE_BYTES);
                row
            }));
        })
        .await?;
        all.sort_unstable_by_key(|row| row.id);
        Ok(all)
    }

    /// The rows of the last messages of streams, newest first, handed on stream by stream. Of one of whom none is
    /// asked for nothing is said.
    async fn find(
        &self,
        streams: &[(Stream, usize)],
        cut: &Cut,
        reading: Reading,
        mut each: impl FnMut(usize, Vec<Found>) + Send,
    ) -> Result<(), Rejection> {
        let channels: Vec<Channel> = streams.iter().map(|(stream, _)| self.channel(stream)).collect();
        let wanted = streams.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        let walks: Vec<Walk> = wanted
            .map(|(of, (_, count))| Walk { of, high: cut.released.high, limit: *count, passed: 0, own: 0 })
            .collect();
        let mut rest = &walks[..];
        while !rest.is_empty() {
            let (walks, later) = rest.split_at(Walk::at_once(rest));
            rest = later;
            let mut pages = self.newest(&channels, walks, reading.statement_bytes()).await?;
            if reading.is_for_later {
                let of_one = walks.iter().zip(&mut pages).filter(|(walk, _)| streams[walk.of].1 == 1);
                self.judge(of_one.flat_map(|(_, page)| page)).await?;
            }
            for (walk, page) in walks.iter().zip(pages) {
                let found = self.follow(&channels, walk, page, streams[walk.of].1, cut, reading).await?;
                each(walk.of, found);
            }
        }
        Ok(())
    }

    /// Goes back through one stream until it has what is wanted; usually that is on the first page.
    async fn follow(
        &self,
        channels: &[Channel],
        first: &Walk,
        mut page: Vec<Found>,
        count: usize,
        cut: &Cut,
        reading: Reading,
    ) -> Result<Vec<Found>, Rejection> {
        let mut found = Vec::new();
        let mut walk = first.next(&page);
        let mut is_end = page.len() < first.limit;
        loop {
            // Rows of open gaps may be there, and are still to be released.
            page.retain(|row| row.own && cut.released.contains(row.id));
            let is_full = self.take_messages(page, count, reading, &mut found).await?;
            if is_end || is_full || walk.passed > count + MAX_STRANGERS {
                return Ok(found);
            }
            let pages = self.newest(channels, std::slice::from_ref(&walk), reading.statement_bytes()).await?;
            page = pages.into_iter().next().unwrap_or_default();
            if reading.is_for_later && count == 1 {
                self.judge(&mut page).await?;
            }
            is_end = page.len() < walk.limit;
            walk = walk.next(&page);
        }
    }

    /// Looks at payloads that haven't come with their rows, and keeps none. What is no message is nobody's then: where one
    /// is asked for it must not be the one.
    async fn judge<'a>(&self, rows: impl IntoIterator<Item = &'a mut Found>) -> Result<(), Rejection> {
        let mut rows: Vec<&mut Found> =
            rows.into_iter().filter(|row| row.own && row.payload.is_none()).collect();
        let mut rest = &mut rows[..];
        while !rest.is_empty() {
            let count = page_of(rest.iter().map(|row| row.size), PAGE_BYTES);
            let (page, later) = std::mem::take(&mut rest).split_at_mut(count);
            rest = later;
            let ids: Vec<i64> = page.iter().map(|row| row.id).collect();
            let payloads = self.payloads(&ids).await?;
            for row in page {
                row.own = payloads.get(&row.id).is_some_and(|payload| is_json(payload));
            }
        }
        Ok(())
    }

    /// Appends rows that are messages until there are `count`, or many bytes of them. Says whether it is so.
    async fn take_messages(
        &self,
        rows: Vec<Found>,
        count: usize,
        reading: Reading,
        found: &mut Vec<Found>,
    ) -> Result<bool, Rejection> {
        let mut bytes: usize = found.iter().map(|row| row.size).sum();
        // Or it is read when somebody takes it; of several, one that is no message leaves one fewer.
        let judges = !reading.is_for_later;
        let mut rows = VecDeque::from(rows);
        while !rows.is_empty() {
            if found.len() == count || bytes >= reading.most_bytes {
                return Ok(true);
            }
            let chunk_bytes = CHUNK_BYTES.min(reading.most_bytes - bytes);
            let chunk =
                if judges { page_of(rows.iter().map(|row| row.size), chunk_bytes) } else { rows.len() };
            let chunk: Vec<Found> = rows.drain(..chunk).collect();
            let absent = chunk.iter().filter(|row| judges && row.payload.is_none()).map(|row| row.id);
            let mut payloads = self.payloads(&absent.collect::<Vec<i64>>()).await?;
            for mut row in chunk {
                if found.len() == count || bytes >= reading.most_bytes {
                    return Ok(true);
                }
                row.payload = row.payload.or_else(|| payloads.remove(&row.id));
                let is_message = match &row.payload {
                    Some(payload) => is_json(payload),
                    // Trimmed meanwhile; or it is still to be read.
                    None => !judges,
                };
                if is_message {
                    bytes += row.size;
                    found.push(row);
                }
            }
        }
        Ok(found.len() == count || bytes >= reading.most_bytes)
    }
}

impl Walk {
    /// How many of these, the first, go into one statement.
    fn at_once(walks: &[Self]) -> usize {
        let mut rows = 0;
        let fits = |walk: &&Self| {
            rows += walk.limit;
            rows <= LISTED_ROWS
        };
        walks.iter().take(STREAMS).take_while(fits).count().max(1)
    }
}

/// Rows of one stream that were looked at, newest first, as messages of a client that gets them at once.
fn replay_at_once(stream: &Stream, mut found: Vec<Found>, cut: &Cut) -> Vec<Replayed> {
    found.reverse();
    let first = found.first().map_or(cut.released.high, |row| row.id - 1);
    let before = cut.released.up_to(first);
    let time = oldest(found.iter().map(|row| row.created), cut);
    let message = |row: Found| {
        let payload = String::from_utf8(row.payload?).ok()?.into_boxed_str();
        Some(replayed(stream.clone(), row.id, payload, &before, time, cut))
    };
    let mut all: Vec<Replayed> = found.into_iter().filter_map(message).collect();
    if let Some(last) = all.last_mut() {
        last.token = cut.token();
    }
    all
}
