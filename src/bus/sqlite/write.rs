//! The one connection that this process writes by.

use std::sync::Arc;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::schema::{self, timestamps};
use super::{Database, FileId, history};
use crate::bus::group::{self, Answered, NewRow, Transaction};
use crate::bus::position::Ids;
use crate::bus::request::{IdempotencyKey, Outcome, Request};
use crate::stream::Prefix;

/// Rows to an INSERT. There is a prepared statement for each power of two up to this.
const MAX_ROWS: usize = 64;

pub struct Writer {
    connection: SqliteConnection,
    database: Database,
    file: FileId,
    has_updated_at: bool,
    /// INSERTs of up to 1, 2, 4, … rows.
    inserts: Vec<(usize, Arc<str>)>,
    /// Where the next trim goes on, by time and id: what lies before it is another's.
    trimmed_to: (String, i64),
    hashes_trimmed_to: Vec<u8>,
}

impl Writer {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        database: &Database,
        file: FileId,
    ) -> Result<Self, sqlx::Error> {
        let schema = schema::inspect(&mut connection, database)
            .await
            .map_err(|error| sqlx::Error::Configuration(error.into()))?;
        history::keep(&mut connection, &database.0.table, schema.has_updated_at).await?;
        let inserts = std::iter::successors(Some(1), |rows| (rows * 2 <= MAX_ROWS).then(|| rows * 2))
            .map(|rows| (rows, insert(&database.0.table, rows, schema.has_updated_at)))
            .collect();
        Ok(Self {
            connection,
            database: database.clone(),
            file,
            has_updated_at: schema.has_updated_at,
            inserts,
            trimmed_to: Default::default(),
            hashes_trimmed_to: Vec::new(),
        })
    }

    /// Whether the path still leads to the file that this writes.
    pub async fn is_current(&mut self) -> bool {
        self.database.leads_to(self.file)
    }

    /// Commits a group of requests in one transaction, in their order: all of it
    /// or, with an error, nothing.
    pub async fn commit(&mut self, prefix: &Prefix, group: &[Request]) -> Result<Vec<Outcome>, sqlx::Error> {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        let written = async {
            let outcomes = group::write(self, prefix, group).await?;
            sqlx::query("COMMIT").execute(&mut self.connection).await?;
            Ok(outcomes)
        };
        match written.await {
            Ok(outcomes) => Ok(outcomes),
            Err(error) => {
                // Some errors have rolled back already.
                let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
                Err(error)
            }
        }
    }

    /// Deletes a batch of rows older than `retention_secs` that were released; says
    /// whether there may be more.
    ///
    /// The rows are found along the index on `created_at`; the place is kept, so
    /// that another prefix's old rows are passed once and not on each call.
    pub async fn trim(
        &mut self,
        lead: &str,
        released: &Ids,
        retention_secs: u64,
        batch: u32,
    ) -> Result<bool, sqlx::Error> {
        let table = &self.database.0.table;
        let candidates = format!(
            r#"SELECT id, created_at, substr(CAST(channel AS BLOB), 1, length(?1)) = ?1 AND id <= ?2
               FROM "{table}"
               WHERE (created_at, id) > (?3, ?4) AND created_at < strftime('%Y-%m-%d %H:%M:%f', 'now', ?5)
               ORDER BY created_at, id LIMIT ?6"#
        );
        let rows = sqlx::query(AssertSqlSafe(candidates))
            .bind(lead.as_bytes())
            .bind(released.high)
            .bind(&self.trimmed_to.0)
            .bind(self.trimmed_to.1)
            .bind(format!("-{retention_secs} seconds"))
            .bind(batch)
            .fetch_all(&mut self.connection)
            .await?;
        let mut ids = Vec::new();
        for row in &rows {
            let id: i64 = row.try_get(0)?;
            if row.try_get(2)? && released.contains(id) {
                ids.push(id);
            }
        }
        if !ids.is_empty() {
            let ids = serde_json::to_string(&ids).expect("numbers are JSON");
            let delete = format!(r#"DELETE FROM "{table}" WHERE id IN (SELECT value FROM json_each(?))"#);
            sqlx::query(AssertSqlSafe(delete)).bind(ids).execute(&mut self.connection).await?;
        }
        if let Some(last) = rows.last() {
            self.trimmed_to = (last.try_get(1)?, last.try_get(0)?);
        }
        Ok(rows.len() == batch as usize)
    }

    /// The next trim looks at all rows again: some may have been written with an
    /// earlier time.
    pub fn trim_from_the_start(&mut self) {
        self.trimmed_to = Default::default();
    }

    /// Also puts the history's row back where the table was made anew.
    pub async fn trim_helpers(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        history::keep(&mut self.connection, &self.database.0.table, self.has_updated_at).await?;
        Ok(self.trim_keys(batch).await? || self.trim_hashes(batch).await?)
    }

    /// Forgets idempotency keys after a day.
    async fn trim_keys(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        let deleted = sqlx::query(
            "DELETE FROM tablecast_idempotency_keys WHERE (prefix, idempotency_key) IN
               (SELECT prefix, idempotency_key FROM tablecast_idempotency_keys
                WHERE created_at < datetime('now', '-1 day') LIMIT ?)",
        )
        .bind(batch)
        .execute(&mut self.connection)
        .await?;
        Ok(deleted.rows_affected() == u64::from(batch))
    }

    /// Forgets a batch of the hashes of channels that have no rows any more, in the order of
    /// their names.
    async fn trim_hashes(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        let table = &self.database.0.table;
        let last: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT max(channel) FROM (SELECT channel FROM tablecast_stream_hashes WHERE channel > ? ORDER BY channel LIMIT ?)",
        )
        .bind(&self.hashes_trimmed_to)
        .bind(batch)
        .fetch_one(&mut self.connection)
        .await?;
        let Some(last) = last else {
            self.hashes_trimmed_to.clear();
            return Ok(false);
        };
        let delete = format!(
            r#"DELETE FROM tablecast_stream_hashes WHERE channel > ? AND channel <= ?
               AND NOT EXISTS (SELECT 1 FROM "{table}" AS m WHERE m.channel = tablecast_stream_hashes.channel)"#
        );
        sqlx::query(AssertSqlSafe(delete))
            .bind(&self.hashes_trimmed_to)
            .bind(&last)
            .execute(&mut self.connection)
            .await?;
        self.hashes_trimmed_to = last;
        Ok(true)
    }

    pub async fn close(self) {
        let _ = self.connection.close().await;
    }
}

