//! Connections to either database, and the rows that workers write.

use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, query, query_scalar, raw_sql};
use tokio::runtime::Runtime;

use crate::harness::clients::runtime;

pub enum Connection {
    Postgres(PgConnection),
    MariaDb(MySqlConnection),
}

/// By which way a message goes into the table.
#[derive(Clone, Copy)]
pub enum Way {
    /// INSERT INTO tablecast_publish.
    View,
    /// INSERT INTO solid_cable_messages with the hash computed before, as Rails does.
    Table,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Table => "table",
        }
    }

    pub fn named(name: &str) -> Self {
        if name == "view" { Self::View } else { Self::Table }
    }
}

pub struct Stream {
    pub name: String,
    pub hash: i64,
}

impl Stream {
    pub fn new(name: &str) -> Self {
        let digest = digest(&SHA256, name.as_bytes());
        let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Self { name: name.to_owned(), hash: i64::from_be_bytes(*first) }
    }
}

/// Does the same on either connection.
macro_rules! on {
    ($connection:expr, $inner:ident => $work:expr) => {
        match $connection {
            Connection::Postgres($inner) => $work,
            Connection::MariaDb($inner) => $work,
        }
    };
}

impl Connection {
    pub async fn open(url: &str) -> Result<Self, sqlx::Error> {
        Ok(if url.starts_with("postgres") {
            let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
            Self::Postgres(options.connect().await?)
        } else {
            let options = MySqlConnectOptions::from_str(url)?.disable_statement_logging();
            Self::MariaDb(options.connect().await?)
        })
    }

    /// Runs statements without parameters.
    pub async fn run(&mut self, sql: &str) {
        let result = on!(self, connection => {
            raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
        });
        result.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    }

    pub async fn numbers(&mut self, sql: &str) -> Vec<i64> {
        let result = on!(self, connection => query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await);
        result.unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let result = on!(self, connection => query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await);
        result.unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// A prepared statement for a single row: a transaction of its own where none is open.
    pub async fn insert(&mut self, way: Way, stream: &Stream, data: &str) {
        let Stream { name, hash } = stream;
        let result = match (self, way) {
            (Self::Postgres(connection), Way::View) => {
                query("INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2)")
                    .bind(name)
                    .bind(data)
                    .execute(connection)
                    .await
                    .map(drop)
            }
            (Self::MariaDb(connection), Way::View) => {
                query("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)")
                    .bind(name)
                    .bind(data)
                    .execute(connection)
                    .await
                    .map(drop)
            }
            (Self::Postgres(connection), Way::Table) => query(
                "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                 VALUES ($1, $2, clock_timestamp() AT TIME ZONE 'UTC', $3)",
            )
            .bind(name.as_bytes())
            .bind(data.as_bytes())
            .bind(hash)
            .execute(connection)
            .await
            .map(drop),
            (Self::MariaDb(connection), Way::Table) => query(
                "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                 VALUES (?, ?, UTC_TIMESTAMP(6), ?)",
            )
            .bind(name.as_bytes())
            .bind(data.as_bytes())
            .bind(hash)
            .execute(connection)
            .await
            .map(drop),
        };
        result.expect("the row is inserted");
    }
}

/// A connection for those who have nothing else to do meanwhile.
pub struct Session {
    connection: Connection,
    runtime: Runtime,
}

impl Session {
    pub fn try_open(url: &str) -> Result<Self, sqlx::Error> {
        let runtime = runtime();
        let connection = runtime.block_on(Connection::open(url))?;
        Ok(Self { connection, runtime })
    }

    pub fn open(url: &str) -> Self {
        Self::try_open(url).expect("the database answers")
    }

    pub fn run(&mut self, sql: &str) {
        self.runtime.block_on(self.connection.run(sql));
    }

    pub fn number(&mut self, sql: &str) -> i64 {
        self.numbers(sql)[0]
    }

    pub fn numbers(&mut self, sql: &str) -> Vec<i64> {
        self.runtime.block_on(self.connection.numbers(sql))
    }

    pub fn texts(&mut self, sql: &str) -> Vec<String> {
        self.runtime.block_on(self.connection.texts(sql))
    }
}
