use std::time::Duration;

use super::{Values, duration, positive};
use crate::bus::DatabaseUrl;
use crate::identity::lookup::{LookupConfig, Query};

impl LookupConfig {
    /// None where there is no query. `own` is the database of the messages, which may be that of the
    /// sessions too.
    pub fn resolve(values: &mut Values, own: &DatabaseUrl) -> Option<Self> {
        let url = values.optional("session-database-url", database_url);
        let text = values.optional("session-query", |text| Ok(text.to_owned()));
        let recheck = values.parse("session-recheck", |text| match text {
            "off" => Ok(None),
            _ => match duration(text)? {
                time if time < SHORTEST_RECHECK => Err("it must be a second at least, or off".to_owned()),
                time => Ok(Some(time)),
            },
        });
        let cache = values.parse("session-cache", |text| match text {
            "0" => Ok(Duration::ZERO),
            _ => duration(text),
        });
        let connections = values.parse("session-connections", positive);
        let Some(text) = text else {
            if url.is_some() {
                values.complain("--session-database-url is nothing without --session-query".to_owned());
            }
            return None;
        };
        let url = url.unwrap_or_else(|| own.clone());
        match Query::of(&text, &url) {
            Ok(query) => Some(Self { url, query, recheck, cache, connections }),
            Err(error) => {
                values.complain(format!("--session-query {text:?}: {error}"));
                None
            }
        }
    }
}

/// More often than that, batches for many connections would be one burst after the other.
const SHORTEST_RECHECK: Duration = Duration::from_secs(1);

fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    DatabaseUrl::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;
    use crate::config::{Group, args};

    fn resolve(arguments: &[&str]) -> Result<Option<LookupConfig>, String> {
        let command = Command::new("serve").args(args(&Group::ALL)).no_binary_name(true);
        let mut values = Values::isolated(&command.try_get_matches_from(arguments).unwrap());
        let own = DatabaseUrl::parse("sqlite:own.db").unwrap();
        let config = LookupConfig::resolve(&mut values, &own);
        values.finish().map(|()| config).map_err(|error| error.to_string())
    }

    const QUERY: &str = "SELECT user_id FROM sessions WHERE id = $1";

    #[test]
    fn without_a_query_nothing_is_looked_up() {
        assert!(resolve(&[]).unwrap().is_none());
        let error = resolve(&["--session-database-url", "sqlite:a.db"]).unwrap_err();
        assert!(error.contains("--session-query"), "{error}");
    }

    #[test]
    fn a_query_alone_is_asked_of_the_messages_database() {
        let config = resolve(&["--session-query", QUERY]).unwrap().unwrap();
        assert_eq!(config.url, DatabaseUrl::parse("sqlite:own.db").unwrap());
        assert_eq!(config.recheck, Some(Duration::from_secs(60)));
        assert_eq!((config.cache, config.connections), (Duration::from_secs(5), 4));
    }

    #[test]
    fn every_setting_counts() {
        let config = resolve(&[
            "--session-query",
            QUERY,
            "--session-database-url",
            "postgres://h/app",
            "--session-recheck=off",
            "--session-cache=0",
            "--session-connections=2",
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(config.url.to_string(), "PostgreSQL h:5432/app");
        assert_eq!((config.recheck, config.cache, config.connections), (None, Duration::ZERO, 2));
    }

    #[test]
    fn what_is_wrong_is_told_without_a_password() {
        for (arguments, said) in [
            (["--session-query", "SELECT user_id FROM sessions"], "--session-query"),
            (["--session-recheck", "10ms"], "a second at least"),
            (["--session-cache", "often"], "--session-cache"),
            (["--session-connections", "0"], "from 1 on"),
            (["--session-database-url", "postgres://u:quiet@h/a?sslmod=require"], "sslmod"),
        ] {
            let error = resolve(&arguments).unwrap_err();
            assert!(error.contains(said) && !error.contains("quiet"), "{error}");
        }
    }
}
