//! Whether a table is the one that was followed, with all that was read of it.
//!
//! What names a table's life is a row in it ([`Mark`]), since nothing else is gone with TRUNCATE
//! and DROP, and stays with ALTER. The tail reads it in each look, in the look's own snapshot, and
//! never writes it: `migrate`, a server's start and its writer do, where it is missing.
//!
//! A copy of the table has the row too. So after each reconnect three things must hold: the row
//! names the same life; no id above the last one that was passed is yet to be given out again; and
//! the last rows that were seen are there. Replicas apply in the order of commits, so that
//! whoever has the last ones has all. On the same server only what was committed shortly before it
//! went away can be lost; older rows are not looked for there, since they may have been trimmed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Database;
use super::connect::{Session, bare, code, text};
use super::schema::timestamps;
use crate::bus::hash::life_name;

const SQL: &str = include_str!("../../../migrations/mysql/history.sql");

/// What the row says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// A random name for the table's life.
    pub history: String,
    /// Where that was last.
    pub server: String,
}

/// Which life of the table a reader has seen, and how much of it.
#[derive(Debug, Clone)]
pub struct History {
    /// None where the row was missing.
    pub life: Option<String>,
    server: String,
    /// No id up to here may be given out again.
    high: i64,
    /// The last rows that were seen, in the order of the looks.
    seen: VecDeque<Seen>,
    looked_at: Instant,
}

#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    row: Fingerprint,
}

/// What tells a row from another that got its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pub id: i64,
    pub created_at: String,
    pub channel_hash: String,
}

/// What a tail has found out about the server that it reads.
#[derive(Debug, Default)]
pub enum Continuity {
    #[default]
    Unknown,
    /// This server goes on with the history.
    Proved(String),
    /// The server doesn't go on with this history, which the row names all the same.
    Broken(String),
}

/// So many rows are remembered, and all of the last look.
const REMEMBERED: usize = 100;
/// What was committed earlier than this before a server went away is on its disk.
const SETTLED: Duration = Duration::from_secs(60);

impl History {
    pub fn new(life: Option<String>, server: String) -> Self {
        Self { life, server, high: 0, seen: VecDeque::new(), looked_at: Instant::now() }
    }

    /// The same for all who read this life of the table, on whichever server that is.
    pub fn name(&self) -> Option<u64> {
        self.life.as_ref().map(|life| life_name(&format!("mysql {life}")))
    }

    /// All up to here had been passed.
    pub fn passed(&mut self, high: i64) {
        self.high = self.high.max(high);
    }

    /// A look has shown these rows.
    pub fn saw(&mut self, rows: impl IntoIterator<Item = Fingerprint>, now: Instant) {
        self.looked_at = now;
        self.seen.extend(rows.into_iter().map(|row| Seen { at: now, row }));
        while self.seen.len() > REMEMBERED && self.seen.pop_front_if(|seen| seen.at < now).is_some() {}
    }

    /// Whether ids can go on where this was, if `next_id` is the next that is given out.
    pub fn allows(&self, next_id: u64) -> bool {
        u64::try_from(self.high).is_ok_and(|high| high < next_id || self.high == i64::MAX)
    }

    /// Rows that a table of the same life must have to be the one that was read. None: it
    /// can't be shown.
    pub fn evidence_for(&self, now: &Self) -> Option<Vec<Fingerprint>> {
        let is_moved = self.server != now.server;
        if is_moved && self.seen.is_empty() {
            return None;
        }
        let counts = |seen: &&Seen| is_moved || seen.at + SETTLED >= self.looked_at;
        Some(self.seen.iter().filter(counts).map(|seen| seen.row.clone()).collect())
    }

    /// Whether the row names the same life. One that was missing may have been put back.
    pub fn names_the_life_of(&self, before: &Self) -> bool {
        before.life.is_none() || self.life == before.life
    }

    /// Goes on with what was seen before.
    pub fn continue_with(&mut self, before: &Self) {
        self.high = before.high;
        self.seen.clone_from(&before.seen);
        self.looked_at = before.looked_at;
    }
}

impl Mark {
    /// A row of somebody else's making names a life too, by whatever is in it.
    pub fn parse(payload: &str) -> Self {
        serde_json::from_str(payload)
            .unwrap_or_else(|_| Self { history: payload.to_owned(), server: String::new() })
    }

    pub async fn read(session: &mut Session, table: &str) -> Result<Option<Self>, sqlx::Error> {
        Ok(payload(session, table).await?.map(|payload| Self::parse(&payload)))
    }

    fn new(server: String) -> Self {
        Self { history: format!("{:016x}", rand::random::<u64>()), server }
    }
}

