use std::sync::atomic::Ordering;
use std::time::Duration;

use data_encoding::HEXLOWER;
use sqlx::mysql::MySqlRow;
use tokio::time::Instant;

use super::Database;
use super::connect::{Purpose, Session, bare, bytes, number, text};
use super::history::{Continuity, Fingerprint, History, Mark};
use super::holes::{LIST_INTERVAL, LISTS, Sieve, Writing};
use super::list::Lists;
use super::locks::Locks;
use super::schema;
use crate::bus::channel_hash;
use crate::bus::clock::Clock;
use crate::bus::gaps::{Evidence, FREE_RANGES, Facts, IdRange, MAX_STRAYS, Request, Start, Transaction};
use crate::bus::patience::in_time;
use crate::bus::row::{Content, PAGE_BYTES, PAGE_ROWS, Page, Row as MessageRow};

const TICK: &str = include_str!("../../../migrations/mysql/tick.sql");
const ARM: &str = include_str!("../../../migrations/mysql/arm.sql");
const LIST: &str = include_str!("../../../migrations/mysql/list.sql");
const HOLES: &str = include_str!("../../../migrations/mysql/holes.sql");

const CLOCK: &str = "SELECT TIMESTAMPDIFF(SECOND, '1970-01-01', UTC_TIMESTAMP())";

/// So many ranges to an arm of the look's statement: MySQL's range_optimizer_max_mem_size makes a
/// scan of about 36,000.
const RANGES: usize = 5000;
/// Until it is known what rows hold. InnoDB reads all of a payload to tell its length, so that a page
/// costs what its rows hold, whatever of it is delivered: it is asked for no more rows than come.
pub const FIRST_PAGE_ROWS: usize = 64;
/// Of the pages that the start reads, which grow and shrink so that each takes a part of a second,
/// however large rows are and wherever they come from.
const FIRST_START_ROWS: usize = 10_000;
const START_ROWS: std::ops::RangeInclusive<usize> = 1000..=100_000;
const START_PAGE_TIME: std::ops::Range<Duration> = Duration::from_millis(250)..Duration::from_secs(1);
/// How often to ask which id comes next.
const COUNTER_INTERVAL: Duration = Duration::from_secs(1);

/// The tail's connection: it only reads.
pub struct Reader {
    session: Session,
    database: Database,
    statements: Statements,
    history: History,
    clock: Clock,
    /// None without the PROCESS privilege.
    lists: Option<Lists>,
    /// The look under way lists transactions.
    listing: bool,
    counter_read_at: Instant,
}

/// A transaction that has written.
struct Open {
    transaction: Transaction,
    /// It is within a statement, which may have drawn ids and not yet have written their rows.
    writes: bool,
}

/// What is sent, filled in but for what differs from look to look.
struct Statements {
    tick: String,
    arm: String,
    list: String,
    next_id: String,
}

