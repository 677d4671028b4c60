//! Why a database can't be used, and what an error means for what was tried.

use sqlx::mysql::MySqlSslMode;

use super::Database;
use super::connect::code;
use crate::bus::database::Trouble;

/// Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{0} can't be reached ({1}): check host and port in --database-url, and that the server runs")]
    Unreachable(String, String),
    #[error("{0} refused the login: check user and password in --database-url ({1})")]
    Login(String, String),
    // MariaDB doesn't say which of the two it is.
    #[error(
        "{0} refused the login without TLS: add ?ssl-mode=required to --database-url, or check user and password ({1})"
    )]
    LoginWithoutTls(String, String),
    #[error("{0} wants TLS: add ?ssl-mode=required to --database-url ({1})")]
    TlsRequired(String, String),
    #[error(
        "{0}: TLS failed ({1}): ?ssl-mode=required encrypts without checking the certificate, with ?ssl-mode=verify_ca ?ssl-ca=FILE names who signed it, ?ssl-mode=disabled does without"
    )]
    Tls(String, String),
    #[error("{0}: there is no such database; create it, or name another in --database-url")]
    NoDatabase(String),
    #[error("--database-url names no database: mysql://user:password@host:3306/database")]
    NoName,
    #[error("{0} takes no more connections (tablecast needs two): raise its max_connections or close others")]
    TooManyConnections(String),
    #[error("this is {found}; tablecast needs {oldest} or newer")]
    TooOld { found: String, oldest: String },
    #[error(
        "this is {0}, which hands out ids in an order that can't be followed; tablecast needs MySQL or MariaDB itself"
    )]
    AnotherKind(&'static str),
    #[error(
        "{0} makes this a multi-primary cluster, where other nodes' open transactions can't be seen; tablecast can't follow it"
    )]
    MultiPrimary(&'static str),
    #[error("this server is read-only ({0}), as a replica is; name the primary in --database-url")]
    ReadOnly(String),
    #[error("there is no table {0} here: run `tablecast migrate`, or start with `serve --migrate`")]
    NoTable(String),
    #[error("{0} is {1}, not a plain table; choose another with --table")]
    NotATable(String, String),
    #[error(
        "table {table} is kept by {engine}, without transactions: run ALTER TABLE `{table}` ENGINE = InnoDB"
    )]
    NotInnoDb { table: String, engine: String },
    #[error(
        "table {table} has no column {columns}; it isn't Solid Cable's, or an early one: run Solid Cable's update generator (bin/rails generate solid_cable:update), or choose another with --table"
    )]
    MissingColumns { table: String, columns: String },
    #[error("column {column} of table {table} is {found}, not {wanted}; choose another table with --table")]
    WrongType { table: String, column: String, found: String, wanted: &'static str },
    #[error(
        "table {table} has a column {column} that is NOT NULL without a default, so that nobody but its owner can insert; choose another table with --table"
    )]
    ForeignColumn { table: String, column: String },
    #[error(
        "the id of table {0} isn't AUTO_INCREMENT and its primary key, so rows can't be followed; choose another with --table"
    )]
    NoAutoIncrement(String),
    #[error("{account} may not {what}: {cure}")]
    NoRights { account: String, what: String, cure: String },
    #[error(
        "{account} may not create triggers while the server writes a binary log ({answer}): have log_bin_trust_function_creators set to 1 (SET GLOBAL, or the service's parameters), or have what `tablecast migrate --print` shows run by an account with SUPER"
    )]
    BinaryLog { account: String, answer: String },
    #[error(
        "publishing by SQL in this database goes into table {0}: use --table {0}, or run `tablecast migrate --uninstall` with it first"
    )]
    OtherTable(String),
    #[error("--wake notify: MySQL and MariaDB have no notifications; use --wake auto or poll")]
    NoNotifications,
    #[error("--wake-trigger: MySQL and MariaDB have no notifications that it could send")]
    NoWakeTrigger,
    #[error("another `tablecast migrate` is running and did not end in time")]
    Busy,
    #[error(
        "a worker's open transaction that has published holds its table: end it (SHOW PROCESSLIST), and run `tablecast migrate` again"
    )]
    Locked,
    #[error("--fence {0}: a prefix that gets a table of its own is at most 45 letters, digits, _ and -{1}")]
    NotAFence(String, &'static str),
    #[error("the database answered: {0}")]
    Sqlx(sqlx::Error),
}

