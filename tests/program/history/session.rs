use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::Stage;
use super::engine::Engine;

/// A connection to the database, of whichever kind.
pub enum Session {
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

pub struct RawRow {
    pub id: i64,
    pub channel: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Runs an expression on whichever it is.
macro_rules! on {
    ($session:expr, $it:ident => $body:expr) => {
        match $session {
            Session::Postgres($it) => $body,
            Session::MySql($it) => $body,
        }
    };
}

impl Session {
    pub async fn open(stage: &Stage) -> Result<Self, sqlx::Error> {
        Ok(match stage.engine {
            Engine::Postgres => Self::Postgres(PgConnection::connect(&stage.url).await?),
            Engine::MariaDb => Self::MySql(MySqlConnection::connect(&stage.url).await?),
        })
    }

    /// The process that serves it, where it has one of its own.
    pub async fn backend(&mut self) -> Result<Option<i32>, sqlx::Error> {
        Ok(match self {
            Self::Postgres(connection) => {
                Some(connection.fetch_one("SELECT pg_backend_pid()").await?.try_get(0)?)
            }
            Self::MySql(_) => None,
        })
    }

    /// Runs statements as text, as a shell does.
    pub async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        on!(self, connection => connection.execute(sql).await.map(drop))
    }

    /// Runs one statement as most drivers do: parsed, planned and executed in steps.
    pub async fn run_in_steps(&mut self, sql: String) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(connection) => {
                sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map(drop)
            }
            Self::MySql(connection) => {
                sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map(drop)
            }
        }
    }

    /// The next rows above an id.
    pub async fn read(&mut self, above: i64, limit: u32) -> Result<Vec<RawRow>, sqlx::Error> {
        let sql = format!(
            "SELECT id, channel, payload FROM solid_cable_messages WHERE id > {above} ORDER BY id LIMIT {limit}"
        );
        on!(self, connection => {
            let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            rows.iter()
                .map(|row| Ok(RawRow { id: row.try_get(0)?, channel: row.try_get(1)?, payload: row.try_get(2)? }))
                .collect()
        })
    }

    pub async fn last_id(&mut self) -> Result<i64, sqlx::Error> {
        let sql = "SELECT coalesce(max(id), 0) FROM solid_cable_messages";
        on!(self, connection => connection.fetch_one(sql).await?.try_get(0))
    }
}
