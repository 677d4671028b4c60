//! Connections: straight to the server, or through a pooler that lends another one for each
//! transaction.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres, Row};
use tokio::time::timeout;

use super::Database;
use crate::bus::patience::in_time;

/// A connection, and what is behind it.
pub struct Session {
    pub connection: PgConnection,
    /// A pooler stands between (PgBouncer), so that nothing lasts from one transaction to the
    /// next: no prepared statement, no setting, no LISTEN, no session's lock.
    pub pooled: bool,
    /// Where the table is, or would be made, as SQL quotes it. None: the role has no schema.
    pub schema: Option<String>,
    /// Names are looked up in pg_catalog alone.
    is_guarded: bool,
}

/// Whoever may CREATE in a schema of our search_path could otherwise lend us an operator or a
/// function that fits what we wrote better than PostgreSQL's own, and have our rights in it.
const GUARD: &str = "SET {{local}} search_path TO pg_catalog, pg_temp";

/// What is set by the startup packet arrives at the server only where nobody stands between:
/// a pooler either refuses it or keeps it to itself.
pub const MARK: &str = "tablecast.direct";

impl Session {
    /// Connects, and looks where the table is by the role's own search_path. From then on that is
    /// pg_catalog. `settings` are for the session; a pooler's has none.
    pub async fn open(
        database: &Database,
        settings: &[(&'static str, &'static str)],
    ) -> Result<Self, sqlx::Error> {
        in_time(async {
            let mut session = Self::connect(&database.0.options, settings).await?;
            let sql = format!(
                "SELECT pg_catalog.quote_ident(coalesce(
                   (SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
                      ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                    WHERE c.oid OPERATOR(pg_catalog.=)
                      pg_catalog.to_regclass('\"{}\"'::pg_catalog.text)::pg_catalog.oid),
                   pg_catalog.current_schema()::pg_catalog.text))",
                database.0.table
            );
            session.schema = session.connection.fetch_one(AssertSqlSafe(sql)).await?.try_get(0)?;
            if !session.pooled {
                session.connection.execute(AssertSqlSafe(GUARD.replace("{{local}}", ""))).await?;
            }
            Ok(session)
        })
        .await
    }

    /// Gives the session the role's own search_path back: triggers that others put on the table
    /// may need it. What is run from now on names each operator's schema, or is exact.
    pub async fn unguard(&mut self) -> Result<(), sqlx::Error> {
        self.is_guarded = false;
        if self.pooled { Ok(()) } else { self.connection.execute("RESET search_path").await.map(drop) }
    }

    async fn connect(
        options: &PgConnectOptions,
        settings: &[(&'static str, &'static str)],
    ) -> Result<Self, sqlx::Error> {
        let direct = options.clone().options(settings.iter().copied().chain([(MARK, "on")]));
        let mut connection = match PgConnection::connect_with(&direct).await {
            Ok(connection) => connection,
            Err(error) if refuses_startup_parameters(&error) => {
                let plain = options.clone().extra_float_digits(None);
                let connection = PgConnection::connect_with(&plain).await?;
                return Ok(Self { connection, pooled: true, schema: None, is_guarded: true });
            }
            Err(error) => return Err(error),
        };
        let pooled = !is_direct(&mut connection).await?;
        Ok(Self { connection, pooled, schema: None, is_guarded: true })
    }

    /// Begins a transaction where prepared statements and settings need one to hold.
    pub async fn begin_if_pooled(&mut self) -> Result<(), sqlx::Error> {
        if self.pooled { self.begin().await } else { Ok(()) }
    }

    pub async fn end_if_pooled(&mut self) -> Result<(), sqlx::Error> {
        if self.pooled { self.commit().await } else { Ok(()) }
    }

    pub async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let guard = if self.pooled && self.is_guarded { GUARD } else { "" };
        let begin = format!("BEGIN; {}", guard.replace("{{local}}", "LOCAL"));
        self.connection.execute(AssertSqlSafe(begin)).await.map(drop)
    }

    pub async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("COMMIT").await.map(drop)
    }

    pub async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("ROLLBACK").await.map(drop)
    }

    pub async fn ping(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("SELECT 1").await.map(drop)
    }

    pub async fn close(self) {
        // A server that is gone needn't be told.
        let _ = timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}

/// Whether the mark that was set by the startup packet has arrived.
pub async fn is_direct<'c>(connection: impl Executor<'c, Database = Postgres>) -> Result<bool, sqlx::Error> {
    // Not prepared: nobody knows yet where that would be.
    let row = connection.fetch_one("SELECT pg_catalog.current_setting('tablecast.direct', true)").await?;
    Ok(row.try_get::<Option<&str>, _>(0)? == Some("on"))
}

pub fn refuses_startup_parameters(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("startup parameter"))
}
