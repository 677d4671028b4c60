use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};

use super::Database;
use crate::bus::gaps::IdRange;

/// Reads back what a channel had. Each secondary index of SQLite carries the id, so that the one
/// on `channel_hash` finds its last rows, or those of a range, without a search.
pub struct Replayer {
    connection: SqliteConnection,
    table: String,
    max_payload_bytes: i64,
}

impl Replayer {
    pub(super) fn new(connection: SqliteConnection, database: &Database) -> Self {
        let max_payload_bytes = i64::try_from(database.0.max_payload_bytes).unwrap_or(i64::MAX);
        Self { connection, table: database.0.table.clone(), max_payload_bytes }
    }

    pub async fn ranges(
        &mut self,
        channel: &[u8],
        hash: i64,
        ranges: &[IdRange],
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let mut found = Vec::new();
        for range in ranges {
            let rest = limit - found.len();
            if rest == 0 {
                break;
            }
            found.extend(self.rows("ASC", channel, hash, *range, rest).await?);
        }
        Ok(found)
    }

    pub async fn latest(
        &mut self,
        channel: &[u8],
        hash: i64,
        high: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        self.rows("DESC", channel, hash, IdRange { first: 1, last: high }, limit).await
    }

    async fn rows(
        &mut self,
        order: &str,
        channel: &[u8],
        hash: i64,
        range: IdRange,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let sql = format!(
            r#"SELECT id, CAST(payload AS BLOB) FROM "{}"
               WHERE channel_hash = ? AND id BETWEEN ? AND ? AND CAST(channel AS BLOB) = ?
                 AND octet_length(payload) <= ?
               ORDER BY id {order} LIMIT ?"#,
            self.table
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(hash)
            .bind(range.first)
            .bind(range.last)
            .bind(channel)
            .bind(self.max_payload_bytes)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut self.connection)
            .await?;
        rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
