use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;
use super::scene::Scene;
use super::stage::{FIRST_DATE, Moment};
use super::writers::Writers;
use crate::bus::gaps::{Evidence, IdRange, Request, Snapshot, Start};
use crate::bus::mysql::holes::Answer;
use crate::bus::position::Position;

/// A table, its sequence and its transaction ids.
pub struct Database {
    scene: Scene,
    /// All that were ever written. Two of different histories may have one id.
    pub rows: Vec<Row>,
    /// What a new snapshot shows, by id.
    pub table: BTreeMap<i64, usize>,
    /// Another one begins where rows are lost.
    pub history: u64,
    /// No connection outlives one.
    pub restarts: u64,
    pub starts: Vec<Started>,
    last_value: i64,
    /// The sequence never goes back below it: a transaction that drew it has committed.
    logged_to: i64,
    commits: Vec<Commit>,
    next_xid: u64,
    newest_ended_xid: u64,
    xids: BTreeSet<u64>,
}

#[derive(Default)]
pub struct Row {
    pub id: i64,
    /// None: another prefix's, or one whose positions promise nothing.
    pub stream: Option<usize>,
    /// Its transaction locked the table before it drew the id, so its order is promised.
    pub orderly: bool,
    pub transaction: u64,
    pub drawn: Moment,
    /// By its writer's clock: seconds since 1970, as all dates.
    pub created: i64,
    /// Of its payload, as it says.
    pub size: usize,
    pub committed: Option<Moment>,
    pub committed_on: i64,
    pub trimmed: Option<Trimmed>,
    /// It was committed once, and a promoted replica never had it.
    pub lost: bool,
}

/// That a server started: when it took its snapshot, the highest id in it, and when it began to look.
pub struct Started {
    pub from: i64,
    pub high: i64,
    pub to: i64,
}

#[derive(Clone, Copy)]
pub struct Trimmed {
    /// Its transaction was open for long before anybody could know of it, since no row with a higher id was
    /// there: positions may say that whoever has them lacks nothing as old.
    pub was_hidden: bool,
}

struct Commit {
    rows: Vec<usize>,
    last_value: i64,
}

/// What one snapshot shows.
pub struct View {
    pub found: Vec<i64>,
    pub new: Vec<i64>,
    /// Of both.
    pub rows: Vec<usize>,
    pub full: bool,
    pub snapshot: Snapshot,
    in_progress: Vec<u64>,
}

pub const STREAMS: u64 = 3;
/// With every second one missing, a position has too many gaps for a word.
const OLD_IDS: i64 = 250;
/// A position covers a transaction from when the next row shows that there is one.
const HIDDEN_FOR: i64 = 20;
/// Above what comes with a row that is listed.
const LARGE: usize = 20_000;

impl Database {
    pub fn new(scene: Scene, random: &mut Random) -> Self {
        let mut database = Self {
            scene,
            rows: Vec::new(),
            table: BTreeMap::new(),
            history: 1,
            restarts: 0,
            starts: Vec::new(),
            last_value: 0,
            logged_to: 0,
            commits: Vec::new(),
            next_xid: 1000,
            newest_ended_xid: 999,
            xids: BTreeSet::new(),
        };
        if random.one_in(4) {
            database.age();
        }
        database
    }

    /// Rows from before all servers, of which a part was rolled back or trimmed.
    fn age(&mut self) {
        for id in (1..=OLD_IDS).step_by(2) {
            let stream = Some(id as usize % STREAMS as usize);
            let created = FIRST_DATE - 2 * (OLD_IDS - id);
            self.insert(Row { id, stream, orderly: true, created, ..Row::default() });
        }
        self.last_value = OLD_IDS;
        self.commit(&Vec::from_iter(0..self.rows.len()), 0, FIRST_DATE);
    }
}

/// For writers.
impl Database {
    /// Ids for one session, the next last.
    pub fn draw(&mut self) -> Vec<i64> {
        let first = self.last_value + 1;
        self.last_value += self.scene.cache;
        (first..=self.last_value).rev().collect()
    }

    pub fn begin_xid(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.xids.insert(xid);
        xid
    }

    pub fn end_xid(&mut self, xid: u64) {
        self.xids.remove(&xid);
        self.newest_ended_xid = self.newest_ended_xid.max(xid);
    }

    pub fn insert(&mut self, row: Row) -> usize {
        let size = if self.rows.len().is_multiple_of(4) { LARGE } else { 1 };
        self.rows.push(Row { size, ..row });
        self.rows.len() - 1
    }

    pub fn commit(&mut self, rows: &[usize], moment: Moment, date: i64) {
        for &row in rows {
            self.rows[row].committed = Some(moment);
            self.rows[row].committed_on = date;
            self.table.insert(self.rows[row].id, row);
        }
        self.log(rows);
        self.commits.push(Commit { rows: rows.to_vec(), last_value: self.last_value });
    }

    /// No crash takes back that these ids were drawn.
    pub fn log(&mut self, rows: &[usize]) {
        let ids = rows.iter().map(|row| self.rows[*row].id).filter(|id| *id <= self.last_value);
        self.logged_to = ids.max().unwrap_or(0).max(self.logged_to);
    }

