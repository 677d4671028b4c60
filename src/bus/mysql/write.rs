//! The one connection that this process writes by.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};
use tokio::time::Instant;

use super::Database;
use super::connect::{Purpose, Session, code, literal, number, text};
use super::error::{LACKS_RIGHTS, Refusal};
use super::schema::{self, timestamps};
use super::server::PACKET_OVERHEAD;
use super::{history, schema::Schema};
use crate::bus::group::{self, Answered, NewRow, Transaction};
use crate::bus::patience::in_time;
use crate::bus::position::Ids;
use crate::bus::request::{IdempotencyKey, Outcome, Request};

use crate::stream::{MAX_CHANNEL_BYTES, Prefix};

pub struct Writer {
    session: Session,
    database: Database,
    schema: Schema,
    /// In a statement, which is one packet.
    max_bytes: usize,
    increment: i64,
    used: Instant,
    /// Where the next trim goes on, by time and id: what lies before it is another's.
    trimmed_to: (String, i64),
}

const REST: Duration = Duration::from_millis(500);
/// Rows to an INSERT. There is a prepared statement for each power of two up to this.
const MAX_ROWS: usize = 128;
/// What a row takes in a packet beside its channel and payload.
const ROW_OVERHEAD: usize = 64;
/// Before all times that there are.
const FIRST_TIME: &str = "1000-01-01 00:00:00";

