use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, Row};
use tokio::time::timeout;

use super::Database;
use super::connect::Session;
use super::history::{History, Past, Rows, lsn};
use super::schema::{self, Table};
use crate::bus::channel_hash;
use crate::bus::clock::Clock;
use crate::bus::gaps::{Evidence, Facts, IdRange, MAX_STRAYS, Request, Snapshot, Start, Transaction};
use crate::bus::patience::in_time;
use crate::bus::row::{Content, PAGE_BYTES, PAGE_ROWS, Page, Row as MessageRow};

const TICK: &str = include_str!("../../../migrations/postgres/tick.sql");

/// The tail's connection: it only reads.
pub struct Reader {
    session: Session,
    tick: Arc<str>,
    table: Table,
    lead: String,
    max_payload_bytes: i32,
    wake_sequence: Option<String>,
    history: History,
    past: Past,
    clock: Clock,
}

/// For the pass over a table of hundreds of millions of rows.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// A generic plan is the right one for each look, and planning costs more than looking. It may be made while the table
/// is empty, when reading all of it would be the best, and has to serve one that has grown: so no other way is open to
/// it than along an index. And who locks the table for long is waited for by one connection, not by one more with each
/// retry: a server doesn't notice that the client of a statement that waits is gone.
const SETTINGS: [(&str, &str); 7] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
    ("lock_timeout", "4s"),
    // A role whose default is to read alone couldn't ask to be notified.
    ("default_transaction_read_only", "off"),
    ("quote_all_identifiers", "off"),
];