    pub fn roll_back(&mut self) {
        if self.scene.evidence == Evidence::Order {
            self.last_value = self.logged_to;
        }
    }
}

/// What befalls it.
impl Database {
    /// Ids that nobody committed may be drawn again.
    pub fn restart(&mut self, random: &mut Random) {
        self.restarts += 1;
        self.last_value = self.logged_to;
        if self.scene.evidence != Evidence::Order {
            self.last_value += random.below(33) as i64;
        }
    }

    /// A replica is promoted that lacks the last commits. Their ids are drawn again.
    pub fn lose(&mut self, commits: usize) {
        let kept = self.commits.len().saturating_sub(commits);
        for row in self.commits.drain(kept..).flat_map(|commit| commit.rows) {
            self.rows[row].lost = true;
            self.table.remove(&self.rows[row].id);
        }
        self.logged_to = self.commits.last().map_or(0, |commit| commit.last_value);
        self.history += 1;
    }

    pub fn trim(&mut self, row: usize) {
        let was_hidden = self.was_hidden(row);
        self.rows[row].trimmed = Some(Trimmed { was_hidden });
        self.table.remove(&self.rows[row].id);
    }

    /// Whether a server started while its transaction was open, which counts from then: the positions that it
    /// gave may say the same.
    pub fn was_hidden_at_start(&self, row: usize, position: &Position) -> bool {
        let Row { id, created, committed_on, .. } = self.rows[row];
        self.starts.iter().any(|Started { from, high, to }| {
            id < *high && to - created > HIDDEN_FOR && *from <= committed_on && position.time >= *from
        })
    }

    fn was_hidden(&self, row: usize) -> bool {
        let Row { id, created, .. } = self.rows[row];
        let later = self
            .rows
            .iter()
            .filter(|row| row.committed.is_some() && row.id > id && row.id <= self.last_value);
        later.map(|row| row.committed_on).min().is_none_or(|shown| shown - created > HIDDEN_FOR)
    }
}

/// For servers.
impl Database {
    pub fn start(&self) -> Start {
        if self.scene.evidence == Evidence::Order {
            return Start { high: self.logged_to, ..Start::default() };
        }
        let mut start = Start::default();
        for &id in self.table.keys() {
            if id > self.last_value {
                start.strays.push(id);
                continue;
            }
            if id > start.high + 1 {
                start.holes.push(IdRange { first: start.high + 1, last: id - 1 });
            }
            start.high = id;
        }
        start
    }

    /// As InnoDB answers who asks about holes.
    pub fn answer(&self, holes: &[IdRange], writers: &Writers) -> Answer {
        if writers.hold(holes, self) {
            return Answer::Locked;
        }
        Answer::Rows(self.in_ranges(holes).map(|row| self.rows[row].id).collect())
    }

    /// One look, of up to `page` rows.
    pub fn view(&self, request: &Request, page: usize) -> View {
        let probed = request.probes.iter().flat_map(|range| self.table.range(range.first..=range.last));
        let (found, mut rows): (Vec<i64>, Vec<usize>) = probed.take(page).unzip();
        let above = self.table.range(request.above + 1..);
        let wanted = above.filter(|(id, _)| request.except.binary_search(id).is_err());
        let (new, more): (Vec<i64>, Vec<usize>) = wanted.take(page - rows.len()).unzip();
        rows.extend(more);
        let xmax = self.newest_ended_xid + 1;
        let xmin = self.xids.first().map_or(xmax, |xid| xmax.min(*xid));
        View {
            full: rows.len() == page,
            found,
            new,
            rows,
            snapshot: Snapshot { xmin, xmax },
            in_progress: self.xids.iter().copied().collect(),
        }
    }

    /// What a tail is told with each look. An explicit id moves the counter of the others along.
    pub fn last_value(&self) -> i64 {
        if self.scene.evidence == Evidence::Locks { self.last_value } else { i64::MAX }
    }

    /// Whether the table has a newer row of its stream, up to `high`.
    pub fn supersedes(&self, row: usize, high: i64) -> bool {
        let Row { id, stream, .. } = self.rows[row];
        let newer = if id < high { self.table.range(id + 1..=high) } else { self.table.range(0..0) };
        newer.into_iter().any(|(_, newer)| self.rows[*newer].stream == stream)
    }

    pub fn in_ranges(&self, ranges: &[IdRange]) -> impl DoubleEndedIterator<Item = usize> {
        let ranges = ranges.iter().filter(|range| range.first <= range.last);
        ranges.flat_map(|range| self.table.range(range.first..=range.last)).map(|(_, row)| *row)
    }

    pub fn latest(&self, stream: usize) -> Option<usize> {
        let mut newest_first = self.table.values().rev().copied();
        newest_first.find(|row| self.rows[*row].stream == Some(stream))
    }
}

impl View {
    pub fn shows_ended(&self, xid: u64) -> bool {
        xid < self.snapshot.xmax && self.in_progress.binary_search(&xid).is_err()
    }
}
