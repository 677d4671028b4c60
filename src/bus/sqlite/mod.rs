//! The table in a SQLite file.
//!
//! SQLite has one writer at a time and draws ids under its lock, so rows commit in
//! the order of their ids and a rollback burns none: there are no gaps, and reading
//! `id > last` loses nothing. What is particular here is waking up ([`changes`]), the
//! hash that SQL can't compute ([`sha256`]), and a file that can be swapped beneath us.

mod changes;
mod history;
mod read;
mod replay;
mod schema;
mod sha256;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tokio::time::sleep;

pub(super) use changes::Changes;
pub(super) use history::History;
pub(super) use read::Reader;
pub(super) use replay::Replayer;
pub use schema::SetupError;
pub(super) use write::Writer;

use super::database::{Migration, Schema, Trouble};
use super::{BusConfig, DefaultPrefix, Info, Wake};
use crate::stream::Prefix;

/// Where the file is, and how long to wait for others' locks on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub path: PathBuf,
    pub busy_timeout: Duration,
}

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronous {
    /// Once it is in the file, as the operating system sees it: a crash of the
    /// process loses nothing, a power failure may lose the last commits.
    Normal,
    /// Once it is on the disk.
    Full,
}

/// How to get at the table. Cheap to clone; connections are opened from it.
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    location: Location,
    table: String,
    /// What the channels of one's own begin with.
    lead: String,
    max_payload_bytes: usize,
    synchronous: Synchronous,
    wake: Wake,
}

/// Which file a path led to. Another one has another history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bus) struct FileId(u64, u64);

impl Database {
    pub fn new(location: Location, config: &BusConfig) -> Self {
        Self(Arc::new(Inner {
            location,
            table: config.table.clone(),
            lead: config.prefix.lead(),
            max_payload_bytes: config.max_payload_bytes,
            synchronous: config.sqlite_synchronous,
            wake: config.wake,
        }))
    }

    /// Creates the file, the table and what publishing by SQL needs, where they are
    /// missing, and registers this server's prefix.
    pub async fn prepare(&self, config: &BusConfig) -> Result<Info, SetupError> {
        let mut connection = self.create().await?;
        let default_prefix = DefaultPrefix::Initial(config.prefix.clone());
        let schema = schema::ensure(&mut connection, self, &default_prefix).await?;
        let foreign_prefixes = self.register(&mut connection, &config.prefix).await?;
        Ok(Info {
            database: self.to_string(),
            table: self.0.table.clone(),
            owns_table: config.owns_table.unwrap_or(schema.made_by_tablecast),
            default_prefix: schema.default_prefix,
            foreign_prefixes,
        })
    }

    /// What `migrate` does: `prepare` without a server.
    pub async fn migrate(&self, migration: &Migration) -> Result<Schema, SetupError> {
        if !migration.fences.is_empty() || migration.wake_trigger {
            return Err(SetupError::NotHere);
        }
        schema::ensure(&mut self.create().await?, self, &migration.default_prefix).await
    }

    /// The SQL that `migrate` would run, on a file that may not exist.
    pub async fn plan(&self, migration: &Migration) -> Result<String, SetupError> {
        let existing = if self.path().exists() { Some(self.connect().await?) } else { None };
        schema::plan(existing, self, &migration.default_prefix).await
    }

    /// Drops what `migrate` made, but for the table of messages.
    pub async fn uninstall(&self) -> Result<(), SetupError> {
        schema::uninstall(&mut self.connect().await?, self).await
    }

    /// What is there, changing nothing.
    pub async fn inspect(&self) -> Result<Schema, SetupError> {
        schema::inspect(&mut self.connect().await?, self).await
    }

    pub(super) async fn reader(&self) -> Result<Reader, sqlx::Error> {
        let (connection, file) = self.open_file().await?;
        Reader::new(connection, self, file).await
    }

    pub(super) async fn replayer(&self) -> Result<Replayer, sqlx::Error> {
        let (connection, file) = self.open_file().await?;
        Ok(Replayer::new(connection, self, file))
    }

    pub(super) async fn writer(&self) -> Result<Writer, sqlx::Error> {
        let (connection, file) = self.open_file().await?;
        Writer::new(connection, self, file).await
    }