impl Transaction for Writer {
    async fn claim(
        &mut self,
        prefix: &Prefix,
        keys: &[&IdempotencyKey],
    ) -> Result<Vec<Option<Answered>>, sqlx::Error> {
        // The write lock is ours already, so nobody else can come between.
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let row = sqlx::query(
                "SELECT fingerprint, ids FROM tablecast_idempotency_keys WHERE prefix = ? AND idempotency_key = ?",
            )
            .bind(prefix.as_str())
            .bind(&key.key)
            .fetch_optional(&mut self.connection)
            .await?;
            found.push(match row {
                Some(row) => Some(Answered { fingerprint: row.try_get(0)?, ids: row.try_get(1)? }),
                None => None,
            });
        }
        Ok(found)
    }

    async fn insert(&mut self, rows: &[NewRow<'_>]) -> Result<Vec<i64>, sqlx::Error> {
        let mut ids = Vec::with_capacity(rows.len());
        for rows in rows.chunks(MAX_ROWS) {
            let (size, sql) = self
                .inserts
                .iter()
                .find(|(size, _)| *size >= rows.len())
                .expect("chunks are no larger than the largest");
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
            for row in rows {
                query = query.bind(row.channel.as_slice()).bind(row.payload).bind(row.hash);
            }
            for _ in rows.len()..*size {
                query = query.bind(None::<&[u8]>).bind(None::<&[u8]>).bind(None::<i64>);
            }
            let inserted = query.fetch_all(&mut self.connection).await?;
            if inserted.len() != rows.len() {
                // Which of them is gone can't be told, so neither can whose the ids are.
                return Err(sqlx::Error::Protocol("a trigger on the table drops rows (RAISE IGNORE)".into()));
            }
            // RETURNING promises no order, but ids are drawn in the order of VALUES.
            let first = ids.len();
            for row in inserted {
                ids.push(row.try_get::<i64, _>(0)?);
            }
            ids[first..].sort_unstable();
        }
        Ok(ids)
    }

    async fn remember(
        &mut self,
        prefix: &Prefix,
        answers: &[(&IdempotencyKey, &[i64])],
    ) -> Result<(), sqlx::Error> {
        for (key, ids) in answers {
            sqlx::query("INSERT INTO tablecast_idempotency_keys (prefix, idempotency_key, fingerprint, ids, created_at) VALUES (?, ?, ?, ?, datetime('now'))")
                .bind(prefix.as_str())
                .bind(&key.key)
                .bind(&key.fingerprint)
                .bind(serde_json::to_string(ids).expect("numbers are JSON"))
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }
}

/// An INSERT of up to so many rows, unused ones being NULL: a group of any size is few
/// statements, each of which costs a round trip to the connection's thread.
fn insert(table: &str, rows: usize, has_updated_at: bool) -> Arc<str> {
    let (columns, now) = timestamps(has_updated_at);
    let values = vec!["(?, ?, ?)"; rows].join(", ");
    format!(
        r#"INSERT INTO "{table}" (channel, payload, channel_hash, {columns})
           SELECT column1, column2, column3, {now} FROM (VALUES {values}) WHERE column1 IS NOT NULL
           RETURNING id"#
    )
    .into()
}
