use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::postgres;
use super::sqlite::Location;

/// Which database holds the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(Location),
    Postgres(postgres::Location),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it has no scheme; a SQLite file is written sqlite:path/to/file.db")]
    NoScheme,
    #[error("{0}: this version speaks to SQLite and PostgreSQL")]
    Unsupported(String),
    #[error("it is no PostgreSQL URL ({0}); one is written postgres://user:password@host:5432/database")]
    Postgres(String),
    #[error("unknown scheme {0}; known are sqlite: and postgres:")]
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
            "postgres" | "postgresql" => Ok(Self::Postgres(parse_postgres(rest)?)),
            "mysql" | "mysql2" | "trilogy" => Err(UrlError::Unsupported(scheme.into())),
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

fn parse_postgres(rest: &str) -> Result<postgres::Location, UrlError> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if POSTGRES_PARAMETERS.contains(&name) {
            kept.push(pair);
        } else if !RAILS_PARAMETERS.contains(&name) {
            return Err(UrlError::UnknownParameter(name.into(), POSTGRES_PARAMETERS.join(", ")));
        }
    }
    let url = format!("postgres:{place}?{}", kept.join("&"));
    postgres::Location::parse(&url).map_err(|error| UrlError::Postgres(error.to_string()))
}

fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(location) => write!(f, "SQLite {}", location.path.display()),
            Self::Postgres(location) => location.fmt(f),
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
    fn what_is_no_url_says_why() {
        for (url, part) in [
            ("tablecast.db", "no scheme"),
            ("sqlite:", "names no file"),
            ("sqlite::memory:", "no other process"),
            ("mysql://h/db", "SQLite and PostgreSQL"),
            ("postgres://h/db?sslmod=require", "unknown parameter sslmod"),
            ("redis://h", "unknown scheme redis"),
            ("sqlite:x.db?modus=ro", "unknown parameter modus"),
            ("sqlite:x.db?timeout=soon", "milliseconds"),
        ] {
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
