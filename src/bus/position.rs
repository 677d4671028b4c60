//! What a server has released at a moment, so that another one can go on from it exactly.
//!
//! # What it is
//!
//! A position is a set of ids: all up to `high`, but for the gaps. The number alone is none: 9 with
//! 5 still open and 9 after 5 has arrived are different moments with one number. What of the
//! rows of a stream is in a server's set and not in a client's, that client has missed.
//!
//! # Why a resume is exact
//!
//! A client that comes with P to a server first waits for a *barrier*: a look at the table that
//! was begun after it came, and was complete. All that any other server had released, and so all
//! that P can hold, had been committed before that, and is in the server's own set R. Then the
//! client gets R without P from the table, in the order of ids, and from then on what is
//! released after R. Without the barrier R may lack what P has, and the client would get it
//! twice.
//!
//! # What it leaves out
//!
//! Rows whose ids were drawn by a SELECT before their transaction locked the table, and rows far
//! above the sequence: a gap that can only be filled by such a row isn't in a position, and neither is
//! what lies above `high`. Who hops while such a row comes may miss it, or get it twice.
//!
//! # Its form
//!
//! One word of at most [`MAX_BYTES`], opaque to everybody else. It is a client's to send back and so
//! nothing is believed that could hurt: whatever it says, a client gets rows of a stream that it
//! may listen to.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Mark;
use super::gaps::{Gaps, IdRange};

/// A set of released ids, and of which history of a table they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which table, and which life of it.
    pub history: u64,
    /// All that had been written by then is in it, or will never be: nothing that it lacks is older, whenever
    /// it commits. By the database's clock: seconds since 1970, UTC.
    pub time: i64,
    pub ids: Ids,
}

/// All ids up to `high`, but for the gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    pub high: i64,
    /// Ascending, apart from one another, and none above `high`.
    pub gaps: Vec<IdRange>,
}

/// What a word that should be a position is instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position")]
pub struct NotAPosition;

/// A position as clients keep it, and give it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Opaque; ASCII letters, digits, `-` and `_`, at most [`MAX_BYTES`] of them.
    pub word: Box<str>,
    /// For protocols that want a number beside it, and for people: it grows as the table does. Below
    /// 2^53, so that no JSON reader damages it.
    pub offset: u64,
}

/// Which life of a table is followed, and how far its clock is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Era {
    /// None where the table has no name for it: then nobody can resume.
    pub history: Option<u64>,
    /// Lives that this one was seen to go on with, each with what was released when it did: what lies
    /// beyond may have been lost with them.
    pub before: Vec<(u64, Arc<Ids>)>,
    /// All that had been committed by then has been released, by the database's clock: seconds since 1970, UTC.
    pub time: i64,
    /// What is still open was written since so many seconds before. Its rows have the times at which they were
    /// written, and may be trimmed as soon as they commit.
    pub open_for: i64,
    /// The table broke with a life of the same name then, by its clock: what was given before is of that.
    pub broken_at: Option<i64>,
}

/// The longest word for a position. A position with more gaps than fit has none: who has
/// only that can't resume.
pub const MAX_BYTES: usize = 256;

/// Of more gaps there is certainly no word: each takes two bytes at least.
const MAX_GAPS: usize = MAX_BYTES * 3 / 4 / 2;

/// Of the form; another one would begin with another letter.
const FORM: char = 'a';

/// So many lives are remembered with which one goes on.
const LIVES_BEFORE: usize = 4;

/// The word where there is no position. It must be given to clients all the same: one that kept an
/// older word would get twice what has come since.
pub const NO_POSITION: &str = "none";

impl Position {
    /// The word for it; none if it has too many gaps.
    pub fn encode(&self) -> Option<String> {
        encode(self.history, self.time, &self.ids)
    }

