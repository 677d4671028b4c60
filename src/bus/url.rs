use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::sqlite::Location;

/// Which database holds the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(Location),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it has no scheme; a SQLite file is written sqlite:path/to/file.db")]
    NoScheme,
    #[error("{0}: this version speaks to SQLite alone (sqlite: or sqlite3:)")]
    Unsupported(String),
    #[error("unknown scheme {0}; known are sqlite: and sqlite3:")]
    UnknownScheme(String),
    #[error("it names no file")]
    NoFile,
    #[error("a database in memory is seen by no other process; name a file")]
    Memory,
    #[error("unknown parameter {0}; known are timeout (milliseconds) and pool, which is ignored")]
    UnknownParameter(String),
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
            "postgres" | "postgresql" | "mysql" | "mysql2" | "trilogy" => {
                Err(UrlError::Unsupported(scheme.into()))
            }
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
            (name, _) => return Err(UrlError::UnknownParameter(name.into())),
        }
    }
    Ok(location)
}

fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Sqlite(location) = self;
        write!(f, "SQLite {}", location.path.display())
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
            let DatabaseUrl::Sqlite(location) = DatabaseUrl::parse(url).unwrap();
            assert_eq!(location.path, PathBuf::from(path), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_says_why() {
        for (url, part) in [
            ("tablecast.db", "no scheme"),
            ("sqlite:", "names no file"),
            ("sqlite::memory:", "no other process"),
            ("postgres://h/db", "SQLite alone"),
            ("redis://h", "unknown scheme redis"),
            ("sqlite:x.db?modus=ro", "unknown parameter modus"),
            ("sqlite:x.db?timeout=soon", "milliseconds"),
        ] {
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
