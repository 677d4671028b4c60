//! The database that is asked, whichever it is.

use std::fmt;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::{Column, Either, Pool, Statement};
use tokio::time::timeout;

use super::key::Key;
use super::query::{Query, QueryError};
use super::statement::{Prepared, Takes};
use super::{mysql, postgres, sqlite};
use crate::bus::DatabaseUrl;
use crate::bus::patience::in_time;

/// How long to wait for a connection of the pool, and for a new one.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement may run. It ends before our own patience does, so that the server says what it was.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection may take to say that it is good for others.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that nobody needed for so long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What an error of the database means for what was asked.
#[derive(Debug)]
pub enum Fault {
    /// It can't be asked now.
    Away(String),
    /// The query is not one that it answers.
    Query(QueryError),
    /// It can't do with one of the keys what the query asks for.
    Key,
}

/// Where rows are found.
#[derive(Debug)]
pub enum Source {
    Postgres(postgres::Source),
    Mysql(mysql::Source),
    Sqlite(sqlite::Source),
}

/// A query that its database has looked at.
#[derive(Debug)]
pub enum Asking {
    Postgres(Prepared<postgres::Parameter>),
    Mysql(Prepared<Takes>),
    Sqlite(Prepared<()>),
}

/// A row as one JSON document, with the number of the key by which it was found.
pub type Found = (usize, String);

impl Source {
    /// Connects to nothing yet. Within a runtime.
    pub fn new(url: &DatabaseUrl, connections: u32) -> Self {
        match url {
            DatabaseUrl::Postgres(location) => Self::Postgres(postgres::Source::new(location, connections)),
            DatabaseUrl::Mysql(location) => Self::Mysql(mysql::Source::new(location, connections)),
            DatabaseUrl::Sqlite(location) => Self::Sqlite(sqlite::Source::new(location, connections)),
        }
    }

    /// Connects once, beside the pool, which doesn't say why it fails.
    pub async fn reach(&self) -> Result<(), Fault> {
        match self {
            Self::Postgres(source) => source.reach().await,
            Self::Mysql(source) => source.reach().await,
            Self::Sqlite(source) => source.reach().await,
        }
    }

    pub async fn prepare(&self, query: &Query) -> Result<Asking, Fault> {
        match self {
            Self::Postgres(source) => source.prepare(query).await.map(Asking::Postgres),
            Self::Mysql(source) => source.prepare(query).await.map(Asking::Mysql),
            Self::Sqlite(source) => source.prepare(query).await.map(Asking::Sqlite),
        }
    }

    /// At most two rows for each of these keys, all of which the query takes.
    pub async fn rows(&self, asking: &Asking, keys: &[Key]) -> Result<Vec<Found>, Fault> {
        match (self, asking) {
            (Self::Postgres(source), Asking::Postgres(asking)) => source.rows(asking, keys).await,
            (Self::Mysql(source), Asking::Mysql(asking)) => source.rows(asking, keys).await,
            (Self::Sqlite(source), Asking::Sqlite(asking)) => source.rows(asking, keys).await,
            _ => unreachable!("a query is asked of the database that prepared it"),
        }
    }
}

impl Asking {
    pub fn takes(&self) -> Takes {
        match self {
            Self::Postgres(asking) => asking.parameter.takes,
            Self::Mysql(asking) => asking.parameter,
            // A column's affinity turns a text into what it holds.
            Self::Sqlite(_) => Takes::Text,
        }
    }

    /// The columns that are claims, the first of which says who it is.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Postgres(asking) => &asking.columns,
            Self::Mysql(asking) => &asking.columns,
            Self::Sqlite(asking) => &asking.columns,
        }
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

/// What a database's answer means.
pub enum Meaning {
    Away,
    Key,
    Refused,
}

/// Runs what is asked on a connection of the pool. One that didn't answer isn't used again.
pub async fn ask<DB: sqlx::Database, T>(
    pool: &Pool<DB>,
    meaning: fn(&dyn DatabaseError) -> Meaning,
    ask: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
) -> Result<T, Fault> {
    let mut connection = pool.acquire().await.map_err(|error| unreachable(&error))?;
    let answer = in_time(ask(&mut connection)).await.map_err(|error| fault(&error, meaning));
    if matches!(answer, Err(Fault::Away(_))) {
        connection.close_on_drop();
    } else {
        // The pool looks whether it is good still, without a limit: what falls silent then would keep its
        // place until the kernel gives it up, a quarter of an hour later.
        let _ = timeout(RELEASE_TIMEOUT, connection.return_to_pool()).await;
    }
    answer
}

/// Why there is no connection. A login that is refused today may be granted tomorrow.
pub fn unreachable(error: &sqlx::Error) -> Fault {
    Fault::Away(match error {
        sqlx::Error::PoolTimedOut => format!("no connection within {} s", ACQUIRE_TIMEOUT.as_secs()),
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    })
}

fn fault(error: &sqlx::Error, meaning: fn(&dyn DatabaseError) -> Meaning) -> Fault {
    match error {
        sqlx::Error::Database(error) => match meaning(error.as_ref()) {
            Meaning::Away => Fault::Away(error.message().to_owned()),
            Meaning::Key => Fault::Key,
            Meaning::Refused => QueryError::Refused(error.message().to_owned()).into(),
        },
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            QueryError::Refused(error.to_string()).into()
        }
        _ => Fault::Away(error.to_string()),
    }
}

/// The names of a statement's columns.
pub fn columns(statement: &impl Statement) -> Vec<String> {
    statement.columns().iter().map(|column| column.name().to_owned()).collect()
}

/// A parameter for each that a statement has, where the database says no more of them.
pub fn parameters(statement: &impl Statement) -> Vec<()> {
    match statement.parameters() {
        Some(Either::Right(count)) => vec![(); count],
        _ => Vec::new(),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(source) => source.location.fmt(f),
            Self::Mysql(source) => source.location.fmt(f),
            Self::Sqlite(source) => write!(f, "SQLite {}", source.location.path.display()),
        }
    }
}