    pub fn decode(word: &str) -> Result<Self, NotAPosition> {
        if word.len() > MAX_BYTES {
            return Err(NotAPosition);
        }
        let word = word.strip_prefix(FORM).ok_or(NotAPosition)?;
        let bytes = URL_SAFE_NO_PAD.decode(word).map_err(|_| NotAPosition)?;
        let (history, mut rest) = bytes.split_first_chunk().ok_or(NotAPosition)?;
        let (time, high) = (take(&mut rest)?, take(&mut rest)?);
        let mut gaps = Vec::new();
        let mut above = high;
        while !rest.is_empty() {
            let (distance, length) = (take(&mut rest)?, take(&mut rest)?);
            let last = above.checked_sub(distance).ok_or(NotAPosition)?;
            let first = last.checked_sub(length).ok_or(NotAPosition)?;
            let apart = gaps.is_empty() || distance > 1;
            if first < 1 || !apart {
                return Err(NotAPosition);
            }
            gaps.push(IdRange { first, last });
            above = first;
        }
        gaps.reverse();
        Ok(Self { history: u64::from_be_bytes(*history), time, ids: Ids { high, gaps } })
    }
}

fn encode(history: u64, time: i64, ids: &Ids) -> Option<String> {
    // Or each message would cost what is open, also where thousands of transactions are.
    if ids.gaps.len() > MAX_GAPS {
        return None;
    }
    let mut bytes = history.to_be_bytes().to_vec();
    put(&mut bytes, time.max(0) as u64);
    put(&mut bytes, ids.high.max(0) as u64);
    // From the top down, since open gaps are young: each by its distance and its length.
    let mut above = ids.high;
    for gap in ids.gaps.iter().rev() {
        put(&mut bytes, above.wrapping_sub(gap.last) as u64);
        put(&mut bytes, (gap.last - gap.first) as u64);
        above = gap.first;
    }
    let word = format!("{FORM}{}", URL_SAFE_NO_PAD.encode(&bytes));
    (word.len() <= MAX_BYTES).then_some(word)
}

impl Era {
    /// The life goes on, perhaps by another name: all that was released is in it.
    pub fn goes_on_as(&mut self, life: Option<u64>, released: impl FnOnce() -> Ids) {
        if life == self.history {
            return;
        }
        let was_broken = self.broken_at.take().is_some();
        if let (Some(name), Some(_), false) = (std::mem::replace(&mut self.history, life), life, was_broken) {
            self.before.push((name, Arc::new(released())));
            self.before.drain(..self.before.len().saturating_sub(LIVES_BEFORE));
        }
    }

    /// Another life has begun then, by its clock.
    pub fn ended(&self, life: Option<u64>, time: i64) -> Self {
        let had_its_name = life.is_some() && life == self.history;
        Self { history: life, broken_at: had_its_name.then_some(time), ..Self::default() }
    }

    /// A look that began at `time` was complete, and what was open then had been so for `open_for` seconds.
    pub fn date(self: &mut Arc<Self>, time: i64, open_for: i64) {
        // What this life gives is told by its time from what another of its name gave before.
        let time = self.broken_at.map_or(time, |at| time.max(at.saturating_add(1)));
        if (self.time, self.open_for) != (time, open_for) {
            let era = Arc::make_mut(self);
            (era.time, era.open_for) = (time, open_for);
        }
    }

    /// See [`Position::time`].
    pub fn written_by(&self) -> i64 {
        let time = self.time.saturating_sub(self.open_for);
        // What this life gives is told by its time from what another of its name gave before.
        self.broken_at.map_or(time, |at| time.max(at.saturating_add(1)))
    }
}

impl Token {
    pub fn new(era: &Era, ids: &Ids) -> Self {
        let word = era
            .history
            .and_then(|history| encode(history, era.written_by(), ids))
            .unwrap_or_else(|| NO_POSITION.to_owned());
        Self { word: word.into_boxed_str(), offset: ids.high.clamp(0, MAX_OFFSET) as u64 }
    }

    /// What a client has that lacks these, which are still to come. O(marks).
    pub fn lacking(&self, marks: &HashSet<Mark>) -> Self {
        let Some(lowest) = marks.iter().min() else { return self.clone() };
        if let Ok(Position { history, time, ids }) = Position::decode(&self.word)
            && lowest.0 <= ids.high
        {
            let mut lacking: Vec<i64> =
                marks.iter().map(|mark| mark.0).filter(|id| ids.contains(*id)).collect();
            lacking.sort_unstable();
            let ids = ids.lacking(&lacking);
            return Self::new(&Era { history: Some(history), time, ..Era::default() }, &ids);
        }
        self.clone()
    }
}

