//! The databases that can hold the table, behind one name each for what is done with them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::gaps::{Evidence, Facts, Request as GapRequest, Start};
use super::log::found::{Found, Latest, Ranges};
use super::position::Ids;
use super::request::{Outcome, Request};
use super::row::{Page, Row};
use super::{BusConfig, DatabaseUrl, Info, mysql, postgres, sqlite};
use crate::stream::Prefix;

/// How to get at the table. Cheap to clone; connections are opened from it.
#[derive(Debug, Clone)]
pub enum Database {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
    Mysql(mysql::Database),
}

/// The tail's connection: it only reads.
pub(super) enum Reader {
    Sqlite(sqlite::Reader),
    Postgres(postgres::Reader),
    Mysql(mysql::Reader),
}

/// The one connection that this process writes by.
pub(super) enum Writer {
    Sqlite(sqlite::Writer),
    Postgres(postgres::Writer),
    Mysql(Box<mysql::Writer>),
}

/// A connection that reads back.
pub(super) enum Replayer {
    Sqlite(sqlite::Replayer),
    Postgres(postgres::Replayer),
    Mysql(mysql::Replayer),
    #[cfg(test)]
    Simulated(super::simulation::Replayer),
}

/// What says that it is worth looking at the table. It outlives connections.
pub(super) enum Waker {
    Sqlite(sqlite::Changes),
    Postgres(postgres::Waker),
    Mysql(mysql::Waker),
}

/// Which life of the table a reader has seen, and how much of it: a table that was restored,
/// replaced or made anew leads another one.
#[derive(Debug, Clone)]
pub(super) enum History {
    Sqlite(sqlite::History),
    Postgres(postgres::History),
    Mysql(mysql::History),
}

/// What a database holds.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Not Rails: a server without prefix may trim all of it.
    pub made_by_tablecast: bool,
    /// Where an INSERT goes that names no prefix.
    pub default_prefix: Prefix,
    /// Whether SQL can publish, into this table.
    pub publishing: bool,
    /// Early generations of Solid Cable have it, NOT NULL.
    pub has_updated_at: bool,
    /// What works, and would work better otherwise: a sentence each, which says how.
    pub advice: Vec<String>,
}

/// What `migrate` is asked for, beside what it does anyway.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    pub default_prefix: DefaultPrefix,
    /// Prefixes for which to make a view that publishes under them alone.
    pub fences: Vec<Prefix>,
    /// Whether publishing notifies, which makes prepared transactions fail (PostgreSQL). None: as it
    /// is, at first only where there can't be any.
    pub notify: Option<bool>,
    /// Wake servers also for rows that go straight into the table (PostgreSQL).
    pub wake_trigger: bool,
}

/// The prefix that publishing by SQL uses where none is given.
#[derive(Debug, Clone)]
pub enum DefaultPrefix {
    /// This, unless one was set before.
    Initial(Prefix),
    /// This from now on.
    Set(Prefix),
}

impl Default for DefaultPrefix {
    fn default() -> Self {
        Self::Initial(Prefix::default())
    }
}

/// Why a database can't be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Sqlite(#[from] sqlite::SetupError),
    #[error(transparent)]
    Postgres(#[from] postgres::SetupError),
    #[error(transparent)]
    Mysql(#[from] mysql::SetupError),
}

/// What an error of a database means for what was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Another's lock: nothing was done, and may be tried again on this connection.
    Busy,
    /// A constraint or a trigger of somebody's making refused it, and will again.
    Refused,
    /// Nobody knows; a new connection may mend it.
    Away,
}

/// Runs an expression on whichever it is.
macro_rules! on {
    (Replayer, $self:expr, $it:ident => $body:expr) => {
        match $self {
            Replayer::Sqlite($it) => $body,
            Replayer::Postgres($it) => $body,
            Replayer::Mysql($it) => $body,
            #[cfg(test)]
            Replayer::Simulated($it) => $body,
        }
    };
    ($of:ident, $self:expr, $it:ident => $body:expr) => {
        match $self {
            $of::Sqlite($it) => $body,
            $of::Postgres($it) => $body,
            $of::Mysql($it) => $body,
        }
    };
}

impl Database {
    pub fn new(config: &BusConfig) -> Self {
        match &config.url {
            DatabaseUrl::Sqlite(location) => Self::Sqlite(sqlite::Database::new(location.clone(), config)),
            DatabaseUrl::Postgres(location) => {
                Self::Postgres(postgres::Database::new(location.clone(), config))
            }
            DatabaseUrl::Mysql(location) => Self::Mysql(mysql::Database::new(location.clone(), config)),
        }
    }