impl Reader {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(&database.0.options, Purpose::Tail).await?;
        in_time(async {
            let schema = schema::inspect(&mut session, database).await?;
            let mark = Mark::read(&mut session, &database.0.table).await?;
            let history = History::new(mark.map(|mark| mark.history), session.server.identity());
            let row = session.row(CLOCK).await?.ok_or(sqlx::Error::RowNotFound)?;
            let clock = Clock::read(required(&row, 0)?);
            let now = Instant::now();
            Ok(Self {
                statements: Statements::new(database),
                database: database.clone(),
                history,
                clock,
                lists: schema.lists.then(|| Lists::new(now)),
                listing: false,
                counter_read_at: now,
                session,
            })
        })
        .await
    }

    pub fn evidence(&self) -> Evidence {
        if self.lists.is_some() { Evidence::OpenTransactions } else { Evidence::Age }
    }

    /// Says yes only where a list can be expected to be new: a look that counts on one asks for
    /// less, and is made anew if it comes without.
    pub fn lists(&mut self, wanted: bool) -> bool {
        let Some(lists) = &mut self.lists else { return false };
        self.listing = lists.is_due(wanted, Instant::now());
        self.listing && lists.are_new()
    }

    /// The end of the log, and the holes of the table that may yet be filled, in pages of one
    /// snapshot. A million rows take half a second.
    pub async fn start(&mut self) -> Result<Start, sqlx::Error> {
        let table = self.database.0.table.clone();
        in_time(self.session.run(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        ))
        .await?;
        let mark = in_time(Mark::read(&mut self.session, &table)).await?;
        self.history.life = mark.map(|mark| mark.history);
        // Read after the snapshot: what lies above has not been drawn, but written there by hand.
        let next =
            in_time(self.next_id()).await?.and_then(|next| i64::try_from(next).ok()).unwrap_or(i64::MAX);
        let mut start = Start::default();
        let mut page_rows = FIRST_START_ROWS;
        let mut sieve: Option<(Sieve, Locks)> = None;
        loop {
            let page = bare(HOLES)
                .replace("{{table}}", &table)
                .replace("{{from}}", &start.high.to_string())
                .replace("{{next}}", &next.to_string())
                .replace("{{rows}}", &page_rows.to_string());
            let began = Instant::now();
            let rows = in_time(self.session.rows(page)).await?;
            page_rows = next_start_rows(page_rows, began.elapsed());
            let Some(last) = rows.last() else { break };
            for row in &rows {
                let (before, id) = (required::<i64>(row, 0)?, required::<i64>(row, 1)?);
                if id > before + 1 {
                    start.holes.push(IdRange { first: before + 1, last: id - 1 });
                }
            }
            start.high = required(last, 1)?;
            // The few that each look can ask for need no list.
            if sieve.is_none() && start.holes.len() > FREE_RANGES {
                let all_have_written = self.all_have_written().await?;
                sieve = Some((Sieve::new(all_have_written), Locks::open(&self.database).await?));
            }
            if let Some((sieve, locks)) = &mut sieve {
                sieve.take_in(std::mem::take(&mut start.holes));
                while let Some(holes) = sieve.asks() {
                    let answer = locks.ask(holes).await?;
                    sieve.answered(answer);
                }
            }
        }
        let strays = format!("SELECT id FROM `{table}` WHERE id >= {next} ORDER BY id LIMIT {MAX_STRAYS}");
        for row in in_time(self.session.rows(strays)).await? {
            start.strays.push(required(&row, 0)?);
        }
        in_time(self.session.run("COMMIT")).await?;
        if let Some((sieve, locks)) = sieve {
            locks.close().await;
            sieve.finish(&mut start);
        }
        self.history.passed(start.high);
        Ok(start)
    }

    /// Waits a while until all have written, or taken back, the rows whose ids they drew before this
    /// call. Says whether that can be shown.
    async fn all_have_written(&mut self) -> Result<bool, sqlx::Error> {
        if self.lists.is_none() {
            return Ok(false);
        }
        let mut writing = Writing::default();
        for _ in 0..LISTS {
            tokio::time::sleep(LIST_INTERVAL).await;
            let Some(open) = in_time(self.list()).await? else { continue };
            let now = open.into_iter().filter(|open| open.writes).map(|open| open.transaction);
            if writing.ended(now.collect()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub async fn look(&mut self, request: &Request, _lists: bool) -> Result<Option<Page>, sqlx::Error> {
        // A second look asks for nothing above.
        if request.above < i64::MAX {
            self.history.passed(request.above);
        }
        let mut page = match in_time(self.tick(request)).await {
            Ok(page) => page,
            Err(error) => {
                // It may have taken too long for what its rows hold.
                let rows = &self.database.0.page_rows;
                rows.store((rows.load(Ordering::Relaxed) / 4).max(1), Ordering::Relaxed);
                return Err(error);
            }
        };
        if self.counter_read_at.elapsed() >= COUNTER_INTERVAL {
            self.counter_read_at = Instant::now();
            if in_time(self.next_id()).await?.is_some_and(|next| !self.history.allows(next)) {
                // Ids come again.
                page.last_value = i64::MIN;
            }
        }
        if std::mem::take(&mut self.listing) {
            let open = in_time(self.list()).await?;
            let running = |open: Vec<Open>| open.into_iter().map(|open| open.transaction).collect();
            page.facts = open.map(|open| Facts { snapshot: None, running: running(open) });
        }
        Ok(Some(page))
    }

    async fn tick(&mut self, request: &Request) -> Result<Page, sqlx::Error> {
        let asked = self.database.0.page_rows.load(Ordering::Relaxed);
        let mut rows = self.session.rows(self.statements.tick(request, asked)).await?;
        let mut page = Page { last_value: i64::MAX, ..Page::default() };
        let mut life = None;
        let mut bytes_read = 0;
        let mut seen = Vec::with_capacity(rows.len());
        // Not all of a page at a time twice: what was taken in is let go.
        while let Some(row) = rows.pop() {
            let id = required(&row, 0)?;
            if id == -1 {
                life = text(&row, 2)?.map(|payload| Mark::parse(&payload).history);
                continue;
            }
            let hash = number(&row, 5)?;
            let content = Content::new(bytes(&row, 1)?, bytes(&row, 2)?, number(&row, 3)?, hash);
            if let Content::Own { payload, .. } = &content {
                bytes_read += payload.len();
            }
            let (created_at, channel_hash) = (text(&row, 4)?, text(&row, 5)?);
            seen.push(Fingerprint {
                id,
                created_at: created_at.unwrap_or_default(),
                channel_hash: channel_hash.unwrap_or_default(),
            });
            page.rows.push(MessageRow { id, content });
        }
        page.rows.sort_unstable_by_key(|row| row.id);
        page.full = page.rows.len() == asked || bytes_read >= PAGE_BYTES;
        let next = match page.rows.len() {
            read if bytes_read >= PAGE_BYTES => read,
            read if read == asked => asked * 2,
            _ => asked.max(FIRST_PAGE_ROWS),
        };
        self.database.0.page_rows.store(next.clamp(1, PAGE_ROWS), Ordering::Relaxed);
        if life != self.history.life {
            if self.history.life.is_some() {
                page.last_value = i64::MIN;
                return Ok(page);
            }
            // It was missing, and somebody has put it back.
            self.history.life = life;
        }
        self.history.saw(seen, Instant::now());
        Ok(page)
    }

    /// Who has a transaction open that has written. None if the list is an old one.
    async fn list(&mut self) -> Result<Option<Vec<Open>>, sqlx::Error> {
        let nonce = format!("{:016x}", rand::random::<u64>());
        let rows = self.session.rows(self.statements.list.replace("{{nonce}}", &nonce)).await?;
        let mut is_new = false;
        let mut open = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: u64 = required(row, 0)?;
            is_new |= number(row, 1)? == Some(1);
            if (1..1 << 48).contains(&name) {
                open.push(Open { transaction: Transaction(name), writes: number(row, 2)? == Some(1) });
            }
        }
        if let Some(lists) = &mut self.lists {
            lists.was_read(is_new, Instant::now());
        }
        Ok(is_new.then_some(open))
    }

    /// The next id that the table gives out, if it says so.
    async fn next_id(&mut self) -> Result<Option<u64>, sqlx::Error> {
        let row = self.session.row(self.statements.next_id.clone()).await?;
        row.map_or(Ok(None), |row| number(&row, 0))
    }

    /// Asked of the table when a row comes late, so that no memory is needed for each stream. A
    /// newer row that appeared after the look counts too: it is released next.
    pub async fn superseded(&mut self, late: &[MessageRow], high: i64) -> Result<Vec<i64>, sqlx::Error> {
        let mut superseded = Vec::new();
        for row in late {
            let Content::Own { channel, .. } = &row.content else { continue };
            let sql = format!(
                "SELECT 1 FROM `{}` WHERE channel_hash = {} AND channel = x'{}' AND id > {} AND id <= {high} LIMIT 1",
                self.database.0.table,
                channel_hash(channel),
                HEXLOWER.encode(channel),
                row.id
            );
            if in_time(self.session.row(sql)).await?.is_some() {
                superseded.push(row.id);
            }
        }
        Ok(superseded)
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether this goes on with all that was read before.
    pub async fn follows(&mut self, before: &History) -> Result<bool, sqlx::Error> {
        let is_same_life = self.history.names_the_life_of(before);
        let follows = is_same_life && in_time(self.has_all_of(before)).await?;
        *self.database.0.continuity.lock() = match &self.history.life {
            _ if follows => Continuity::Proved(self.session.server.identity()),
            Some(life) if is_same_life => Continuity::Broken(life.clone()),
            _ => Continuity::Unknown,
        };
        if follows {
            self.history.continue_with(before);
        }
        Ok(follows)
    }

    async fn has_all_of(&mut self, before: &History) -> Result<bool, sqlx::Error> {
        if self.next_id().await?.is_some_and(|next| !before.allows(next)) {
            return Ok(false);
        }
        let Some(wanted) = before.evidence_for(&self.history) else { return Ok(false) };
        if wanted.is_empty() {
            return Ok(true);
        }
        let ids: Vec<String> = wanted.iter().map(|row| row.id.to_string()).collect();
        let table = &self.database.0.table;
        let sql =
            format!("SELECT id, created_at, channel_hash FROM `{table}` WHERE id IN ({})", ids.join(", "));
        let mut there = Vec::with_capacity(wanted.len());
        for row in self.session.rows(sql).await? {
            let (created_at, channel_hash) = (text(&row, 1)?, text(&row, 2)?);
            there.push(Fingerprint {
                id: required(&row, 0)?,
                created_at: created_at.unwrap_or_default(),
                channel_hash: channel_hash.unwrap_or_default(),
            });
        }
        Ok(wanted.iter().all(|row| there.contains(row)))
    }

    /// Looking finds out.
    pub fn is_current(&self) -> bool {
        true
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}

impl Statements {
    fn new(database: &Database) -> Self {
        let database = &database.0;
        let lead = HEXLOWER.encode(database.lead.as_bytes());
        let fill = |sql: &str| {
            bare(sql)
                .replace("{{table}}", &database.table)
                .replace("{{lead}}", &format!("x'{lead}'"))
                .replace("{{lead_length}}", &database.lead.len().to_string())
                .replace("{{max_payload}}", &database.max_payload_bytes.to_string())
                .replace("{{budget}}", &PAGE_BYTES.to_string())
        };
        Self {
            tick: fill(TICK),
            arm: fill(ARM),
            list: fill(LIST),
            next_id: format!(
                "SELECT auto_increment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{}'",
                database.table
            ),
        }
    }

    fn tick(&self, request: &Request, rows: usize) -> String {
        let arm = |condition: String| self.arm.replace("{{where}}", &condition);
        let mut arms: Vec<String> = request.probes.chunks(RANGES).map(|ranges| arm(within(ranges))).collect();
        let mut above = format!("m.id > {}", request.above);
        if !request.except.is_empty() {
            let except: Vec<String> = request.except.iter().map(i64::to_string).collect();
            above += &format!(" AND m.id NOT IN ({})", except.join(", "));
        }
        arms.push(arm(above));
        let ids = if arms.len() == 1 {
            arms.remove(0)
        } else {
            format!("({}) ORDER BY id LIMIT {{{{page}}}}", arms.join(") UNION ALL ("))
        };
        self.tick.replace("{{ids}}", &ids).replace("{{page}}", &rows.to_string())
    }
}

/// The condition that an id lies in one of these ranges.
pub fn within(ranges: &[IdRange]) -> String {
    let single = |range: &&IdRange| range.first == range.last;
    let singles: Vec<String> = ranges.iter().filter(single).map(|range| range.first.to_string()).collect();
    let mut conditions = Vec::new();
    if !singles.is_empty() {
        conditions.push(format!("m.id IN ({})", singles.join(", ")));
    }
    for range in ranges.iter().filter(|range| range.first != range.last) {
        conditions.push(format!("m.id BETWEEN {} AND {}", range.first, range.last));
    }
    conditions.join(" OR ")
}

/// How many rows the start's next page has, after one that took so long.
fn next_start_rows(rows: usize, time: Duration) -> usize {
    let next = if time < START_PAGE_TIME.start {
        rows * 2
    } else if time >= START_PAGE_TIME.end {
        rows / 4
    } else {
        rows
    };
    next.clamp(*START_ROWS.start(), *START_ROWS.end())
}

pub fn required<T: std::str::FromStr>(row: &MySqlRow, column: usize) -> Result<T, sqlx::Error> {
    number(row, column)?.ok_or_else(|| sqlx::Error::Decode("a number is missing".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_start_follow_the_time_that_one_takes() {
        let next = |rows, millis| next_start_rows(rows, Duration::from_millis(millis));
        assert_eq!(next(10_000, 20), 20_000);
        assert_eq!(next(10_000, 500), 10_000);
        assert_eq!(next(10_000, 1500), 2500);
        assert_eq!((next(100_000, 20), next(1000, 4000)), (100_000, 1000));
    }

    #[test]
    fn ranges_are_asked_for_as_the_key_is_read() {
        let range = |first, last| IdRange { first, last };
        assert_eq!(
            within(&[range(5, 5), range(7, 9), range(12, 12)]),
            "m.id IN (5, 12) OR m.id BETWEEN 7 AND 9"
        );
        assert_eq!(within(&[range(1, 2)]), "m.id BETWEEN 1 AND 2");
    }
}
