use std::sync::Arc;

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::history::{self, History};
use super::{Database, FileId};
use crate::bus::clock::Clock;
use crate::bus::gaps::{Evidence, Request, Start};
use crate::bus::row::{Content, PAGE_BYTES, PAGE_ROWS, Page, Row as MessageRow};
use crate::stream::MAX_CHANNEL_BYTES;

/// The tail's connection: it only reads.
pub struct Reader {
    connection: SqliteConnection,
    database: Database,
    history: History,
    page: Arc<str>,
    /// What [`Reader::changed`] saw last.
    data_version: i64,
    /// Something was committed that no complete page has shown.
    behind: bool,
}

impl Reader {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        database: &Database,
        file: FileId,
    ) -> Result<Self, sqlx::Error> {
        let table = &database.0.table;
        // Foreign rows give their ids alone, and a payload above the limit is not
        // touched: length and type stand in the row's header.
        // The history's row comes first.
        let page = format!(
            r#"SELECT id, NULL, NULL, CAST(payload AS BLOB), NULL FROM "{table}" WHERE id = -1
               UNION ALL
               SELECT * FROM (SELECT id,
                      CASE WHEN own THEN substr(channel, 1, {MAX_CHANNEL_BYTES} + 1) END,
                      octet_length(payload),
                      CASE WHEN own AND octet_length(payload) <= ?3 THEN CAST(payload AS BLOB) END,
                      CAST(channel_hash AS INTEGER)
               FROM (SELECT id, CAST(channel AS BLOB) AS channel, payload, channel_hash,
                            substr(CAST(channel AS BLOB), 1, length(?2)) = ?2 AS own
                     FROM "{table}" WHERE id > ?1 ORDER BY id LIMIT {PAGE_ROWS})
               ORDER BY id LIMIT {PAGE_ROWS})"#
        );
        let life = history::read(&mut connection, table).await?;
        let (database, history) = (database.clone(), History { file, life });
        Ok(Self { connection, database, history, page: page.into(), data_version: -1, behind: false })
    }

    /// SQLite gives ids out under its write lock and commits in their order.
    pub fn evidence(&self) -> Evidence {
        Evidence::Order
    }

    pub fn lists(&self, _wanted: bool) -> bool {
        false
    }

    pub async fn start(&mut self) -> Result<Start, sqlx::Error> {
        Ok(Start { high: self.last_id().await?, ..Start::default() })
    }

    /// Rows above an id, if anybody has committed.
    pub async fn look(&mut self, request: &Request, _lists: bool) -> Result<Option<Page>, sqlx::Error> {
        if !self.changed().await? && !self.behind {
            return Ok(None);
        }
        // Should reading fail now, the next look must not wait for another change.
        self.behind = true;
        let (mut page, life) = self.page(request.above).await?;
        page.last_value = i64::MAX;
        if life != self.history.life {
            if self.history.life.is_some() {
                page.last_value = i64::MIN;
                return Ok(Some(page));
            }
            // It was missing, and somebody has put it back.
            self.history.life = life;
        }
        if page.rows.is_empty() {
            // A commit, and nothing to read: rows may be gone, and ids start anew.
            page.last_value = self.last_id().await?;
        }
        self.behind = page.full;
        Ok(Some(page))
    }

    /// The last id that the table gave out, whether or not its row is still there. As SQLite
    /// does it: the next one lies above what it remembers and above all that are there.
    async fn last_id(&mut self) -> Result<i64, sqlx::Error> {
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
    async fn changed(&mut self) -> Result<bool, sqlx::Error> {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut self.connection).await?;
        Ok(std::mem::replace(&mut self.data_version, version) != version)
    }

    /// With what the history's row says.
    async fn page(&mut self, after: i64) -> Result<(Page, Option<Vec<u8>>), sqlx::Error> {
        let database = &self.database.0;
        let mut rows = sqlx::query(AssertSqlSafe(self.page.clone()))
            .bind(after)
            .bind(database.lead.as_bytes())
            .bind(i64::try_from(database.max_payload_bytes).unwrap_or(i64::MAX))
            .fetch(&mut self.connection);
        let mut page = Page::default();
        let mut life = None;
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            let id = row.try_get(0)?;
            if id == -1 {
                life = row.try_get(3)?;
                continue;
            }
            let content = Content::new(row.try_get(1)?, row.try_get(3)?, row.try_get(2)?, row.try_get(4)?);
            bytes += content.size();
            page.rows.push(MessageRow { id, content });
            page.full = bytes >= PAGE_BYTES || page.rows.len() == PAGE_ROWS;
            if page.full {
                break;
            }
        }
        Ok((page, life))
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    pub fn clock(&self) -> Clock {
        Clock::Own
    }

    /// Whether the path still leads to the file that this reads.
    pub fn is_current(&self) -> bool {
        self.database.leads_to(self.history.file)
    }

    pub async fn close(self) {
        let _ = self.connection.close().await;
    }
}
