//! The table in MySQL or MariaDB.
//!
//! InnoDB hands ids out before a transaction commits, and not under a lock that lasts as long:
//! there are gaps, which [`gaps`](crate::bus::gaps) tells about. Who may yet commit a row is asked
//! in a second statement after each look, where the server lets us ([`list`]). What goes for a
//! table's identity is a row in it ([`history`]). Nothing of the database's wakes the tail: it polls,
//! closely while rows flow ([`wake`]).

mod connect;
mod error;
mod history;
pub(super) mod holes;
mod list;
mod locks;
mod migrate;
mod read;
mod replay;
mod schema;
mod server;
mod wake;
mod write;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use sqlx::ConnectOptions;
use sqlx::mysql::MySqlConnectOptions;

pub use error::SetupError;
pub use history::History;
pub use read::Reader;
pub use replay::Replayer;
pub use wake::Waker;
pub use write::Writer;

use self::connect::{Purpose, Session, code, text};
use self::error::LACKS_RIGHTS;
use self::history::Continuity;
use super::database::{Migration, Schema, Trouble};
use super::{BusConfig, Info, Wake};

/// A URL that was parsed. Its password is never shown.
#[derive(Clone)]
pub struct Location(Arc<MySqlConnectOptions>);

/// How to get at the table. Cheap to clone; connections are opened from it.
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Location,
    table: String,
    /// What the channels of one's own begin with.
    lead: String,
    max_payload_bytes: usize,
    wake: Wake,
    /// How many rows the tail's next look asks for, also by its next connection.
    page_rows: AtomicUsize,
    /// What the tail has found out, for who writes the history's row.
    continuity: Mutex<Continuity>,
}

impl Location {
    /// From a URL without parameters that nobody knows.
    pub fn parse(url: &str) -> Result<Self, sqlx::Error> {
        let options = MySqlConnectOptions::from_str(url)?;
        if options.get_database().is_none() {
            return Err(sqlx::Error::Configuration("it names no database".into()));
        }
        // A session is set by ourselves, once we know whose it is.
        let options =
            options.set_names(false).timezone(None).pipes_as_concat(false).no_engine_substitution(false);
        Ok(Self(Arc::new(options.disable_statement_logging())))
    }
}

impl std::ops::Deref for Location {
    type Target = MySqlConnectOptions;

    fn deref(&self) -> &MySqlConnectOptions {
        &self.0
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Location {}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.get_database().unwrap_or_default();
        match self.get_socket() {
            Some(socket) => write!(f, "MySQL {}/{database}", socket.display()),
            None => write!(f, "MySQL {}:{}/{database}", self.get_host(), self.get_port()),
        }
    }
}

impl Database {
    pub fn new(location: Location, config: &BusConfig) -> Self {
        Self(Arc::new(Inner {
            options: location,
            table: config.table.clone(),
            lead: config.prefix.lead(),
            max_payload_bytes: config.max_payload_bytes,
            wake: config.wake,
            page_rows: AtomicUsize::new(read::FIRST_PAGE_ROWS),
            continuity: Mutex::default(),
        }))
    }

    /// Reads what is there, gives the table its history's row, and registers this server's prefix.
    pub async fn prepare(&self, config: &BusConfig) -> Result<Info, SetupError> {
        let mut session = self.open().await?;
        let schema = schema::inspect(&mut session, self).await?;
        for advice in &schema.advice {
            tracing::warn!("{advice}");
        }
        if schema.defaults.is_none() {
            tracing::warn!("SQL can't publish here (INSERT INTO tablecast_publish): run `tablecast migrate`");
        }
        match history::keep(&mut session, self, schema.has_updated_at, true).await {
            Err(error) if code(&error).is_some_and(|code| LACKS_RIGHTS.contains(&code)) => tracing::warn!(
                "the row that names the table's history can't be written, so that a table which was made anew is \
                 known by its ids alone: {}",
                session.server.grant("SELECT, INSERT, DELETE", &self.0.table)
            ),
            kept => kept.map_err(|error| self.setup_error(error))?,
        }
        let foreign_prefixes =
            self.register(&mut session, &schema, config).await.map_err(|error| self.setup_error(error))?;
        let name = self.name(&session);
        session.close().await;
        let summary = schema.summary(self);
        Ok(Info {
            database: name,
            table: self.0.table.clone(),
            owns_table: config.owns_table.unwrap_or(summary.made_by_tablecast),
            default_prefix: if summary.publishing { summary.default_prefix } else { config.prefix.clone() },
            foreign_prefixes,
        })
    }

