//! Asking MySQL or MariaDB.

use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlPool, MySqlPoolOptions};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Executor, Row, SqlSafeStr, Statement, TypeInfo,
};

use super::key::Key;
use super::query::{KEY_COLUMN, Query};
use super::source::{
    ACQUIRE_TIMEOUT, Fault, Found, IDLE_TIMEOUT, Meaning, ask, columns, parameters, unreachable,
};
use super::statement::{Described, Prepared, Takes, plain, probe};
use crate::bus::mysql::Location;
use crate::bus::patience::in_time;

#[derive(Debug)]
pub struct Source {
    pub location: Location,
    options: MySqlConnectOptions,
    pool: MySqlPool,
}

/// Whatever the server's defaults are: quotation is what the lexer takes it for, nothing can be
/// written, and what is slow ends.
const SETTINGS: &str = "SET NAMES utf8mb4;
  SET SESSION autocommit = 1, time_zone = '+00:00', sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 3;
  SET SESSION TRANSACTION READ ONLY;
  SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

impl Source {
    pub fn new(location: &Location, connections: u32) -> Self {
        let options = MySqlConnectOptions::clone(location);
        let pool = MySqlPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(set_up(connection)))
            .connect_lazy_with(options.clone());
        Self { location: location.clone(), options, pool }
    }

    pub async fn reach(&self) -> Result<(), Fault> {
        let reached = in_time(async {
            let mut connection = self.options.connect().await?;
            set_up(&mut connection).await?;
            connection.close().await
        });
        reached.await.map_err(|error| unreachable(&error))
    }

    pub async fn prepare(&self, query: &Query) -> Result<Prepared<Takes>, Fault> {
        let (pieces, described) = ask(&self.pool, meaning, async |connection| {
            let plainly = describe(connection, probe(&query.plain, "?")).await?;
            let found = match plain(query, &plainly) {
                Ok(pieces) => Ok((pieces.clone(), describe(connection, probe(&pieces, "?")).await?)),
                Err(error) => Err(error),
            };
            // What is remembered of a statement would be told again when the table is another.
            connection.clear_cached_statements().await?;
            Ok(found)
        })
        .await??;
        Ok(Prepared::new(pieces, described)?)
    }

    pub async fn rows(&self, asking: &Prepared<Takes>, keys: &[Key]) -> Result<Vec<Found>, Fault> {
        let row = asking.object(|column| {
            let text = column.replace('\\', "\\\\").replace('\'', "''");
            (format!("'{text}'"), format!("`{}`", column.replace('`', "``")))
        });
        let sql = asking.statement(
            keys.len(),
            |at| at.to_string(),
            &format!("JSON_OBJECT({row})"),
            |_| "?".to_owned(),
        );
        let takes = asking.parameter;
        ask(&self.pool, meaning, async move |connection| {
            // The statements for one key are all the same, and prepared once.
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(keys.len() == 1);
            for key in keys {
                query = match (takes, key.integer()) {
                    (Takes::Integer { .. }, Some(integer)) => match i64::try_from(integer) {
                        Ok(integer) => query.bind(integer),
                        Err(_) => query.bind(u64::try_from(integer).expect("it was admitted")),
                    },
                    _ => query.bind(key.as_str()),
                };
            }
            let rows = query.fetch_all(connection).await?;
            rows.iter()
                .map(|row| Ok((row.try_get_unchecked::<i64, _>(0)? as usize, row.try_get_unchecked(1)?)))
                .collect()
        })
        .await
    }
}

async fn set_up(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    connection.execute(SETTINGS).await?;
    let version: String = connection.fetch_one("SELECT VERSION()").await?.try_get_unchecked(0)?;
    let limit = if version.contains("MariaDB") {
        "SET SESSION max_statement_time = 4"
    } else {
        "SET SESSION max_execution_time = 4000"
    };
    connection.execute(limit).await.map(drop)
}

/// Of a parameter the server says nothing: what its column holds says what it takes.
async fn describe(connection: &mut MySqlConnection, sql: String) -> Result<Described<Takes>, sqlx::Error> {
    let statement = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    let mut all = statement.columns().iter();
    let key = all.find(|column| column.name().eq_ignore_ascii_case(KEY_COLUMN));
    let takes = if key.is_some_and(|key| key.type_info().name().contains("INT")) {
        Takes::Integer { min: i64::MIN.into(), max: u64::MAX.into() }
    } else {
        Takes::Text
    };
    let parameters = parameters(&statement).iter().map(|()| takes).collect();
    Ok(Described { columns: columns(&statement), parameters })
}

/// By SQLSTATE: connection, resources, deadlock, a statement that was ended; and by number what has
/// none of its own: waiting for a lock, and MySQL's time limit.
fn meaning(error: &dyn DatabaseError) -> Meaning {
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
    match (number, error.code().unwrap_or_default().get(..2)) {
        (Some(1205 | 3024), _) | (_, Some("08" | "40" | "53" | "70")) => Meaning::Away,
        // Data that the query's own expressions can't do with.
        (_, Some("22")) => Meaning::Key,
        _ => Meaning::Refused,
    }
}