const MAX_OFFSET: i64 = (1 << 53) - 1;

impl Ids {
    /// What a tail has released, as positions say it: of a gap that waits for its age alone nothing will come.
    pub fn released(gaps: &Gaps) -> Self {
        Self { high: gaps.high(), gaps: gaps.unresolved().collect() }
    }

    /// What it has certainly released: of a gap nothing, although it may be given up soon.
    pub fn certainly_released(gaps: &Gaps) -> Self {
        Self { high: gaps.high(), gaps: gaps.open().collect() }
    }

    pub fn contains(&self, id: i64) -> bool {
        let next = self.gaps.partition_point(|gap| gap.last < id);
        id <= self.high && self.gaps.get(next).is_none_or(|gap| id < gap.first)
    }

    /// These without some of them, which ascend.
    pub fn lacking(&self, ids: &[i64]) -> Self {
        let mut gaps = self.gaps.clone();
        gaps.extend(ids.iter().map(|id| IdRange { first: *id, last: *id }));
        gaps.sort_by_key(|gap| gap.first);
        Self { high: self.high, gaps: joined(gaps) }
    }

    /// The ids that `released` has and this has not. Ascending.
    pub fn missed(&self, released: &Self) -> Vec<IdRange> {
        let mut wanted: Vec<IdRange> =
            self.gaps.iter().copied().filter(|gap| gap.first <= released.high).collect();
        for gap in &mut wanted {
            gap.last = gap.last.min(released.high);
        }
        if self.high < released.high {
            wanted.push(IdRange { first: self.high + 1, last: released.high });
        }
        without(wanted, &released.gaps)
    }

    /// Ranges that hold all of [`missed`](Self::missed), and little else: above our own end they are one. If that is more
    /// than `most`, those that lie nearest to one another are one as well, and hold what we have between them.
    pub fn probes(&self, released: &Self, most: usize) -> Vec<IdRange> {
        let mut probes = self.missed(released);
        let above = probes.partition_point(|range| range.first <= self.high);
        if let Some(last) = probes.last().map(|range| range.last)
            && above < probes.len()
        {
            probes.truncate(above + 1);
            probes[above].last = last;
        }
        while probes.len() > most.max(1) {
            let distance = |at: &usize| probes[*at].first - probes[*at - 1].last;
            let Some(nearest) = (1..probes.len()).min_by_key(distance) else { break };
            probes[nearest - 1].last = probes.remove(nearest).last;
        }
        probes
    }

    /// The ids that are in both.
    pub fn and(&self, other: &Self) -> Self {
        let mut gaps = [&self.gaps[..], &other.gaps[..]].concat();
        gaps.sort_unstable_by_key(|gap| gap.first);
        Self { high: i64::MAX, gaps: joined(gaps) }.up_to(self.high.min(other.high))
    }

    /// Those of these up to an id, of which all that is missing may still come.
    pub fn up_to(&self, id: i64) -> Self {
        let high = self.high.min(id);
        let mut gaps: Vec<IdRange> = self.gaps.iter().copied().filter(|gap| gap.first <= high).collect();
        if let Some(last) = gaps.last_mut() {
            last.last = last.last.min(high);
        }
        Self { high, gaps }
    }

    /// This, once all that was missed of `released` up to `id` has been replayed.
    pub fn replayed_to(&self, id: i64, released: &Self) -> Self {
        let mut gaps: Vec<IdRange> = Vec::new();
        // Up to the id only what both lack is still to come; between it and our own end what we lack.
        let mut lacking: Vec<IdRange> = self.gaps.clone();
        let high = self.high.max(id);
        if high > self.high {
            lacking.push(IdRange { first: self.high + 1, last: high });
        }
        for gap in lacking {
            if gap.first > id {
                gaps.push(gap);
                continue;
            }
            let below = IdRange { first: gap.first, last: gap.last.min(id) };
            gaps.extend(both(below, &released.gaps));
            if gap.last > id {
                gaps.push(IdRange { first: id + 1, last: gap.last });
            }
        }
        Self { gaps: joined(gaps), high }
    }
}

