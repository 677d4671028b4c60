//! Asking a SQLite file, which is opened to be read.

use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row, SqlSafeStr};

use super::key::Key;
use super::query::Query;
use super::source::{
    ACQUIRE_TIMEOUT, Fault, Found, IDLE_TIMEOUT, Meaning, STATEMENT_TIMEOUT, ask, columns, parameters,
    unreachable,
};
use super::statement::{Described, Prepared, plain, probe};
use crate::bus::patience::in_time;
use crate::bus::sqlite::Location;

#[derive(Debug)]
pub struct Source {
    pub location: Location,
    options: SqliteConnectOptions,
    pool: SqlitePool,
}

/// The path may lead to another file by then, whose sessions count.
const LONGEST_LIFE: Duration = Duration::from_secs(60);
/// How many steps of SQLite's machine lie between two looks at the clock: some tens of microseconds.
const STEPS: i32 = 10_000;

impl Source {
    pub fn new(location: &Location, connections: u32) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(&location.path)
            .read_only(true)
            .busy_timeout(location.busy_timeout.min(ACQUIRE_TIMEOUT))
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(LONGEST_LIFE)
            .connect_lazy_with(options.clone());
        Self { location: location.clone(), options, pool }
    }

    pub async fn reach(&self) -> Result<(), Fault> {
        let reached = in_time(async { self.options.connect().await?.close().await }).await;
        reached.map_err(|error| unreachable(&error))
    }

    pub async fn prepare(&self, query: &Query) -> Result<Prepared<()>, Fault> {
        let (pieces, described) = ask(&self.pool, meaning, async |connection| {
            let plainly = describe(connection, probe(&query.plain, "?1")).await?;
            let found = match plain(query, &plainly) {
                Ok(pieces) => Ok((pieces.clone(), describe(connection, probe(&pieces, "?1")).await?)),
                Err(error) => Err(error),
            };
            // What is remembered of a statement would be told again when the table is another.
            connection.clear_cached_statements().await?;
            Ok(found)
        })
        .await??;
        Ok(Prepared::new(pieces, described)?)
    }

    pub async fn rows(&self, asking: &Prepared<()>, keys: &[Key]) -> Result<Vec<Found>, Fault> {
        let row = asking.object(|column| {
            (format!("'{}'", column.replace('\'', "''")), format!("\"{}\"", column.replace('"', "\"\"")))
        });
        let sql = asking.statement(
            keys.len(),
            |at| at.to_string(),
            &format!("json_object({row})"),
            |at| format!("?{at}"),
        );
        ask(&self.pool, meaning, async move |connection| {
            let deadline = Instant::now() + STATEMENT_TIMEOUT;
            connection.lock_handle().await?.set_progress_handler(STEPS, move || Instant::now() < deadline);
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(keys.len() == 1);
            for key in keys {
                query = query.bind(key.as_str());
            }
            let rows = query.fetch_all(connection).await?;
            rows.iter().map(|row| Ok((row.try_get::<i64, _>(0)? as usize, row.try_get(1)?))).collect()
        })
        .await
    }
}

async fn describe(connection: &mut SqliteConnection, sql: String) -> Result<Described<()>, sqlx::Error> {
    let statement = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    Ok(Described { columns: columns(&statement), parameters: parameters(&statement) })
}

/// Result codes: busy, locked, interrupted, reading failed, damaged, can't be opened, no database.
fn meaning(error: &dyn DatabaseError) -> Meaning {
    let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    match code & 0xff {
        5 | 6 | 9 | 10 | 11 | 14 | 26 => Meaning::Away,
        _ => Meaning::Refused,
    }
}