impl Writer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(&database.0.options, Purpose::Writer).await?;
        in_time(async {
            let schema = schema::inspect(&mut session, database).await?;
            let row = session.row("SELECT @@auto_increment_increment, @@max_allowed_packet").await?;
            let row = row.ok_or(sqlx::Error::RowNotFound)?;
            let packet = number::<u64>(&row, 1)?.unwrap_or(1 << 20).saturating_sub(PACKET_OVERHEAD);
            let mut writer = Self {
                increment: number(&row, 0)?.unwrap_or(1),
                max_bytes: packet as usize,
                used: Instant::now(),
                trimmed_to: (FIRST_TIME.to_owned(), 0),
                database: database.clone(),
                session,
                schema,
            };
            writer.keep_history().await?;
            Ok(writer)
        })
        .await
    }

    /// A connection that has rested is asked before it is used: one that died meanwhile would
    /// leave a publish of which nobody knows whether it was committed.
    pub async fn is_current(&mut self) -> bool {
        let alive = self.used.elapsed() < REST || in_time(self.session.run("DO 1")).await.is_ok();
        self.used = Instant::now();
        alive
    }

    pub async fn commit(&mut self, prefix: &Prefix, group: &[Request]) -> Result<Vec<Outcome>, sqlx::Error> {
        let begins = !self.is_one_statement(group);
        let committed = in_time(async {
            if begins {
                self.session.run("START TRANSACTION").await?;
            }
            let outcomes = group::write(self, prefix, group).await?;
            if begins {
                self.session.run("COMMIT").await?;
            }
            Ok(outcomes)
        })
        .await;
        // Who doesn't answer can't be asked.
        if begins && committed.as_ref().is_err_and(|error| !matches!(error, sqlx::Error::Io(_))) {
            self.session.roll_back().await;
        }
        committed
    }

    /// Then it is a transaction by itself.
    fn is_one_statement(&self, group: &[Request]) -> bool {
        let messages = || group.iter().flat_map(|request| &request.messages);
        let bytes: usize =
            messages().map(|message| message.payload.len() + MAX_CHANNEL_BYTES + ROW_OVERHEAD).sum();
        let count = messages().count();
        let has_keys = group.iter().any(|request| request.key.is_some());
        !has_keys && count.is_power_of_two() && count <= MAX_ROWS && bytes <= self.max_bytes
    }

    /// The rows are found along the index on `created_at`; the place is kept, so that another
    /// prefix's old rows are passed once and not on each call. What somebody else is deleting is
    /// left to them.
    pub async fn trim(
        &mut self,
        lead: &str,
        released: &Ids,
        retention_secs: u64,
        batch: u32,
    ) -> Result<bool, sqlx::Error> {
        let table = self.database.0.table.clone();
        let hint = match &self.schema.age_index {
            Some(index) => format!("FORCE INDEX (`{index}`)"),
            None => String::new(),
        };
        let (time, id) = (literal(&self.trimmed_to.0), self.trimmed_to.1);
        let is_old = format!("created_at < UTC_TIMESTAMP(6) - INTERVAL {retention_secs} SECOND");
        let candidates = format!(
            "SELECT id, created_at, LEFT(channel, {}) = {} FROM `{table}` {hint}
             WHERE created_at >= {time} AND (created_at > {time} OR id > {id}) AND {is_old}
             ORDER BY created_at, id LIMIT {batch}",
            lead.len(),
            literal(lead)
        );
        in_time(async {
            let rows = self.session.rows(candidates).await?;
            let mut ids = Vec::new();
            for row in &rows {
                let id: i64 = number(row, 0)?.unwrap_or_default();
                if id > 0 && number(row, 2)? == Some(1) && released.contains(id) {
                    ids.push(id);
                }
            }
            self.delete(table, "id", ids.iter().map(i64::to_string).collect(), &is_old).await?;
            if let Some(last) = rows.last() {
                self.trimmed_to = (text(last, 1)?.unwrap_or_default(), number(last, 0)?.unwrap_or_default());
            }
            Ok(rows.len() == batch as usize)
        })
        .await
    }

    pub fn trim_from_the_start(&mut self) {
        self.trimmed_to = (FIRST_TIME.to_owned(), 0);
    }

    /// Forgets idempotency keys after a day, and takes away the empty rows that publishing by SQL
    /// leaves. It also puts the history's row back where the table was made anew.
    pub async fn trim_helpers(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        in_time(self.keep_history()).await?;
        let mut more = false;
        if self.schema.has_helpers {
            let sql = format!(
                "DELETE FROM tablecast_idempotency_keys WHERE created_at < UTC_TIMESTAMP(6) - INTERVAL 1 DAY LIMIT {batch}"
            );
            let deleted =
                in_time(sqlx::query(AssertSqlSafe(sql)).execute(&mut self.session.connection)).await?;
            more |= deleted.rows_affected() == u64::from(batch);
        }
        for table in self.schema.tidied.clone() {
            more |= in_time(self.tidy(table, batch)).await?;
        }
        Ok(more)
    }

    /// None that a worker may yet read, in the transaction that wrote it or right after.
    async fn tidy(&mut self, table: String, batch: u32) -> Result<bool, sqlx::Error> {
        let is_old = "created_at < UTC_TIMESTAMP(6) - INTERVAL 1 SECOND";
        let sql = format!("SELECT id, created_at FROM `{table}` WHERE {is_old} ORDER BY id LIMIT {batch}");
        let rows = self.session.rows(sql).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, time) = (text(row, 0)?.unwrap_or_default(), text(row, 1)?.unwrap_or_default());
            keys.push(format!("({id}, {})", literal(&time)));
        }
        self.delete(table, "(id, created_at)", keys, is_old).await?;
        Ok(rows.len() == batch as usize)
    }

    /// Deletes rows by their keys, but for those that somebody else has locked.
    async fn delete(
        &mut self,
        table: String,
        key: &str,
        keys: Vec<String>,
        condition: &str,
    ) -> Result<(), sqlx::Error> {
        if keys.is_empty() {
            return Ok(());
        }
        self.session.run("START TRANSACTION").await?;
        let columns = key.trim_matches(['(', ')']);
        let lock = format!(
            "SELECT {columns} FROM `{table}` WHERE {key} IN ({}) AND {condition} FOR UPDATE SKIP LOCKED",
            keys.join(", ")
        );
        let mut locked = Vec::new();
        for row in self.session.rows(lock).await? {
            let id = text(&row, 0)?.unwrap_or_default();
            locked.push(match row.len() {
                1 => id,
                _ => format!("({id}, {})", literal(&text(&row, 1)?.unwrap_or_default())),
            });
        }
        if !locked.is_empty() {
            self.session.run(format!("DELETE FROM `{table}` WHERE {key} IN ({})", locked.join(", "))).await?;
        }
        self.session.run("COMMIT").await
    }

    async fn keep_history(&mut self) -> Result<(), sqlx::Error> {
        let kept = history::keep(&mut self.session, &self.database, self.schema.has_updated_at, false).await;
        match kept {
            // It was said at the start.
            Err(error) if code(&error).is_some_and(|code| LACKS_RIGHTS.contains(&code)) => Ok(()),
            kept => kept,
        }
    }

    /// Inserts rows by one statement, which draws their ids at once.
    async fn insert_together(&mut self, rows: &[NewRow<'_>], ids: &mut Vec<i64>) -> Result<(), sqlx::Error> {
        let (columns, now) = timestamps(self.schema.has_updated_at);
        let values = vec![format!("(?, ?, ?, {now})"); rows.len()].join(", ");
        let returning = if self.session.server.is_mariadb { " RETURNING id" } else { "" };
        let table = &self.database.0.table;
        let sql = format!(
            "INSERT INTO `{table}` (channel, payload, channel_hash, {columns}) VALUES {values}{returning}"
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for row in rows {
            query = query.bind(row.channel.as_slice()).bind(row.payload).bind(row.hash);
        }
        let before = ids.len();
        if self.session.server.is_mariadb {
            for row in query.fetch_all(&mut self.session.connection).await? {
                ids.push(row.try_get(0)?);
            }
        } else {
            let inserted = query.execute(&mut self.session.connection).await?;
            let first = inserted.last_insert_id() as i64;
            let count = inserted.rows_affected() as i64;
            ids.extend((0..count).map(|n| first + n * self.increment));
        }
        if ids.len() - before != rows.len() {
            // Which of them is gone can't be told, so neither can whose the ids are.
            return Err(Refusal("a trigger on the table drops rows".into()).into());
        }
        Ok(())
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}

impl Transaction for Writer {
    async fn claim(
        &mut self,
        prefix: &Prefix,
        keys: &[&IdempotencyKey],
    ) -> Result<Vec<Option<Answered>>, sqlx::Error> {
        if !self.schema.has_helpers {
            let text = "an Idempotency-Key needs the tables that `tablecast migrate` makes";
            return Err(Refusal(text.into()).into());
        }
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            // Who claims a key that another transaction holds waits here for that to end.
            let claimed = sqlx::query(
                "INSERT INTO tablecast_idempotency_keys (prefix, idempotency_key, fingerprint, ids, created_at)
                 VALUES (?, ?, ?, '', UTC_TIMESTAMP(6))",
            )
            .bind(prefix.as_str().as_bytes())
            .bind(key.key.as_bytes())
            .bind(&key.fingerprint)
            .execute(&mut self.session.connection)
            .await;
            answers.push(match claimed {
                Ok(_) => None,
                Err(error) if code(&error) == Some(1062) => {
                    // What is there now, whenever this transaction's snapshot was taken. It may
                    // have been trimmed since: then once more.
                    let row = sqlx::query(
                        "SELECT fingerprint, ids FROM tablecast_idempotency_keys
                         WHERE prefix = ? AND idempotency_key = ? LOCK IN SHARE MODE",
                    )
                    .bind(prefix.as_str().as_bytes())
                    .bind(key.key.as_bytes())
                    .fetch_one(&mut self.session.connection)
                    .await?;
                    Some(Answered { fingerprint: row.try_get(0)?, ids: row.try_get(1)? })
                }
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }

    async fn insert(&mut self, rows: &[NewRow<'_>]) -> Result<Vec<i64>, sqlx::Error> {
        let mut ids = Vec::with_capacity(rows.len());
        let mut rest = rows;
        while !rest.is_empty() {
            let count = together(rest, self.max_bytes)?;
            self.insert_together(&rest[..count], &mut ids).await?;
            rest = &rest[count..];
        }
        Ok(ids)
    }

    async fn remember(
        &mut self,
        prefix: &Prefix,
        answers: &[(&IdempotencyKey, &[i64])],
    ) -> Result<(), sqlx::Error> {
        for (key, ids) in answers {
            sqlx::query(
                "UPDATE tablecast_idempotency_keys SET ids = ? WHERE prefix = ? AND idempotency_key = ?",
            )
            .bind(serde_json::to_string(ids).expect("numbers are JSON"))
            .bind(prefix.as_str().as_bytes())
            .bind(key.key.as_bytes())
            .execute(&mut self.session.connection)
            .await?;
        }
        Ok(())
    }
}

/// How many of the first rows go into one statement: a power of two, so that few are prepared, of
/// what fits into a packet.
fn together(rows: &[NewRow<'_>], max_bytes: usize) -> Result<usize, Refusal> {
    let mut bytes = 0;
    let size = |row: &NewRow<'_>| row.payload.len() + row.channel.len() + ROW_OVERHEAD;
    let fitting = rows.iter().take(MAX_ROWS).take_while(|row| {
        bytes += size(row);
        bytes <= max_bytes
    });
    match fitting.count() {
        0 => Err(Refusal(format!(
            "a message of {} bytes is larger than max_allowed_packet lets through",
            rows[0].payload.len()
        ))),
        count => Ok(1 << count.ilog2()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(payload: &[u8], count: usize) -> Vec<NewRow<'_>> {
        (0..count).map(|_| NewRow { channel: Vec::new(), payload, hash: 0 }).collect()
    }

    #[test]
    fn a_group_is_few_statements_each_of_a_packet() {
        let size = |count, max_bytes| together(&rows(&[0; 936], count), max_bytes).map_err(|error| error.0);
        assert_eq!(size(1, 1000), Ok(1));
        assert_eq!(size(700, 1 << 20), Ok(128));
        assert_eq!(size(100, 1 << 20), Ok(64));
        assert_eq!(size(100, 5000), Ok(4));
        assert!(size(1, 999).unwrap_err().contains("max_allowed_packet"));
    }
}
