//! Who a session belongs to, as the application's own database says.
//!
//! A cookie may name a session and not its user, and it stays good after a logout: only the row tells.
//! The operator writes the query, `SELECT user_id FROM sessions WHERE id = $1`; its first column says who
//! it is, and all its columns are claims.
//!
//! # A key matches exactly, or not at all
//!
//! Databases are generous in comparing. MySQL finds row 42 for `42abc`, SQLite for `042`, a
//! collation `ABC` for `abc`. So the row has to say which session it is: the column that is compared
//! with the parameter is selected too ([`query`]), and what it holds must be the key, character for
//! character. An upper-case UUID, or one without hyphens, is therefore no key of a column of that
//! type, since no database prints it so.
//!
//! # What it can't do
//!
//! Change anything: sessions are read-only, and the query stands in parentheses ([`statement`]), where
//! nothing but a SELECT can. Take long: waiting for a connection ends after 3 s, a statement after 5 s.
//! Grow: connections, rows in memory and columns are bounded, and whoever asks for what is being
//! asked already waits for the same answer.
//!
//! # When the database is away
//!
//! Nobody new is let in, and nobody is sent away: see [`recheck`].

mod key;
mod lexer;
mod mysql;
mod postgres;
mod query;
mod recheck;
mod source;
mod sqlite;
mod statement;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use parking_lot::Mutex;
use serde_json::{Map, Value};

pub use key::Key;
pub use query::{Query, QueryError};
pub use recheck::{Ended, OpenSession, recheck};

use self::lexer::Dialect;
use self::source::{Asking, Fault, Source};
use crate::bus::DatabaseUrl;
use crate::telemetry::OnceAMinute;

/// What to ask, and how often.
#[derive(Debug, Clone)]
pub struct LookupConfig {
    pub url: DatabaseUrl,
    pub query: Query,
    /// How often the keys of open connections are asked for again. None: never.
    pub recheck: Option<Duration>,
    /// How long a row that was found is good for other connections of the same key.
    pub cache: Duration,
    pub connections: u32,
}

/// A session that is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// Who it belongs to: the first column.
    pub user: Value,
    /// Every column by its name, the first one too. Integers keep all their digits.
    pub claims: Map<String, Value>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It may be there again soon: a client is refused, and may come back.
    #[error("the database of --session-query is away: {0}")]
    Away(Arc<str>),
    /// Nobody can be identified until this is mended.
    #[error("--session-query: {0}")]
    Query(#[from] QueryError),
}

/// Asks for sessions. Cheap to clone.
#[derive(Clone)]
pub struct Lookup(Arc<Inner>);

struct Inner {
    source: Source,
    query: Query,
    /// The query as its database took it, and when.
    asking: Mutex<Option<(Instant, Arc<Asking>)>>,
    cache: Cache<Key, Option<Arc<Row>>>,
    recheck: Option<Duration>,
    told: Mutex<OnceAMinute>,
}

/// Rows that are kept, and keys without one.
const CACHED: u64 = 10_000;
/// A session may be made right after it was asked for.
const LONGEST_ABSENCE: Duration = Duration::from_secs(1);
/// After this the tables may be others, of which not every database says so.
const LOOKED_AT_FOR: Duration = Duration::from_secs(60);
/// Keys of one statement.
const BATCH: usize = 100;
/// A row as JSON. A claim is a name or a number, and stays in memory for as long as its connection.
const MAX_ROW_BYTES: usize = 16 * 1024;

impl Query {
    /// Takes a query apart as the database that it is for would.
    pub fn of(text: &str, url: &DatabaseUrl) -> Result<Self, QueryError> {
        let dialect = match url {
            DatabaseUrl::Postgres(_) => Dialect::Postgres,
            DatabaseUrl::Mysql(_) => Dialect::Mysql,
            DatabaseUrl::Sqlite(_) => Dialect::Sqlite,
        };
        Self::parse(text, dialect)
    }
}

impl Lookup {
    /// Connects to nothing yet: the database may be away. To be called within a runtime.
    pub fn new(config: &LookupConfig) -> Self {
        let freshness = Freshness { found: config.cache, absent: config.cache.min(LONGEST_ABSENCE) };
        Self(Arc::new(Inner {
            source: Source::new(&config.url, config.connections),
            query: config.query.clone(),
            asking: Mutex::default(),
            recheck: config.recheck,
            cache: Cache::builder().max_capacity(CACHED).expire_after(freshness).build(),
            told: Mutex::default(),
        }))
    }

