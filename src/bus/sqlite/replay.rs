use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::{Database, FileId};
use crate::bus::gaps::IdRange;
use crate::bus::log::found::{Channel, Found, Latest, Ranges};

/// Reads back what a channel had. Each secondary index of SQLite carries the id, so that the one
/// on `channel_hash` finds its last rows, or those of a range, without a search. A statement takes 20
/// microseconds, so that there is one for each channel and range.
pub struct Replayer {
    connection: SqliteConnection,
    database: Database,
    file: FileId,
    max_payload_bytes: i64,
}

/// Rows of one channel.
struct Part<'a> {
    channel: &'a Channel,
    of: usize,
    range: IdRange,
    newest_first: bool,
    limit: usize,
    inline: usize,
}

impl Replayer {
    pub(super) fn new(connection: SqliteConnection, database: &Database, file: FileId) -> Self {
        let max_payload_bytes = whole(database.0.max_payload_bytes);
        Self { connection, database: database.clone(), file, max_payload_bytes }
    }

    pub fn is_current(&self) -> bool {
        self.database.leads_to(self.file)
    }

    pub async fn ranges(&mut self, asked: Ranges<'_>) -> Result<Vec<Found>, sqlx::Error> {
        let Ranges { channels, ranges, limit, inline } = asked;
        let mut found: Vec<Found> = Vec::new();
        for range in ranges {
            if found.len() >= limit {
                break;
            }
            for (of, channel) in channels.iter().enumerate() {
                let mut range = *range;
                // What lies above the last one that counts needn't be read.
                if found.len() == limit {
                    range.last = range.last.min(found[limit - 1].id);
                }
                let part = Part { channel, of, range, newest_first: false, limit, inline };
                found.extend(self.rows(part).await?);
                found.sort_unstable_by_key(|row| row.id);
                found.truncate(limit);
            }
        }
        Ok(found)
    }

    pub async fn latest(&mut self, asked: &[Latest<'_>], inline: usize) -> Result<Vec<Found>, sqlx::Error> {
        let mut found = Vec::new();
        for (of, Latest { channel, high, limit }) in asked.iter().enumerate() {
            let range = IdRange { first: 1, last: *high };
            let part = Part { channel, of, range, newest_first: true, limit: *limit, inline };
            found.extend(self.rows(part).await?);
        }
        Ok(found)
    }

    async fn rows(&mut self, part: Part<'_>) -> Result<Vec<Found>, sqlx::Error> {
        let Part { channel, of, range, newest_first, limit, inline } = part;
        let table = &self.database.0.table;
        let order = if newest_first { "DESC" } else { "ASC" };
        let sql = format!(
            r#"SELECT id, own, size, CAST(strftime('%s', created_at) AS INTEGER),
                      CASE WHEN own AND size <= ?6 THEN CAST(payload AS BLOB) END
               FROM (SELECT id, created_at, payload, octet_length(payload) AS size,
                            CAST(channel AS BLOB) = ?4 AND octet_length(payload) <= ?5 AS own
                     FROM "{table}" WHERE channel_hash = ?1 AND id BETWEEN ?2 AND ?3
                     ORDER BY id {order} LIMIT ?7)
               ORDER BY id {order}"#
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(channel.hash)
            .bind(range.first)
            .bind(range.last)
            .bind(channel.name.as_slice())
            .bind(self.max_payload_bytes)
            .bind(whole(inline))
            .bind(whole(limit))
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter().map(|row| found(row, of)).collect()
    }

    pub async fn payloads(&mut self, ids: &[i64]) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let table = &self.database.0.table;
        let sql = format!(
            r#"SELECT id, CAST(payload AS BLOB) FROM "{table}" WHERE id IN (SELECT value FROM json_each(?))"#
        );
        let ids = serde_json::to_string(ids).expect("numbers are JSON");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut self.connection).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

fn found(row: &SqliteRow, of: usize) -> Result<Found, sqlx::Error> {
    Ok(Found {
        id: row.try_get(0)?,
        of,
        own: row.try_get::<Option<bool>, _>(1)?.unwrap_or(false),
        size: row.try_get::<Option<i64>, _>(2)?.unwrap_or_default().unsigned_abs() as usize,
        created: row.try_get(3)?,
        payload: row.try_get(4)?,
    })
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
