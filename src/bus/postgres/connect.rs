//! Connections: straight to the server, or through a pooler that lends another one for each
//! transaction.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor, Postgres, Row};
use tokio::time::timeout;

use crate::bus::patience::in_time;

/// A connection, and what is behind it.
pub struct Session {
    pub connection: PgConnection,
    /// A pooler stands between (PgBouncer), so that nothing lasts from one transaction to the
    /// next: no prepared statement, no setting, no LISTEN, no session's lock.
    pub pooled: bool,
}

/// What is set by the startup packet arrives at the server only where nobody stands between:
/// a pooler either refuses it or keeps it to itself.
pub const MARK: &str = "tablecast.direct";

impl Session {
    /// Connects. `settings` are for the session; a pooler's has none.
    pub async fn open(
        options: &PgConnectOptions,
        settings: &[(&'static str, &'static str)],
    ) -> Result<Self, sqlx::Error> {
        in_time(Self::connect(options, settings)).await
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
                return Ok(Self { connection: PgConnection::connect_with(&plain).await?, pooled: true });
            }
            Err(error) => return Err(error),
        };
        let pooled = !is_direct(&mut connection).await?;
        Ok(Self { connection, pooled })
    }

    /// Begins a transaction where prepared statements and settings need one to hold.
    pub async fn begin_if_pooled(&mut self) -> Result<(), sqlx::Error> {
        if self.pooled { self.begin().await } else { Ok(()) }
    }

    pub async fn end_if_pooled(&mut self) -> Result<(), sqlx::Error> {
        if self.pooled { self.commit().await } else { Ok(()) }
    }

    pub async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("BEGIN").await.map(drop)
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
    let row = connection.fetch_one("SELECT current_setting('tablecast.direct', true)").await?;
    Ok(row.try_get::<Option<&str>, _>(0)? == Some("on"))
}

pub fn refuses_startup_parameters(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("startup parameter"))
}