impl Reader {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(database, &SETTINGS).await?;
        in_time(async {
            session.begin_if_pooled().await?;
            let schema = schema::inspect(&mut session, database).await;
            let schema = schema.map_err(|error| sqlx::Error::Configuration(error.into()))?;
            let table = schema.table;
            let row = sqlx::query(History::SQL)
                .persistent(!session.pooled)
                .fetch_one(&mut session.connection)
                .await?;
            let clock = Clock::read(row.try_get(4)?);
            session.end_if_pooled().await?;
            let (history, past) = History::read(&row, table.oid, table.filenode)?;
            let tick = TICK
                .replace("{{sequence_oid}}", &table.sequence_oid.0.to_string())
                .replace("{{sequence}}", &table.sequence)
                .replace("{{table_oid}}", &table.oid.0.to_string())
                .replace("{{table}}", &table.name);
            Ok(Self {
                tick: tick.into(),
                table,
                wake_sequence: schema.wake_sequence,
                lead: database.0.lead.clone(),
                max_payload_bytes: i32::try_from(database.0.max_payload_bytes).unwrap_or(i32::MAX),
                history,
                past,
                clock,
                session,
            })
        })
        .await
    }

    pub fn evidence(&self) -> Evidence {
        Evidence::Locks
    }

    pub fn lists(&self, wanted: bool) -> bool {
        wanted
    }

    /// The end of the log, and all holes of the table, in one pass over its primary key. It takes
    /// some seconds where there are tens of millions of rows.
    pub async fn start(&mut self) -> Result<Start, sqlx::Error> {
        match timeout(START_PATIENCE, self.read_holes()).await {
            Ok(start) => start,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    async fn read_holes(&mut self) -> Result<Start, sqlx::Error> {
        let Table { name, sequence, .. } = &self.table;
        let sql = format!(
            "WITH q AS MATERIALIZED (
               SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS last_value FROM {sequence})
             SELECT 0, coalesce((SELECT max(t.id) FROM {name} AS t, q WHERE t.id <= q.last_value), 0), 0::int8
             UNION ALL
             SELECT 1, h.before + 1, h.id - 1 FROM (
               SELECT t.id, lag(t.id, 1, 0::int8) OVER (ORDER BY t.id) AS before FROM {name} AS t
               WHERE t.id > 0 AND t.id <= (SELECT q.last_value FROM q)) AS h
             WHERE h.id > h.before + 1
             UNION ALL
             SELECT 2, s.id, 0::int8 FROM (
               SELECT t.id FROM {name} AS t WHERE t.id > (SELECT q.last_value FROM q) ORDER BY t.id
               LIMIT {MAX_STRAYS}) AS s"
        );
        self.session.begin_if_pooled().await?;
        let mut start = Start::default();
        let mut rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut self.session.connection);
        while let Some(row) = rows.try_next().await? {
            let (first, last) = (row.try_get(1)?, row.try_get(2)?);
            match row.try_get::<i32, _>(0)? {
                0 => start.high = i64::max(first, 0),
                1 => start.holes.push(IdRange { first, last }),
                _ => start.strays.push(first),
            }
        }
        drop(rows);
        self.session.end_if_pooled().await?;
        start.holes.sort_unstable_by_key(|hole| hole.first);
        Ok(start)
    }

    pub async fn look(&mut self, request: &Request, lists: bool) -> Result<Option<Page>, sqlx::Error> {
        in_time(self.tick(request, lists)).await.map(Some)
    }

    async fn tick(&mut self, request: &Request, lists: bool) -> Result<Page, sqlx::Error> {
        self.session.begin_if_pooled().await?;
        let firsts: Vec<i64> = request.probes.iter().map(|range| range.first).collect();
        let lasts: Vec<i64> = request.probes.iter().map(|range| range.last).collect();
        let mut rows = sqlx::query(AssertSqlSafe(self.tick.clone()))
            .persistent(!self.session.pooled)
            .bind(request.above)
            .bind(firsts)
            .bind(lasts)
            .bind(&request.except)
            .bind(self.lead.as_bytes())
            .bind(self.max_payload_bytes)
            .bind(PAGE_ROWS as i32)
            .bind(PAGE_BYTES as i64)
            .bind(lists)
            .fetch(&mut self.session.connection);
        let mut page = Page::default();
        let mut bytes = 0;
        let (mut inserted_to, mut flushed_to) = (0, 0);
        let mut seen = Rows::default();
        while let Some(row) = rows.try_next().await? {
            let Some(id) = row.try_get::<Option<i64>, _>(0)? else {
                page.last_value = row.try_get(6)?;
                if row.try_get::<Option<Oid>, _>(7)? != Some(self.table.filenode) {
                    // Ids start anew, or may.
                    page.last_value = i64::MIN;
                }
                (inserted_to, flushed_to) = (lsn(row.try_get(8)?)?, lsn(row.try_get(9)?)?);
                page.facts = facts(&row)?;
                continue;
            };
            let size: Option<i32> = row.try_get(3)?;
            let content =
                Content::new(row.try_get(1)?, row.try_get(2)?, size.map(i64::from), row.try_get(11)?);
            if let Content::Own { payload, .. } = &content {
                bytes += payload.len();
            }
            seen.push(id, xid(row.try_get(4)?)?);
            page.rows.push(MessageRow { id, content });
        }
        drop(rows);
        self.session.end_if_pooled().await?;
        page.full = page.rows.len() == PAGE_ROWS || bytes >= PAGE_BYTES;
        self.history.saw(seen, inserted_to, flushed_to);
        Ok(page)
    }

    /// Asked of the table when a row comes late, so that no memory is needed for each stream. A
    /// newer row that appeared after the look counts too: it is released next.
    pub async fn superseded(&mut self, late: &[MessageRow], high: i64) -> Result<Vec<i64>, sqlx::Error> {
        let sql = format!(
            "SELECT l.id FROM unnest($1::int8[], $2::int8[], $3::bytea[]) AS l(id, hash, channel)
             WHERE EXISTS (
               SELECT FROM {} AS t WHERE (t.channel_hash, t.id) > (l.hash, l.id)
                 AND (t.channel_hash, t.id) <= (l.hash, $4) AND t.channel = l.channel)",
            self.table.name
        );
        let own = |row: &MessageRow| match &row.content {
            Content::Own { channel, .. } => Some((row.id, channel.clone())),
            _ => None,
        };
        let (ids, channels): (Vec<i64>, Vec<Vec<u8>>) = late.iter().filter_map(own).unzip();
        let hashes: Vec<i64> = channels.iter().map(|channel| channel_hash(channel)).collect();
        in_time(async {
            self.session.begin_if_pooled().await?;
            let superseded = sqlx::query_scalar(AssertSqlSafe(sql))
                .persistent(!self.session.pooled)
                .bind(ids)
                .bind(hashes)
                .bind(channels)
                .bind(high)
                .fetch_all(&mut self.session.connection)
                .await?;
            self.session.end_if_pooled().await?;
            Ok(superseded)
        })
        .await
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether this goes on with all that was read before.
    pub async fn follows(&mut self, before: &History) -> Result<bool, sqlx::Error> {
        in_time(self.proves_to_follow(before)).await
    }

    async fn proves_to_follow(&mut self, before: &History) -> Result<bool, sqlx::Error> {
        if !self.history.follows(&self.past, before) {
            return Ok(false);
        }
        self.session.begin_if_pooled().await?;
        let rows = before.unsettled();
        let sql = format!(
            "SELECT count(*) FROM unnest($1::int8[], $2::text[]) AS s(id, xid)
             JOIN {} AS t ON t.id = s.id AND t.xmin::text = s.xid",
            self.table.name
        );
        let there: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .persistent(false)
            .bind(&rows.ids)
            .bind(rows.xids.iter().map(u32::to_string).collect::<Vec<_>>())
            .fetch_one(&mut self.session.connection)
            .await?;
        self.session.end_if_pooled().await?;
        self.history.settled_to = before.settled_to;
        Ok(there == rows.ids.len() as i64)
    }

    /// Looking finds out.
    pub fn is_current(&self) -> bool {
        true
    }

    pub(super) fn wake_sequence(&self) -> Option<String> {
        self.wake_sequence.clone()
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}

/// As `xidsend` gives it. (Of the type itself sqlx would ask the database, by a statement that it prepares.)
fn xid(bytes: &[u8]) -> Result<u32, sqlx::Error> {
    let bytes = bytes.try_into().map_err(|_| sqlx::Error::Decode("an xid has four bytes".into()))?;
    Ok(u32::from_be_bytes(bytes))
}

/// What the moment's row says of transactions, if it lists them.
fn facts(row: &PgRow) -> Result<Option<Facts>, sqlx::Error> {
    let Some(holders) = row.try_get::<Option<Vec<String>>, _>(10)? else { return Ok(None) };
    let undecodable = |text: &str| sqlx::Error::Decode(format!("unknown form: {text:?}").into());
    let text: &str = row.try_get(5)?;
    let snapshot = FullSnapshot::parse(text).ok_or_else(|| undecodable(text))?;
    let mut running = Vec::with_capacity(holders.len());
    for holder in &holders {
        let mut words = holder.split(' ');
        let name = words.next().and_then(transaction).ok_or_else(|| undecodable(holder))?;
        let xids: Option<Vec<u32>> = words.map(|word| word.parse().ok()).collect();
        let xids = xids.ok_or_else(|| undecodable(holder))?;
        // Without an xid it has not written yet; with one it may still hold its lock after
        // the snapshot has seen it end. Subtransactions aren't in the snapshot; theirs would do
        // no harm, since the transaction's own is there as long as it runs.
        if xids.is_empty() || xids.iter().any(|xid| snapshot.is_running(*xid)) {
            running.push(name);
        }
    }
    Ok(Some(Facts { snapshot: Some(snapshot.bounds), running }))
}

/// `7/5521`, or `-1/733` where a prepared transaction outlived a restart.
fn transaction(text: &str) -> Option<Transaction> {
    let (backend, local) = text.split_once('/')?;
    let backend: i32 = backend.parse().ok()?;
    let local: u32 = local.parse().ok()?;
    Some(Transaction(u64::from(backend as u32) << 32 | u64::from(local)))
}

/// `xmin:xmax:xip,xip`, with 64-bit xids.
struct FullSnapshot {
    bounds: Snapshot,
    /// Ascending.
    in_progress: Vec<u64>,
}

impl FullSnapshot {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let bounds = Snapshot { xmin: parts.next()?.parse().ok()?, xmax: parts.next()?.parse().ok()? };
        let list = parts.next()?;
        let xids: Result<Vec<u64>, _> =
            list.split(',').filter(|xid| !xid.is_empty()).map(str::parse).collect();
        Some(Self { bounds, in_progress: xids.ok()? })
    }

    /// Whether a transaction with this xid, of which locks show the lower half, had not ended.
    fn is_running(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid >= self.bounds.xmax || self.in_progress.binary_search(&xid).is_ok()
    }

    /// The 64-bit xid that is nearest to the snapshot: xids that are in use at a time lie within 2³¹.
    fn widen(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(self.bounds.xmax as u32) as i32;
        self.bounds.xmax.wrapping_add_signed(i64::from(distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_who_had_ended() {
        let snapshot = FullSnapshot::parse("100:110:100,105").unwrap();
        let running: Vec<u32> = (98..113).filter(|xid| snapshot.is_running(*xid)).collect();
        assert_eq!(running, [100, 105, 110, 111, 112]);
        assert!(FullSnapshot::parse("3:3:").unwrap().in_progress.is_empty());
    }

    #[test]
    fn xids_are_told_apart_over_the_turn_of_their_lower_half() {
        let turn: u64 = 1 << 32;
        let snapshot = FullSnapshot::parse(&format!("{}:{}:{}", turn - 2, turn + 3, turn - 2)).unwrap();
        assert!(snapshot.is_running(u32::MAX - 1));
        assert!(!snapshot.is_running(u32::MAX));
        assert!(!snapshot.is_running(2));
        assert!(snapshot.is_running(3));
    }

    #[test]
    fn a_transaction_keeps_both_halves_of_its_name() {
        assert_eq!(transaction("7/5521"), Some(Transaction((7 << 32) | 5521)));
        assert_ne!(transaction("-1/733"), transaction("1/733"));
        assert_eq!(transaction("7"), None);
    }
}