    /// How often the sessions of open connections are to be asked for again; none: never.
    pub fn recheck_interval(&self) -> Option<Duration> {
        self.0.recheck
    }

    /// Whether the database can be reached and answers the query: the names of its columns, the first
    /// of which says who it is.
    pub async fn check(&self) -> Result<Vec<String>, LookupError> {
        self.0.source.reach().await.map_err(LookupError::from)?;
        let asking = self.0.asking().await?;
        // That it may not be read is known once it is.
        let example = Key::new(&asking.takes().example().into()).expect("an example is a key");
        self.0.rows(&[example]).await?;
        Ok(asking.columns().to_vec())
    }

    /// The session of a key; none if there is none, or if nobody is signed in by it. All who ask at
    /// once for the same key are answered by the same row.
    pub async fn ask(&self, key: &Key) -> Result<Option<Arc<Row>>, LookupError> {
        let ask = async {
            let (inner, keys) = (self.0.clone(), [key.clone()]);
            // Whoever asks may be gone before the database has answered, and the connection isn't.
            let asked = tokio::spawn(async move { inner.rows(&keys).await }).await;
            let mut rows = asked.map_err(|error| LookupError::Away(error.to_string().into()))??;
            Ok(rows.pop().flatten())
        };
        let found: Result<_, Arc<LookupError>> = self.0.cache.try_get_with_by_ref(key, ask).await;
        found.map_err(|error| (*error).clone())
    }

    /// The sessions of these keys as the database has them now, in batches, one after the other, by one
    /// connection at a time.
    pub async fn ask_many(&self, keys: &[Key]) -> Result<Vec<Option<Arc<Row>>>, LookupError> {
        let mut all = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let (inner, batch) = (self.0.clone(), batch.to_vec());
            let asked = tokio::spawn(async move {
                let rows = inner.rows(&batch).await?;
                for (key, row) in batch.into_iter().zip(&rows) {
                    inner.cache.insert(key, row.clone()).await;
                }
                Ok::<_, LookupError>(rows)
            });
            all.extend(asked.await.map_err(|error| LookupError::Away(error.to_string().into()))??);
        }
        Ok(all)
    }
}

impl Inner {
    async fn asking(&self) -> Result<Arc<Asking>, LookupError> {
        let known = self.asking.lock().clone();
        match known {
            Some((at, asking)) if at.elapsed() < LOOKED_AT_FOR => Ok(asking),
            _ => {
                let asking = Arc::new(self.source.prepare(&self.query).await?);
                *self.asking.lock() = Some((Instant::now(), asking.clone()));
                Ok(asking)
            }
        }
    }

    async fn rows(&self, keys: &[Key]) -> Result<Vec<Option<Arc<Row>>>, LookupError> {
        let asking = self.asking().await?;
        let mut rows = vec![None; keys.len()];
        let admitted: Vec<usize> = (0..keys.len()).filter(|&at| asking.takes().admits(&keys[at])).collect();
        let asked: Vec<Key> = admitted.iter().map(|&at| keys[at].clone()).collect();
        match self.found(&asking, &asked).await {
            Ok(found) => {
                for (at, row) in admitted.into_iter().zip(found) {
                    rows[at] = row;
                }
            }
            // One of them: the others have an answer. A row that can't be read is nobody's, but where
            // none can it is the query's fault.
            Err(Fault::Key | Fault::Query(_)) if asked.len() > 1 => {
                let (mut answered, mut refused) = (false, None);
                for (at, key) in admitted.into_iter().zip(&asked) {
                    match self.found(&asking, std::slice::from_ref(key)).await {
                        Ok(mut found) => {
                            answered = true;
                            rows[at] = found.pop().flatten();
                        }
                        Err(Fault::Key) => answered = true,
                        Err(fault @ Fault::Query(_)) => refused = Some(fault),
                        Err(fault) => return Err(fault.into()),
                    }
                }
                if let Some(fault) = refused.filter(|_| !answered) {
                    *self.asking.lock() = None;
                    return Err(fault.into());
                }
            }
            Err(Fault::Key) => {}
            Err(fault) => {
                // Its tables may be others by now.
                if matches!(fault, Fault::Query(_)) {
                    *self.asking.lock() = None;
                }
                return Err(fault.into());
            }
        }
        Ok(rows)
    }

