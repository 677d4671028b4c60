use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::{Database, FileId};
use crate::stream::MAX_CHANNEL_BYTES;

/// The tail's connection: it only reads.
pub struct Reader {
    connection: SqliteConnection,
    database: Database,
    file: FileId,
    page: Arc<str>,
    /// What [`Reader::changed`] saw last.
    data_version: i64,
}

/// Rows above an id, in the order of their ids.
pub struct Page {
    /// The ids are all that were read; the content is there for rows of one's own.
    pub rows: Vec<(i64, Content)>,
    /// There may be more: the page was full.
    pub full: bool,
}

pub enum Content {
    /// Another prefix's row.
    Foreign,
    /// A payload above the limit was not read.
    TooLarge {
        channel: Vec<u8>,
        bytes: i64,
    },
    Row {
        channel: Vec<u8>,
        payload: Vec<u8>,
    },
}

/// A page is bounded by both, so that memory is.
const PAGE_ROWS: i64 = 1024;
const PAGE_BYTES: usize = 4 << 20;

impl Reader {
    pub(super) fn new(connection: SqliteConnection, database: &Database, file: FileId) -> Self {
        // Foreign rows give their ids alone, and a payload above the limit is not
        // touched: length and type stand in the row's header.
        let page = format!(
            r#"SELECT id,
                      CASE WHEN own THEN substr(channel, 1, {MAX_CHANNEL_BYTES} + 1) END,
                      octet_length(payload),
                      CASE WHEN own AND octet_length(payload) <= ?3 THEN CAST(payload AS BLOB) END
               FROM (SELECT id, CAST(channel AS BLOB) AS channel, payload,
                            substr(CAST(channel AS BLOB), 1, length(?2)) = ?2 AS own
                     FROM "{}" WHERE id > ?1 ORDER BY id LIMIT {PAGE_ROWS})
               ORDER BY id"#,
            database.0.table
        );
        Self { connection, database: database.clone(), file, page: page.into(), data_version: -1 }
    }

    /// The last id that the table gave out, whether or not its row is still there. As SQLite
    /// does it: the next one lies above what it remembers and above all that are there.
    pub async fn last_id(&mut self) -> Result<i64, sqlx::Error> {
        let table = &self.database.0.table;
        let sql = format!(
            r#"SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = ? COLLATE NOCASE), 0),
                          coalesce((SELECT max(id) FROM "{table}"), 0))"#
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(table).fetch_one(&mut self.connection).await
    }

    /// Whether anybody has committed since the last call. It reads no row.
    ///
    /// Taken *before* a page is read, it can't miss: the page sees at least what this saw.
    pub async fn changed(&mut self) -> Result<bool, sqlx::Error> {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut self.connection).await?;
        Ok(std::mem::replace(&mut self.data_version, version) != version)
    }

    /// Rows above `after`. `lead` is what the channels of one's own begin with.
    pub async fn page(&mut self, after: i64, lead: &str, max_payload: usize) -> Result<Page, sqlx::Error> {
        let mut rows = sqlx::query(AssertSqlSafe(self.page.clone()))
            .bind(after)
            .bind(lead.as_bytes())
            .bind(i64::try_from(max_payload).unwrap_or(i64::MAX))
            .fetch(&mut self.connection);
        let mut page = Page { rows: Vec::new(), full: false };
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            let content = content(&row)?;
            if let Content::Row { channel, payload } = &content {
                bytes += channel.len() + payload.len();
            }
            page.rows.push((row.try_get(0)?, content));
            page.full = bytes >= PAGE_BYTES || page.rows.len() as i64 == PAGE_ROWS;
            if page.full {
                break;
            }
        }
        Ok(page)
    }

    pub fn file(&self) -> FileId {
        self.file
    }

    /// Whether the path still leads to the file that this reads.
    pub fn is_current(&self) -> bool {
        self.database.leads_to(self.file)
    }

    pub async fn close(self) {
        let _ = self.connection.close().await;
    }
}

fn content(row: &SqliteRow) -> Result<Content, sqlx::Error> {
    let Some(channel) = row.try_get::<Option<Vec<u8>>, _>(1)? else {
        return Ok(Content::Foreign);
    };
    Ok(match row.try_get::<Option<Vec<u8>>, _>(3)? {
        Some(payload) => Content::Row { channel, payload },
        None => Content::TooLarge { channel, bytes: row.try_get(2)? },
    })
}
