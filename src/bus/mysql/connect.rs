//! Connections, what is behind them, and rows as text.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use tokio::time::timeout;

use super::schema::SetupError;
use crate::bus::patience::in_time;

/// A connection, and the server behind it.
pub struct Session {
    pub connection: MySqlConnection,
    pub server: Server,
}

/// What a connection is for, and so how its session is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    SetUp,
    Tail,
    Writer,
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Server {
    pub is_mariadb: bool,
    /// The account by which it knows us, as GRANT writes it.
    pub account: String,
    pub database: String,
    variables: HashMap<String, String>,
}

/// What one server knows and another doesn't isn't in the answer, and no error.
const VARIABLES: &str = "SHOW VARIABLES WHERE Variable_name IN (
  'auto_increment_increment', 'binlog_format', 'datadir', 'group_replication_group_name',
  'group_replication_single_primary_mode', 'hostname', 'innodb_read_only', 'innodb_thread_concurrency',
  'log_bin', 'log_bin_trust_function_creators', 'lower_case_table_names', 'max_allowed_packet', 'memsql_version',
  'port', 'read_only', 'server_uid', 'server_uuid', 'wsrep_on')";

impl Session {
    pub async fn open(options: &MySqlConnectOptions, purpose: Purpose) -> Result<Self, sqlx::Error> {
        in_time(async {
            let mut connection = MySqlConnection::connect_with(options).await?;
            let server = Server::ask(&mut connection).await?;
            connection.execute(AssertSqlSafe(server.settings(purpose))).await?;
            Ok(Self { connection, server })
        })
        .await
    }

    /// Runs a statement, or several, sent as text.
    pub async fn run(&mut self, sql: impl Into<String>) -> Result<(), sqlx::Error> {
        self.connection.execute(AssertSqlSafe(sql.into())).await.map(drop)
    }

    /// The rows of a statement sent as text: see [`text`] and [`number`].
    pub async fn rows(&mut self, sql: impl Into<String>) -> Result<Vec<MySqlRow>, sqlx::Error> {
        self.connection.fetch_all(AssertSqlSafe(sql.into())).await
    }

    pub async fn row(&mut self, sql: impl Into<String>) -> Result<Option<MySqlRow>, sqlx::Error> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// Ends a transaction that failed, if the server still answers.
    pub async fn roll_back(&mut self) {
        let _ = in_time(self.run("ROLLBACK")).await;
    }

    pub async fn close(self) {
        // A server that is gone needn't be told.
        let _ = timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}

impl Server {
    async fn ask(connection: &mut MySqlConnection) -> Result<Self, sqlx::Error> {
        let sql = "SELECT VERSION(), @@version_comment, DATABASE(), CURRENT_USER()";
        let row = connection.fetch_one(sql).await?;
        let (version, comment) = (text(&row, 0)?.unwrap_or_default(), text(&row, 1)?.unwrap_or_default());
        let is_mariadb =
            kind(&version, &comment).map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let (database, user) = (text(&row, 2)?, text(&row, 3)?.unwrap_or_default());
        let database = database.ok_or_else(|| sqlx::Error::Configuration(SetupError::NoName.into()))?;
        let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
        let account = format!("'{name}'@'{host}'");
        let mut variables = HashMap::new();
        for row in connection.fetch_all(VARIABLES).await? {
            variables.insert(text(&row, 0)?.unwrap_or_default(), text(&row, 1)?.unwrap_or_default());
        }
        Ok(Self { is_mariadb, account, database, variables })
    }

    #[cfg(test)]
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { is_mariadb: false, account: "'a'@'%'".into(), database: "app".into(), variables }
    }

