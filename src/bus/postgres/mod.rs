//! The table in PostgreSQL.
//!
//! Ids come from a sequence, outside of any transaction, and rows appear in the order of their
//! commits: there are gaps, which [`gaps`](crate::bus::gaps) tells about, and what it needs to
//! know of transactions is read with each look ([`read`]). Publishing transactions notify a
//! server that sleeps ([`wake`]); whether the table is the one that was followed says
//! [`history`].

mod connect;
mod history;
mod migrate;
mod read;
mod replay;
mod schema;
mod wake;
mod write;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

pub use history::History;
pub use read::Reader;
pub use replay::Replayer;
pub use schema::SetupError;
pub use wake::Waker;
pub use write::Writer;

use self::connect::Session;
use super::database::{Migration, Schema, Trouble};
use super::{BusConfig, Info, Wake};

/// A URL that was parsed. Its password is never shown.
#[derive(Clone)]
pub struct Location(Arc<PgConnectOptions>);

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
}

impl Location {
    /// From a URL without parameters that nobody knows.
    pub fn parse(url: &str) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        Ok(Self(Arc::new(options.application_name("tablecast").disable_statement_logging())))
    }
}

/// Where a URL without a host means: PGHOST, else the local socket's folder, else localhost.
pub fn default_host() -> String {
    PgConnectOptions::new_without_pgpass().get_host().to_owned()
}

impl std::ops::Deref for Location {
    type Target = PgConnectOptions;

    fn deref(&self) -> &PgConnectOptions {
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
        let options = &self.0;
        let database = options.get_database().unwrap_or(options.get_username());
        match options.get_socket() {
            Some(socket) => write!(f, "PostgreSQL {}/{database}", socket.display()),
            None => write!(f, "PostgreSQL {}:{}/{database}", options.get_host(), options.get_port()),
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
        }))
    }

    /// Reads what is there, and registers this server's prefix.
    pub async fn prepare(&self, config: &BusConfig) -> Result<Info, SetupError> {
        let mut session = self.open().await?;
        let schema = schema::inspect(&mut session, self).await?;
        if self.0.wake == Wake::Notify && !(schema.notifies && schema.wake_sequence.is_some()) {
            return Err(SetupError::NoWake);
        }
        for advice in &schema.advice {
            tracing::warn!("{advice}");
        }
        if schema.defaults.is_none() {
            tracing::warn!("SQL can't publish here (INSERT INTO tablecast_publish): run `tablecast migrate`");
        }
        let foreign_prefixes =
            self.register(&mut session, &schema, config).await.map_err(|error| self.setup_error(error))?;
        session.close().await;
        let summary = schema.summary(self);
        Ok(Info {
            database: self.to_string(),
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

    pub async fn waker(&self, own_writes: Arc<tokio::sync::Notify>) -> Result<Waker, SetupError> {
        Waker::start(self, own_writes).await
    }

    pub fn setup_error(&self, error: sqlx::Error) -> SetupError {
        SetupError::from_sqlx(error, self)
    }

    pub fn trouble(&self, error: &sqlx::Error) -> Trouble {
        let code = error.as_database_error().and_then(|error| error.code());
        match (error, code.as_deref()) {
            (sqlx::Error::RowNotFound, _) => Trouble::Busy,
            (sqlx::Error::Protocol(_), _) => Trouble::Refused,
            // Deadlock, serialization failure, lock not available.
            (_, Some("40P01" | "40001" | "55P03")) => Trouble::Busy,
            // By class: data exceptions, constraints, triggers' own, rights.
            (_, Some(code))
                if ["22", "23", "42501", "44", "P0", "54"].iter().any(|class| code.starts_with(class)) =>
            {
                Trouble::Refused
            }
            _ => Trouble::Away,
        }
    }

    /// A connection for what is asked once, where a pooler in between a transaction.
    async fn open(&self) -> Result<Session, SetupError> {
        let mut session = Session::open(self, &[]).await.map_err(|error| self.setup_error(error))?;
        session.begin_if_pooled().await.map_err(|error| self.setup_error(error))?;
        Ok(session)
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
        let prefixes = format!("{}.tablecast_prefixes", schema.table.schema);
        let found = if config.prefix.is_none() {
            // A semicolon follows the colon, so this is the range of one prefix's channels.
            let sql = format!(
                "SELECT prefix FROM {prefixes} WHERE EXISTS (
                   SELECT FROM {} WHERE channel >= convert_to(prefix || ':', 'UTF8')
                     AND channel < convert_to(prefix || ';', 'UTF8'))",
                schema.table.name
            );
            sqlx::query_scalar(AssertSqlSafe(sql))
                .persistent(false)
                .fetch_all(&mut session.connection)
                .await?
        } else {
            let sql = format!("INSERT INTO {prefixes} SELECT $1, {} ON CONFLICT DO NOTHING", schema::now());
            sqlx::query(AssertSqlSafe(sql))
                .persistent(false)
                .bind(config.prefix.as_str())
                .execute(&mut session.connection)
                .await?;
            Vec::new()
        };
        session.end_if_pooled().await?;
        Ok(found)
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.options.fmt(f)
    }
}