/// What is refused before the database is asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl From<Refusal> for sqlx::Error {
    fn from(refusal: Refusal) -> Self {
        Self::Configuration(refusal.into())
    }
}

impl From<SetupError> for sqlx::Error {
    fn from(error: SetupError) -> Self {
        Self::Configuration(error.into())
    }
}

impl SetupError {
    pub(super) fn from_sqlx(error: sqlx::Error, database: &Database) -> Self {
        let place = database.to_string();
        let message = match &error {
            // rustls tells what it found wrong this way.
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Self::Tls(place, error.to_string());
            }
            sqlx::Error::Io(error) => return Self::Unreachable(place, error.to_string()),
            // By caching_sha2_password a password goes through TLS, or not at all.
            sqlx::Error::Configuration(error) if error.to_string().contains("RSA") => {
                return Self::TlsRequired(place, "its login needs it".into());
            }
            sqlx::Error::Tls(error) => return Self::Tls(place, error.to_string()),
            sqlx::Error::Database(error) => error.message().to_owned(),
            _ => match error {
                // What inspecting found, on its way through the tail.
                sqlx::Error::Configuration(inner) if inner.is::<Self>() => {
                    return *inner.downcast().expect("it was just looked at");
                }
                other => return Self::Sqlx(other),
            },
        };
        let account = database.0.options.get_username().to_owned();
        match code(&error).unwrap_or_default() {
            3159 => Self::TlsRequired(place, message),
            1045 if matches!(database.0.options.get_ssl_mode(), MySqlSslMode::Disabled) => {
                Self::LoginWithoutTls(place, message)
            }
            1045 | 1130 | 1251 | 1698 => Self::Login(place, message),
            1049 => Self::NoDatabase(place),
            1040 | 1203 | 1226 => Self::TooManyConnections(place),
            1290 | 1836 => Self::ReadOnly(message),
            1419 => Self::BinaryLog { account, answer: message },
            code if LACKS_RIGHTS.contains(&code) => Self::NoRights {
                account,
                what: format!("do this ({message})"),
                cure: "grant it, or have what `tablecast migrate --print` shows run by an account that may"
                    .into(),
            },
            _ => Self::Sqlx(error),
        }
    }
}

/// Denied: to a database, a table, a column, a routine; and a global privilege is missing.
pub const LACKS_RIGHTS: [u16; 5] = [1044, 1142, 1143, 1370, 1227];

pub fn trouble(error: &sqlx::Error) -> Trouble {
    match error {
        sqlx::Error::RowNotFound => return Trouble::Busy,
        sqlx::Error::Configuration(inner) if inner.is::<Refusal>() => return Trouble::Refused,
        _ => {}
    }
    let state = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match code(error) {
        // Deadlock, lock wait timeout, a row that changed since the snapshot.
        Some(1213 | 1205 | 1020) => Trouble::Busy,
        // A CHECK of MySQL's; what doesn't fit into a packet.
        Some(3819 | 1153 | 1301) => Trouble::Refused,
        // A trigger's SIGNAL; data and constraints by class. (1040, 1044 and others of set-up have
        // the class of another.)
        Some(code) if state == "45000" || state.starts_with("22") || state.starts_with("23") => {
            if LACKS_RIGHTS.contains(&code) {
                Trouble::Away
            } else {
                Trouble::Refused
            }
        }
        _ => Trouble::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_here_is_no_outage() {
        assert_eq!(trouble(&Refusal("too large".into()).into()), Trouble::Refused);
        assert_eq!(trouble(&SetupError::NoName.into()), Trouble::Away);
        assert_eq!(trouble(&sqlx::Error::RowNotFound), Trouble::Busy);
        assert_eq!(trouble(&sqlx::Error::Protocol("garbled".into())), Trouble::Away);
    }
}