/// The positions within a batch, made only if they are asked for.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    before: Arc<Ids>,
    /// Ids in the order of their release; those from `late` on lie above `before.high`.
    ids: Arc<[i64]>,
    late: usize,
    /// What is above it doesn't count: it lies far above all others.
    high: i64,
}

impl Steps {
    pub fn new(before: Ids, ids: Vec<i64>, late: usize, high: i64) -> Self {
        Self { before: Arc::new(before), ids: ids.into(), late, high }
    }

    /// What was released, in that order.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// What has been released once the first `count` ids of the batch have. O(gaps + count).
    pub fn after(&self, count: usize) -> Ids {
        let mut walk = self.walk();
        walk.to(count);
        walk.released
    }

    pub fn walk(&self) -> Walk<'_> {
        Walk { steps: self, released: Ids::clone(&self.before), count: 0 }
    }
}

/// What has been released, step by step through a batch.
#[derive(Debug)]
pub struct Walk<'a> {
    steps: &'a Steps,
    released: Ids,
    count: usize,
}

impl Walk<'_> {
    /// On to where the first `count` ids have been released, which aren't fewer than the last time. O(gaps)
    /// for each late one, O(1) for each new one.
    pub fn to(&mut self, count: usize) -> &Ids {
        let Steps { ids, late, high, .. } = self.steps;
        for index in self.count..count {
            let id = ids[index];
            if index < *late {
                let gaps = std::mem::take(&mut self.released.gaps);
                self.released.gaps = without(gaps, &[IdRange { first: id, last: id }]);
            } else if id <= *high {
                if id > self.released.high + 1 {
                    self.released.gaps.push(IdRange { first: self.released.high + 1, last: id - 1 });
                }
                self.released.high = id;
            }
        }
        self.count = self.count.max(count);
        &self.released
    }
}

/// `wanted` less `taken`. All ascend and are apart.
fn without(wanted: Vec<IdRange>, taken: &[IdRange]) -> Vec<IdRange> {
    let mut rest = Vec::with_capacity(wanted.len());
    let mut from = 0;
    for mut range in wanted {
        from += taken[from..].partition_point(|gap| gap.last < range.first);
        for gap in &taken[from..] {
            if gap.first > range.last {
                break;
            }
            if gap.first > range.first {
                rest.push(IdRange { first: range.first, last: gap.first - 1 });
            }
            range.first = gap.last.saturating_add(1);
        }
        if range.first <= range.last {
            rest.push(range);
        }
    }
    rest
}

/// What of a range lies in one of these, which ascend.
fn both(range: IdRange, others: &[IdRange]) -> impl Iterator<Item = IdRange> {
    let from = others.partition_point(move |other| other.last < range.first);
    others[from..]
        .iter()
        .take_while(move |other| other.first <= range.last)
        .map(move |other| IdRange { first: other.first.max(range.first), last: other.last.min(range.last) })
}

/// Makes one of two that touch, or have ids in common. By their first ids they ascend.
pub(super) fn joined(ranges: Vec<IdRange>) -> Vec<IdRange> {
    let mut all: Vec<IdRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match all.last_mut() {
            Some(before) if before.last.saturating_add(1) >= range.first => {
                before.last = before.last.max(range.last);
            }
            _ => all.push(range),
        }
    }
    all
}

/// Seven bits at a time, the lowest first.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Only as [`put`] writes it, so that a position has one word.
fn take(bytes: &mut &[u8]) -> Result<i64, NotAPosition> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(NotAPosition)?;
        *bytes = rest;
        value |= i64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return if *first == 0 && shift > 0 { Err(NotAPosition) } else { Ok(value) };
        }
    }
    Err(NotAPosition)
}

#[cfg(test)]
mod tests;