async fn payload(session: &mut Session, table: &str) -> Result<Option<String>, sqlx::Error> {
    let row = session.row(format!("SELECT payload FROM `{table}` WHERE id = -1")).await?;
    row.map_or(Ok(None), |row| text(&row, 0))
}

/// Whether that is why the row can't be written. Those who miss it (servers that run, a migration) don't wait
/// for one another, and the first one's stays.
pub fn is_there(error: &sqlx::Error) -> bool {
    code(error) == Some(1062)
}

/// The statement that writes a row for a table without one.
pub fn script(table: &str, has_updated_at: bool, server: String) -> String {
    insert(table, has_updated_at, &Mark::new(server))
}

fn insert(table: &str, has_updated_at: bool, mark: &Mark) -> String {
    let never = "'9999-12-31 00:00:00'";
    bare(SQL)
        .replace("{{table}}", table)
        .replace("{{timestamps}}", timestamps(has_updated_at).0)
        .replace("{{never}}", &if has_updated_at { format!("{never}, {never}") } else { never.to_owned() })
        .replace("{{payload}}", &serde_json::to_string(mark).expect("it is JSON").replace('\'', "''"))
}

/// Sees to it that the row is there and names this server. `begins`: no tail of this process
/// has followed the table before, so that nothing can be shown of it.
pub async fn keep(
    session: &mut Session,
    database: &Database,
    has_updated_at: bool,
    begins: bool,
) -> Result<(), sqlx::Error> {
    let table = &database.0.table;
    let here = session.server.identity();
    let Some(before) = payload(session, table).await? else {
        let added = session.run(script(table, has_updated_at, here)).await;
        return added.or_else(|error| if is_there(&error) { Ok(()) } else { Err(error) });
    };
    let mark = Mark::parse(&before);
    let new = match &*database.0.continuity.lock() {
        Continuity::Broken(history) if *history == mark.history => Mark::new(here),
        _ if mark.server == here || mark.server.is_empty() => return Ok(()),
        Continuity::Proved(server) if *server == here => Mark { server: here, ..mark.clone() },
        _ if begins => Mark::new(here),
        _ => return Ok(()),
    };
    session.run("START TRANSACTION").await?;
    let replaced = async {
        // Of several servers one deletes it, and the others find it gone.
        let deleted =
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM `{table}` WHERE id = -1 AND payload = ?")))
                .bind(before.into_bytes())
                .execute(&mut session.connection)
                .await?;
        if deleted.rows_affected() == 1 {
            session.run(insert(table, has_updated_at, &new)).await?;
        }
        session.run("COMMIT").await
    };
    let replaced = replaced.await;
    if replaced.is_err() {
        session.roll_back().await;
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64) -> Fingerprint {
        Fingerprint { id, created_at: "2026-01-01 00:00:00.000000".into(), channel_hash: "7".into() }
    }

    fn history(server: &str) -> History {
        History::new(Some("life".into()), server.into())
    }

    fn evidence(before: &History, now: &History) -> Option<Vec<i64>> {
        Some(before.evidence_for(now)?.iter().map(|row| row.id).collect())
    }

    #[test]
    fn the_last_rows_are_remembered_and_all_of_the_last_look() {
        let (mut before, now) = (history("a"), Instant::now());
        before.saw([row(1)], now);
        before.saw((2..=150).map(row), now + Duration::from_secs(1));
        assert_eq!(before.seen.len(), 149);
    }

    #[test]
    fn another_server_must_have_them_all_and_the_same_one_the_youngest() {
        let (mut before, now) = (history("a"), Instant::now());
        assert_eq!(evidence(&before, &history("a")), Some(vec![]));
        assert_eq!(evidence(&before, &history("b")), None, "nothing was seen that it could show");

        before.saw([row(1)], now);
        before.saw([row(2)], now + SETTLED);
        before.saw([], now + SETTLED + Duration::from_secs(1));
        assert_eq!(evidence(&before, &history("a")), Some(vec![2]));
        assert_eq!(evidence(&before, &history("b")), Some(vec![1, 2]));
    }

    #[test]
    fn ids_go_on_above_what_was_passed() {
        let mut before = history("a");
        before.passed(7);
        assert!(before.allows(8) && !before.allows(7));
        before.passed(i64::MAX);
        assert!(before.allows(i64::MAX as u64), "there is no next one");
    }

    #[test]
    fn a_life_that_had_no_name_may_have_got_one() {
        let unnamed = History::new(None, "a".into());
        assert!(history("a").names_the_life_of(&unnamed));
        assert!(!unnamed.names_the_life_of(&history("a")), "the row is gone, and perhaps all others");
    }

    #[test]
    fn a_row_of_somebody_else_names_a_life_too() {
        assert_eq!(Mark::parse(r#"{"history":"h","server":"s"}"#).history, "h");
        assert_eq!(Mark::parse("anything").history, "anything");
    }
}