    async fn found(&self, asking: &Asking, keys: &[Key]) -> Result<Vec<Option<Arc<Row>>>, Fault> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut documents: Vec<Vec<String>> = vec![Vec::new(); keys.len()];
        for (at, document) in self.source.rows(asking, keys).await? {
            documents[at].push(document);
        }
        let row = |(key, documents): (&Key, Vec<String>)| {
            let row = match documents.as_slice() {
                [] => return None,
                [document] => read(document, key, &asking.columns()[0]),
                _ => Err("it finds several rows for one session"),
            };
            row.unwrap_or_else(|reason| {
                if self.told.lock().is_due() {
                    tracing::warn!("--session-query: {reason}; who has such a session is not let in");
                }
                None
            })
            .map(Arc::new)
        };
        Ok(keys.iter().zip(documents).map(row).collect())
    }
}

/// A row, if it is this key's and somebody's.
fn read(document: &str, key: &Key, first: &str) -> Result<Option<Row>, &'static str> {
    if document.len() > MAX_ROW_BYTES {
        return Err("a row is larger than 16 KiB");
    }
    let mut claims: Map<String, Value> =
        serde_json::from_str(document).map_err(|_| "a row can't be read as JSON")?;
    let session = claims.iter().find(|(name, _)| name.eq_ignore_ascii_case(query::KEY_COLUMN));
    let Some((name, session)) = session.map(|(name, session)| (name.clone(), session.clone())) else {
        return Err("a row doesn't say which session it is");
    };
    if !key.is(&session) {
        return Ok(None);
    }
    claims.remove(&name);
    let user = claims.get(first).cloned().unwrap_or_default();
    match &user {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Number(number) if number.as_i64() == Some(0) => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        // A number with a fraction, or one of which digits were lost.
        Value::Number(number) if number.is_f64() => Err("the first column is no integer; cast it to text"),
        Value::Array(_) | Value::Object(_) => Err("the first column is neither a number nor a text"),
        _ => Ok(Some(Row { user, claims })),
    }
}

/// How long an answer is good.
struct Freshness {
    found: Duration,
    absent: Duration,
}

impl Freshness {
    fn of(&self, row: &Option<Arc<Row>>) -> Option<Duration> {
        Some(if row.is_some() { self.found } else { self.absent })
    }
}

impl Expiry<Key, Option<Arc<Row>>> for Freshness {
    fn expire_after_create(&self, _: &Key, row: &Option<Arc<Row>>, _: Instant) -> Option<Duration> {
        self.of(row)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        row: &Option<Arc<Row>>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.of(row)
    }
}

impl From<Fault> for LookupError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(reason) => Self::Away(reason.into()),
            Fault::Query(error) => Self::Query(error),
            Fault::Key => Self::Query(QueryError::Refused("it can't do with this key".to_owned())),
        }
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup({self})")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_as(document: &str, key: Value) -> Result<Option<Row>, &'static str> {
        read(document, &Key::new(&key).unwrap(), "user_id")
    }

    #[test]
    fn a_row_counts_only_if_it_is_the_keys() {
        let found = |key| read_as(r#"{"user_id":7,"session_key":42}"#, key).unwrap().is_some();
        assert!(found(json!(42)) && found(json!("42")));
        for key in ["42abc", "042", "+42", "42.0", "4.2e1", "43", "abc"] {
            assert!(!found(json!(key)), "{key}");
        }
        let found = |key| read_as(r#"{"user_id":7,"session_key":"aB"}"#, key).unwrap().is_some();
        assert!(found(json!("aB")) && !found(json!("ab")) && !found(json!("aB\u{301}")));
    }

    #[test]
    fn digits_are_not_lost() {
        let row = read_as(
            r#"{"user_id":18446744073709551615,"SESSION_KEY":9007199254740993}"#,
            json!(9_007_199_254_740_993_u64),
        );
        let row = row.unwrap().unwrap();
        assert_eq!(row.user, json!(u64::MAX));
        assert_eq!(Value::Object(row.claims), json!({ "user_id": u64::MAX }));
        assert!(read_as(r#"{"user_id":18446744073709551616,"session_key":1}"#, json!(1)).is_err());
    }

    #[test]
    fn nobody_is_signed_in_as_nothing() {
        for user in ["null", "0", "false", r#""""#] {
            let document = format!(r#"{{"user_id":{user},"session_key":1}}"#);
            assert_eq!(read_as(&document, json!(1)), Ok(None), "{user}");
        }
        for user in ["[7]", "{}", "7.5"] {
            let document = format!(r#"{{"user_id":{user},"session_key":1}}"#);
            assert!(read_as(&document, json!(1)).is_err(), "{user}");
        }
    }
}