    pub async fn migrate(&self, migration: &Migration) -> Result<Schema, SetupError> {
        Ok(migrate::migrate(self, migration).await?.summary(self))
    }

    pub async fn plan(&self, migration: &Migration) -> Result<String, SetupError> {
        migrate::print(self, migration).await
    }

    pub async fn uninstall(&self) -> Result<(), SetupError> {
        migrate::uninstall(self).await
    }

    pub async fn inspect(&self) -> Result<Schema, SetupError> {
        let mut session = self.open().await?;
        let schema = schema::inspect(&mut session, self).await?;
        session.close().await;
        Ok(schema.summary(self))
    }

    pub async fn reader(&self) -> Result<Reader, sqlx::Error> {
        Reader::open(self).await
    }

    pub async fn replayer(&self) -> Result<Replayer, sqlx::Error> {
        Replayer::open(self).await
    }

    pub async fn writer(&self) -> Result<Writer, sqlx::Error> {
        Writer::open(self).await
    }

    pub fn waker(&self, own_writes: Arc<tokio::sync::Notify>) -> Result<Waker, SetupError> {
        if self.0.wake == Wake::Notify {
            Err(SetupError::NoNotifications)
        } else {
            Ok(Waker::new(own_writes))
        }
    }

    pub fn setup_error(&self, error: sqlx::Error) -> SetupError {
        SetupError::from_sqlx(error, self)
    }

    pub fn trouble(&self, error: &sqlx::Error) -> Trouble {
        error::trouble(error)
    }

    /// A connection for what is asked once.
    async fn open(&self) -> Result<Session, SetupError> {
        Session::open(&self.0.options, Purpose::SetUp).await.map_err(|error| self.setup_error(error))
    }

    /// Its name with the right product.
    fn name(&self, session: &Session) -> String {
        let name = self.to_string();
        if session.server.is_mariadb { name.replacen("MySQL", "MariaDB", 1) } else { name }
    }

    async fn register(
        &self,
        session: &mut Session,
        schema: &schema::Schema,
        config: &BusConfig,
    ) -> Result<Vec<String>, sqlx::Error> {
        if !schema.has_helpers {
            return Ok(Vec::new());
        }
        if config.prefix.is_none() {
            // A semicolon follows the colon, so this is the range of one prefix's channels.
            let sql = format!(
                "SELECT prefix FROM tablecast_prefixes AS p WHERE EXISTS (
                   SELECT 1 FROM `{}` AS m WHERE m.channel >= CONCAT(p.prefix, ':') AND m.channel < CONCAT(p.prefix, ';'))",
                self.0.table
            );
            let rows = session.rows(sql).await?;
            return rows.iter().map(|row| Ok(text(row, 0)?.unwrap_or_default())).collect();
        }
        let sql = "INSERT INTO tablecast_prefixes (prefix, created_at) VALUES (?, UTC_TIMESTAMP(6))";
        let added =
            sqlx::query(sql).bind(config.prefix.as_str().as_bytes()).execute(&mut session.connection).await;
        match added {
            // It is there already.
            Err(error) if code(&error) == Some(1062) => Ok(Vec::new()),
            added => added.map(|_| Vec::new()),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.options.fmt(f)
    }
}
