use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::NON_ALPHANUMERIC;

use super::sqlite::Location;
use super::{mysql, postgres};

/// Which database holds the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(Location),
    Postgres(postgres::Location),
    Mysql(mysql::Location),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it has no scheme; a SQLite file is written sqlite:path/to/file.db")]
    NoScheme,
    #[error("it is no PostgreSQL URL ({0}); one is written postgres://user:password@host:5432/database")]
    Postgres(String),
    #[error("it is no MySQL URL ({0}); one is written mysql://user:password@host:3306/database")]
    Mysql(String),
    #[error("it names no host; one of this machine is localhost, or ?socket=FILE")]
    NoHost,
    #[error("user and password in it hold / or @, which are written %2F and %40 there")]
    Unencoded,
    #[error("unknown scheme {0}; known are sqlite:, postgres: and mysql:")]
    UnknownScheme(String),
    #[error("it names no file")]
    NoFile,
    #[error("a database in memory is seen by no other process; name a file")]
    Memory,
    #[error("unknown parameter {0}; known are {1}")]
    UnknownParameter(String, String),
    #[error("timeout is milliseconds, not {0:?}")]
    Timeout(String),
}

impl DatabaseUrl {
    /// `sqlite://tablecast.db` (relative), `sqlite:///var/lib/app.db` (absolute), and as
    /// Rails writes it, `sqlite3:storage/production_cable.sqlite3?timeout=5000`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::NoScheme)?;
        match scheme {
            "sqlite" | "sqlite3" => Ok(Self::Sqlite(parse_sqlite(rest)?)),
            "postgres" | "postgresql" | "mysql" | "mysql2" | "trilogy" | "mariadb" if is_unencoded(rest) => {
                Err(UrlError::Unencoded)
            }
            "postgres" | "postgresql" => Ok(Self::Postgres(parse_postgres(rest)?)),
            "mysql" | "mysql2" | "trilogy" | "mariadb" => Ok(Self::Mysql(parse_mysql(rest)?)),
            _ => Err(UrlError::UnknownScheme(scheme.into())),
        }
    }
}

fn parse_sqlite(rest: &str) -> Result<Location, UrlError> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = percent_decode(path);
    if path.is_empty() {
        return Err(UrlError::NoFile);
    }
    if path == ":memory:" || path == "memory:" {
        return Err(UrlError::Memory);
    }

    let mut location = Location { path: PathBuf::from(path), busy_timeout: Duration::from_secs(5) };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("timeout", value) => {
                let millis = value.parse().map_err(|_| UrlError::Timeout(value.into()))?;
                location.busy_timeout = Duration::from_millis(millis);
            }
            ("pool", _) => {}
            (name, _) => {
                return Err(UrlError::UnknownParameter(
                    name.into(),
                    "timeout (milliseconds) and pool, which is ignored".into(),
                ));
            }
        }
    }
    Ok(location)
}

/// What PostgreSQL's own clients know, and what Rails writes beside it, which says nothing to us.
const POSTGRES_PARAMETERS: [&str; 16] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];
const RAILS_PARAMETERS: [&str; 9] = [
    "pool",
    "timeout",
    "encoding",
    "prepared_statements",
    "connect_timeout",
    "checkout_timeout",
    "reaping_frequency",
    "application_name",
    "adapter",
];

/// What MySQL's own clients know, in the ways in which drivers write it.
const MYSQL_PARAMETERS: [&str; 9] =
    ["ssl-mode", "sslmode", "ssl-ca", "sslca", "ssl-cert", "sslcert", "ssl-key", "sslkey", "socket"];
/// And how Rails and mysql2 write the same.
const MYSQL_SPELLINGS: [(&str, &str); 4] =
    [("ssl_mode", "ssl-mode"), ("ssl_ca", "ssl-ca"), ("ssl_cert", "ssl-cert"), ("ssl_key", "ssl-key")];
/// What says nothing to us: sessions are set as they must be.
const MYSQL_IGNORED: [&str; 6] =
    ["charset", "collation", "reconnect", "strict", "read_timeout", "write_timeout"];

fn parse_postgres(rest: &str) -> Result<postgres::Location, UrlError> {
    let mut kept = keep(rest, &POSTGRES_PARAMETERS, &[])?;
    if let Some(at) = missing_host(&kept) {
        // It is named by a parameter, or the usual one as for libpq.
        if !kept.contains("?host") && !kept.contains("&host") {
            let host = postgres::default_host();
            let host = percent_encoding::utf8_percent_encode(&host, NON_ALPHANUMERIC);
            kept = format!("{kept}&host={host}");
        }
        kept.insert_str(at, "localhost");
    }
    let url = format!("postgres:{kept}");
    postgres::Location::parse(&url).map_err(|error| UrlError::Postgres(error.to_string()))
}

fn parse_mysql(rest: &str) -> Result<mysql::Location, UrlError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let query: Vec<String> = query
        .split('&')
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let spelling = MYSQL_SPELLINGS.iter().find(|(other, _)| *other == name);
            spelling.map_or_else(|| pair.to_owned(), |(_, name)| format!("{name}={value}"))
        })
        .collect();
    let mut kept = keep(&format!("{place}?{}", query.join("&")), &MYSQL_PARAMETERS, &MYSQL_IGNORED)?;
    if let Some(at) = missing_host(&kept) {
        if !query.iter().any(|pair| pair.starts_with("socket=")) {
            return Err(UrlError::NoHost);
        }
        kept.insert_str(at, "localhost");
    }
    let url = format!("mysql:{kept}");
    mysql::Location::parse(&url).map_err(|error| UrlError::Mysql(error.to_string()))
}