    /// A setting; empty where it doesn't exist.
    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.variable(name), "ON" | "1")
    }

    pub fn number(&self, name: &str) -> u64 {
        self.variable(name).parse().unwrap_or_default()
    }

    /// Which server it is, for as long as its data stays where it is.
    pub fn identity(&self) -> String {
        let own = ["server_uuid", "server_uid"].map(|name| self.variable(name)).concat();
        if own.is_empty() {
            ["hostname", "port", "datadir"].map(|name| self.variable(name)).join(":")
        } else {
            own
        }
    }

    /// What a table, a view or a column of this database is called in a GRANT.
    pub fn grant(&self, rights: &str, on: &str) -> String {
        format!("GRANT {rights} ON `{}`.{on} TO {}", self.database, self.account)
    }

    /// What holds whatever the server's defaults are. Waiting for locks ends before our patience
    /// does, so that the server says what it was.
    fn settings(&self, purpose: Purpose) -> String {
        let common = "SET NAMES utf8mb4;
          SET SESSION autocommit = 1, time_zone = '+00:00', sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'";
        // Statements are logged as text there, which READ COMMITTED forbids (1665). The tail's are
        // transactions of their own, so that each sees the present in either.
        let logs_statements = self.is_on("log_bin") && self.variable("binlog_format") == "STATEMENT";
        let level = if logs_statements { "REPEATABLE READ" } else { "READ COMMITTED" };
        let own = match (purpose, self.is_mariadb) {
            (Purpose::SetUp, _) => "lock_wait_timeout = 10",
            (Purpose::Tail, true) => "lock_wait_timeout = 4, max_statement_time = 10",
            (Purpose::Tail, false) => "lock_wait_timeout = 4, max_execution_time = 10000",
            (Purpose::Writer, true) => {
                "lock_wait_timeout = 4, innodb_lock_wait_timeout = 3, max_statement_time = 5, idle_transaction_timeout = 10"
            }
            (Purpose::Writer, false) => {
                "lock_wait_timeout = 4, innodb_lock_wait_timeout = 3, wait_timeout = 120"
            }
        };
        // MySQL would tell the counter of a day ago.
        let fresh = if self.is_mariadb { "" } else { ", information_schema_stats_expiry = 0" };
        format!("{common}, {own}{fresh}; SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    }
}

/// Whether it is MariaDB, or MySQL. Others that speak the protocol draw ids in blocks, or on
/// several nodes.
fn kind(version: &str, comment: &str) -> Result<bool, SetupError> {
    let says = |mark: &str| version.contains(mark) || comment.contains(mark);
    let others = ["TiDB", "Vitess", "PlanetScale", "OceanBase", "SingleStore", "Doris", "StarRocks"];
    if let Some(other) = others.into_iter().find(|other| says(other)) {
        return Err(SetupError::AnotherKind(other));
    }
    let is_mariadb = says("MariaDB");
    let (name, oldest) = if is_mariadb { ("MariaDB", [10, 6, 0]) } else { ("MySQL", [8, 0, 16]) };
    let number = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found: [u32; 3] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    if found < oldest {
        let oldest = oldest.map(|part| part.to_string()).join(".");
        return Err(SetupError::TooOld {
            found: format!("{name} {number}"),
            oldest: format!("{name} {oldest}"),
        });
    }
    Ok(is_mariadb)
}

/// A column of a statement that was sent as text: then all are text, whatever their type.
pub fn text(row: &MySqlRow, column: usize) -> Result<Option<String>, sqlx::Error> {
    Ok(bytes(row, column)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

pub fn bytes(row: &MySqlRow, column: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
    row.try_get_unchecked(column)
}

pub fn number<T: FromStr>(row: &MySqlRow, column: usize) -> Result<Option<T>, sqlx::Error> {
    let Some(text) = text(row, column)? else { return Ok(None) };
    let number = text.parse().map_err(|_| sqlx::Error::Decode(format!("no number: {text:?}").into()));
    number.map(Some)
}

/// As SQL writes text where backslashes escape.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A script without its comments: what is sent often is short.
pub fn bare(script: &str) -> String {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The error's number, if the server sent it.
pub fn code(error: &sqlx::Error) -> Option<u16> {
    let error = error.as_database_error()?;
    Some(error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_what_they_say() {
        assert!(kind("10.11.19-MariaDB-0+deb12u1", "Debian 12").unwrap());
        assert!(kind("11.4.2-MariaDB-log", "").unwrap());
        assert!(!kind("8.0.16", "MySQL Community Server - GPL").unwrap());
        assert!(!kind("8.4.0-1", "Percona Server (GPL)").unwrap());
        for (version, comment, said) in [
            ("10.5.29-MariaDB", "", "MariaDB 10.5.29"),
            ("8.0.15", "MySQL", "MySQL 8.0.15"),
            ("5.7.44-log", "MySQL", "8.0.16"),
            ("8.0.11-TiDB-v7.5.1", "TiDB Server", "TiDB"),
            ("8.0.30-Vitess", "", "Vitess"),
            ("5.7.25", "OceanBase_CE 4.2.1", "OceanBase"),
        ] {
            let error = kind(version, comment).unwrap_err().to_string();
            assert!(error.contains(said), "{version}: {error}");
        }
    }

    #[test]
    fn text_is_written_so_that_it_is_read_back() {
        assert_eq!(literal(r"it's a \ in it"), r"'it''s a \\ in it'");
    }
}