    pub(super) fn changes(&self, own_writes: Arc<tokio::sync::Notify>) -> Result<Changes, SetupError> {
        Changes::new(self.path(), self.0.wake, own_writes)
    }

    fn path(&self) -> &Path {
        &self.0.location.path
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(self.path())
            .busy_timeout(self.0.location.busy_timeout)
            .synchronous(match self.0.synchronous {
                Synchronous::Normal => SqliteSynchronous::Normal,
                Synchronous::Full => SqliteSynchronous::Full,
            })
            .disable_statement_logging()
    }

    /// A connection to a file that must exist: one that vanished under a running
    /// server is somebody else's to make again.
    async fn open(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.options().connect().await
    }

    /// A connection, and which file it has: the path must lead to one before and after.
    async fn open_file(&self) -> Result<(SqliteConnection, FileId), sqlx::Error> {
        let file = FileId::of(self.path())?;
        let connection = self.open().await?;
        if !self.leads_to(file) {
            return Err(sqlx::Error::Io(std::io::Error::other("the file was replaced while it was opened")));
        }
        Ok((connection, file))
    }

    async fn connect(&self) -> Result<SqliteConnection, SetupError> {
        if !self.path().exists() {
            return Err(SetupError::NoFile(self.path().to_owned()));
        }
        self.open().await.map_err(|error| SetupError::from_sqlx(error, self.path()))
    }

    /// A connection to a file that is made if it is missing, in WAL mode: readers
    /// and the writer don't wait for one another, and the log's growth wakes us.
    async fn create(&self) -> Result<SqliteConnection, SetupError> {
        let mut connection = self
            .options()
            .create_if_missing(true)
            .connect()
            .await
            .map_err(|error| SetupError::from_sqlx(error, self.path()))?;
        // SQLite itself doesn't wait here for another process: it has a read transaction by then.
        let started = Instant::now();
        while let Err(error) = sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut connection).await {
            if !matches!(self.trouble(&error), Trouble::Busy)
                || started.elapsed() >= self.0.location.busy_timeout
            {
                return Err(SetupError::from_sqlx(error, self.path()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(connection)
    }

    async fn register(
        &self,
        connection: &mut SqliteConnection,
        prefix: &Prefix,
    ) -> Result<Vec<String>, SetupError> {
        if !prefix.is_none() {
            sqlx::query("INSERT INTO tablecast_prefixes (prefix, created_at) SELECT ?1, datetime('now') WHERE NOT EXISTS (SELECT 1 FROM tablecast_prefixes WHERE prefix = ?1)")
                .bind(prefix.as_str())
                .execute(connection)
                .await
                .map_err(|error| SetupError::from_sqlx(error, self.path()))?;
            return Ok(Vec::new());
        }
        // A semicolon follows the colon, so this is the range of one prefix's channels.
        let sql = format!(
            r#"SELECT prefix FROM tablecast_prefixes WHERE EXISTS (
                 SELECT 1 FROM "{}" WHERE channel >= CAST(prefix || ':' AS BLOB) AND channel < CAST(prefix || ';' AS BLOB))"#,
            self.0.table
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(connection)
            .await
            .map_err(|error| SetupError::from_sqlx(error, self.path()))
    }

    pub(super) fn trouble(&self, error: &sqlx::Error) -> Trouble {
        match result_code(error) {
            Some(5 | 6) => Trouble::Busy,
            Some(19) => Trouble::Refused,
            _ if matches!(error, sqlx::Error::Protocol(_)) => Trouble::Refused,
            _ => Trouble::Away,
        }
    }

    pub(super) fn setup_error(&self, error: sqlx::Error) -> SetupError {
        SetupError::from_sqlx(error, self.path())
    }

    /// Whether the path still leads to the file that was opened. A stat is a
    /// microsecond; a write into an unlinked file is a message lost.
    fn leads_to(&self, file: FileId) -> bool {
        FileId::of(self.path()).is_ok_and(|now| now == file)
    }
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SQLite {}", self.path().display())
    }
}

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path)?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }

    /// Elsewhere an open file can't be replaced.
    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|_| Self(0, 0))
    }
}

/// SQLite's primary result code (`SQLITE_BUSY` is 5), if that is what failed.
fn result_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