    /// For a server: reads what is there, or makes it (SQLite), and registers its prefix.
    pub async fn prepare(&self, config: &BusConfig) -> Result<Info, SetupError> {
        Ok(on!(Database, self, it => it.prepare(config).await?))
    }

    /// Makes what is missing, and upgrades what is older.
    pub async fn migrate(&self, migration: &Migration) -> Result<Schema, SetupError> {
        Ok(on!(Database, self, it => it.migrate(migration).await?))
    }

    /// The SQL that `migrate` would run; empty if there is nothing to do.
    pub async fn plan(&self, migration: &Migration) -> Result<String, SetupError> {
        Ok(on!(Database, self, it => it.plan(migration).await?))
    }

    /// Drops what `migrate` made, but for the table of messages.
    pub async fn uninstall(&self) -> Result<(), SetupError> {
        on!(Database, self, it => it.uninstall().await?);
        Ok(())
    }

    /// What is there, changing nothing.
    pub async fn inspect(&self) -> Result<Schema, SetupError> {
        Ok(on!(Database, self, it => it.inspect().await?))
    }

    pub(super) async fn reader(&self) -> Result<Reader, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Reader::Sqlite(database.reader().await?),
            Self::Postgres(database) => Reader::Postgres(database.reader().await?),
            Self::Mysql(database) => Reader::Mysql(database.reader().await?),
        })
    }

    pub(super) async fn writer(&self) -> Result<Writer, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Writer::Sqlite(database.writer().await?),
            Self::Postgres(database) => Writer::Postgres(database.writer().await?),
            Self::Mysql(database) => Writer::Mysql(Box::new(database.writer().await?)),
        })
    }

    pub(super) async fn replayer(&self) -> Result<Replayer, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(database) => Replayer::Sqlite(database.replayer().await?),
            Self::Postgres(database) => Replayer::Postgres(database.replayer().await?),
            Self::Mysql(database) => Replayer::Mysql(database.replayer().await?),
        })
    }

    pub(super) async fn waker(&self, own_writes: Arc<Notify>) -> Result<Waker, SetupError> {
        Ok(match self {
            Self::Sqlite(database) => Waker::Sqlite(database.changes(own_writes)?),
            Self::Postgres(database) => Waker::Postgres(database.waker(own_writes).await?),
            Self::Mysql(database) => Waker::Mysql(database.waker(own_writes)?),
        })
    }

    pub(super) fn setup_error(&self, error: sqlx::Error) -> SetupError {
        on!(Database, self, it => it.setup_error(error).into())
    }

    pub(super) fn trouble(&self, error: &sqlx::Error) -> Trouble {
        on!(Database, self, it => it.trouble(error))
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        on!(Database, self, it => it.fmt(f))
    }
}

impl Reader {
    pub fn evidence(&self) -> Evidence {
        on!(Reader, self, it => it.evidence())
    }

    /// What the table has.
    pub async fn start(&mut self) -> Result<Start, sqlx::Error> {
        on!(Reader, self, it => it.start().await)
    }

    /// Whether the next look can list transactions, if that is `wanted`.
    pub fn lists(&mut self, wanted: bool) -> bool {
        on!(Reader, self, it => it.lists(wanted))
    }

    /// One look at the table. None: it is as it was at the last one.
    pub async fn look(&mut self, request: &GapRequest, lists: bool) -> Result<Option<Page>, sqlx::Error> {
        on!(Reader, self, it => it.look(request, lists).await)
    }

    /// The ids of those among these late rows of which a newer one, up to `high`, is there.
    pub async fn superseded(&mut self, late: &[Row], high: i64) -> Result<Vec<i64>, sqlx::Error> {
        match self {
            // Nothing comes late.
            Self::Sqlite(_) => Ok(Vec::new()),
            Self::Postgres(reader) => reader.superseded(late, high).await,
            Self::Mysql(reader) => reader.superseded(late, high).await,
        }
    }

    /// Whether it still leads to where a new one would.
    pub fn is_current(&self) -> bool {
        on!(Reader, self, it => it.is_current())
    }

    pub fn history(&self) -> History {
        match self {
            Self::Sqlite(reader) => History::Sqlite(reader.history().clone()),
            Self::Postgres(reader) => History::Postgres(reader.history().clone()),
            Self::Mysql(reader) => History::Mysql(reader.history().clone()),
        }
    }

    /// The name of the life of the table that this reads, the same for all who read it. None: it has none.
    pub fn life(&self) -> Option<u64> {
        on!(Reader, self, it => it.history().name())
    }

    /// The database's clock: seconds since 1970.
    pub fn time(&self) -> i64 {
        on!(Reader, self, it => it.clock().now())
    }