/// A URL with the parameters that are known, and without those that say nothing to us.
fn keep(url: &str, known: &[&str], ignored: &[&str]) -> Result<String, UrlError> {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if known.contains(&name) {
            kept.push(pair);
        } else if !RAILS_PARAMETERS.contains(&name) && !ignored.contains(&name) {
            return Err(UrlError::UnknownParameter(name.into(), known.join(", ")));
        }
    }
    Ok(format!("{place}?{}", kept.join("&")))
}

/// Where a host would stand in a URL that has none, which can't be read beside a user or a port.
fn missing_host(url: &str) -> Option<usize> {
    let authority = url.strip_prefix("//")?.split(['/', '?']).next()?;
    let at = authority.rfind('@').map_or(0, |at| at + 1);
    let host = &authority[at..];
    (host.is_empty() || host.starts_with(':')).then_some("//".len() + at)
}

/// Whether what stands before the last @ can't be a user and a password. Read on, it would be taken for
/// a host's name, and shown.
fn is_unencoded(rest: &str) -> bool {
    let place = rest.split('?').next().unwrap_or_default();
    let login = place.trim_start_matches("//").rsplit_once('@').map_or("", |(login, _)| login);
    login.contains(['/', '@'])
}

fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(location) => write!(f, "SQLite {}", location.path.display()),
            Self::Postgres(location) => location.fmt(f),
            Self::Mysql(location) => location.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_urls_as_people_write_them() {
        for (url, path) in [
            ("sqlite://tablecast.db", "tablecast.db"),
            ("sqlite:tablecast.db", "tablecast.db"),
            ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
            ("sqlite:/var/lib/a.db", "/var/lib/a.db"),
            (
                "sqlite3:storage/production_cable.sqlite3?pool=5&timeout=100",
                "storage/production_cable.sqlite3",
            ),
            ("sqlite:with%20space.db", "with space.db"),
        ] {
            let Ok(DatabaseUrl::Sqlite(location)) = DatabaseUrl::parse(url) else { panic!("{url}") };
            assert_eq!(location.path, PathBuf::from(path), "{url}");
        }
    }

    #[test]
    fn mysql_urls_as_people_write_them() {
        for (url, shown) in [
            ("mysql://u:quiet@h/db", "MySQL h:3306/db"),
            ("mysql2://u:quiet%40@h:3307/db?pool=5&encoding=utf8mb4&timeout=5000", "MySQL h:3307/db"),
            ("trilogy://u@h/db?ssl_mode=verify_ca&ssl_ca=/ca.pem", "MySQL h:3306/db"),
            ("mariadb://u@localhost/db?socket=/run/s.sock", "MySQL /run/s.sock/db"),
            ("mysql://u@/db?socket=/run/s.sock", "MySQL /run/s.sock/db"),
            ("mysql:///db?socket=/run/s.sock", "MySQL /run/s.sock/db"),
        ] {
            let parsed = DatabaseUrl::parse(url).unwrap();
            assert_eq!(parsed.to_string(), shown, "{url}");
            assert!(!format!("{parsed:?}").contains("quiet"), "the password is never shown: {parsed:?}");
        }
    }

    #[test]
    fn postgres_urls_without_a_host_are_read_as_libpq_reads_them() {
        for (url, shown) in [
            ("postgres:///db?host=/run/p", "PostgreSQL /run/p/db"),
            ("postgres://u:quiet@/db?host=/run/p", "PostgreSQL /run/p/db"),
            ("postgresql://u@/db?host=h&port=5433", "PostgreSQL h:5433/db"),
            ("postgres://u@:5433/db?host=h", "PostgreSQL h:5433/db"),
        ] {
            assert_eq!(DatabaseUrl::parse(url).unwrap().to_string(), shown, "{url}");
        }
        for url in ["postgres:///db", "postgres://u@/db", "postgres://u:quiet@:5433/db?sslmode=disable"] {
            let shown = DatabaseUrl::parse(url).unwrap().to_string();
            assert!(shown.starts_with("PostgreSQL ") && !shown.contains(" :"), "{url}: {shown}");
        }
    }

    #[test]
    fn what_is_no_url_says_why() {
        for (url, part) in [
            ("tablecast.db", "no scheme"),
            ("sqlite:", "names no file"),
            ("sqlite::memory:", "no other process"),
            ("mysql://h/db?ssl_mod=required", "unknown parameter ssl_mod"),
            ("mysql://h", "names no database"),
            ("mysql://u@/db", "names no host"),
            ("mysql:///db", "socket=FILE"),
            ("mysql://u@:3307/db", "names no host"),
            ("mysql://h/db?ssl-mode=perhaps", "no MySQL URL"),
            ("postgres://h/db?sslmod=require", "unknown parameter sslmod"),
            ("postgres://u:p@ss/word@h/db", "%2F"),
            ("mysql://u:p@ss@h/db", "%40"),
            ("redis://h", "unknown scheme redis"),
            ("sqlite:x.db?modus=ro", "unknown parameter modus"),
            ("sqlite:x.db?timeout=soon", "milliseconds"),
        ] {
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