    /// Whether this reads the table of which that was read, with all that was read of it.
    pub async fn follows(&mut self, before: &History) -> Result<bool, sqlx::Error> {
        match (self, before) {
            (Self::Sqlite(reader), History::Sqlite(before)) => Ok(reader.history().follows(before)),
            (Self::Postgres(reader), History::Postgres(before)) => reader.follows(before).await,
            (Self::Mysql(reader), History::Mysql(before)) => reader.follows(before).await,
            _ => Ok(false),
        }
    }

    pub async fn close(self) {
        on!(Reader, self, it => it.close().await);
    }
}

impl Replayer {
    /// In the order of ids.
    pub async fn ranges(&mut self, asked: Ranges<'_>) -> Result<Vec<Found>, sqlx::Error> {
        on!(Replayer, self, it => it.ranges(asked).await)
    }

    /// Of each that is asked for the last ones, newest first, with the times that they bear. Payloads up to
    /// `inline` bytes come with their rows.
    pub async fn latest(&mut self, asked: &[Latest<'_>], inline: usize) -> Result<Vec<Found>, sqlx::Error> {
        on!(Replayer, self, it => it.latest(asked, inline).await)
    }

    /// Of rows that were found, in any order; those that have gone meanwhile are missing.
    pub async fn payloads(&mut self, ids: &[i64]) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        on!(Replayer, self, it => it.payloads(ids).await)
    }

    /// Whether it still leads to where a new one would. `rested`: it may have died meanwhile.
    pub async fn is_current(&mut self, rested: bool) -> bool {
        match self {
            Self::Sqlite(replayer) => replayer.is_current(),
            Self::Postgres(replayer) => !rested || replayer.answers().await,
            Self::Mysql(replayer) => !rested || replayer.answers().await,
            #[cfg(test)]
            Self::Simulated(_) => true,
        }
    }
}

impl Writer {
    /// Commits a group of requests in one transaction, in their order: all of it
    /// or, with an error, nothing.
    pub async fn commit(&mut self, prefix: &Prefix, group: &[Request]) -> Result<Vec<Outcome>, sqlx::Error> {
        on!(Writer, self, it => it.commit(prefix, group).await)
    }

    /// Deletes a batch of rows older than `retention_secs` that were released; says
    /// whether there may be more.
    pub async fn trim(
        &mut self,
        lead: &str,
        released: &Ids,
        retention_secs: u64,
        batch: u32,
    ) -> Result<bool, sqlx::Error> {
        on!(Writer, self, it => it.trim(lead, released, retention_secs, batch).await)
    }

    /// Deletes a batch of what the helper tables needn't keep; says whether there may be more.
    pub async fn trim_helpers(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        on!(Writer, self, it => it.trim_helpers(batch).await)
    }

    /// The next trim looks at all rows again: some may have been written with an earlier time.
    pub fn trim_from_the_start(&mut self) {
        on!(Writer, self, it => it.trim_from_the_start());
    }

    /// Whether it still leads to where a new one would.
    pub async fn is_current(&mut self) -> bool {
        on!(Writer, self, it => it.is_current().await)
    }

    pub async fn close(self) {
        on!(Writer, self, it => it.close().await);
    }
}

impl Waker {
    /// Whether the next look should list transactions, for the sake of this.
    pub fn wants_facts(&self) -> bool {
        match self {
            Self::Sqlite(_) | Self::Mysql(_) => false,
            Self::Postgres(waker) => waker.wants_facts(),
        }
    }

    /// Whether each look costs the database something, also when nothing has changed.
    pub fn polls(&self) -> bool {
        !matches!(self, Self::Sqlite(_))
    }

    /// A look found the table changed, or these rows.
    pub fn looked(&mut self, rows: usize, facts: Option<&Facts>) {
        match self {
            Self::Sqlite(changes) => {
                changes.committed();
                changes.looked(rows);
            }
            Self::Postgres(waker) => waker.looked(rows, facts),
            Self::Mysql(waker) => waker.looked(rows),
        }
    }

    /// Waits until the table is worth a look: at the latest, and for no reason, after
    /// `longest`, or where writers notify, later. Cancel-safe.
    pub async fn rest(&mut self, reader: &mut Reader, longest: Duration) -> Result<(), sqlx::Error> {
        match (self, reader) {
            (Self::Sqlite(changes), _) => changes.worth_a_look(longest).await,
            (Self::Postgres(waker), Reader::Postgres(reader)) => waker.rest(reader, longest).await?,
            (Self::Mysql(waker), _) => waker.rest(longest).await,
            (Self::Postgres(_), _) => unreachable!("both are of one database"),
        }
        Ok(())
    }
}
