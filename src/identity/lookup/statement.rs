//! The statement that is sent: the operator's query in parentheses, once for each key, so that it can do
//! nothing but select, gives two rows at most, and gives each as one JSON document.

use super::key::Key;
use super::query::{KEY_COLUMN, MAX_COLUMNS, Pieces, Query, QueryError};

/// A query, and what its database says of it. `P` is how that names a parameter's type.
#[derive(Debug)]
pub struct Prepared<P> {
    pieces: Pieces,
    /// Its columns but for the key's.
    pub columns: Vec<String>,
    pub parameter: P,
}

/// What a parameter takes, so that no database has to turn one type into another: MySQL finds row 42
/// for `42abc`, and PostgreSQL fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Integer { min: i128, max: i128 },
    Uuid,
    Text,
}

impl Takes {
    pub fn admits(self, key: &Key) -> bool {
        match self {
            Self::Integer { min, max } => key.integer().is_some_and(|key| (min..=max).contains(&key)),
            Self::Uuid => key.uuid().is_some(),
            Self::Text => true,
        }
    }

    /// A key that it takes, to try a query with.
    pub fn example(self) -> &'static str {
        match self {
            Self::Integer { .. } => "1",
            Self::Uuid => "00000000-0000-0000-0000-000000000000",
            Self::Text => "tablecast",
        }
    }
}

/// What a database says of a statement that it has prepared.
pub struct Described<P> {
    pub columns: Vec<String>,
    pub parameters: Vec<P>,
}

/// The pieces to be prepared first: all columns of the query as it is.
pub fn plain<P>(query: &Query, described: &Described<P>) -> Result<Pieces, QueryError> {
    let has_key = described.columns.iter().any(|column| column.eq_ignore_ascii_case(KEY_COLUMN));
    if has_key { Ok(query.plain.clone()) } else { query.with_key.clone().ok_or(QueryError::NoKey) }
}

impl<P> Prepared<P> {
    pub fn new(pieces: Pieces, described: Described<P>) -> Result<Self, QueryError> {
        let count = described.parameters.len();
        let Ok([parameter]) = <[P; 1]>::try_from(described.parameters) else {
            return Err(QueryError::Parameters(count));
        };
        let mut columns = described.columns;
        let all = columns.len();
        columns.retain(|column| !column.eq_ignore_ascii_case(KEY_COLUMN));
        if all > columns.len() + 1 {
            return Err(QueryError::Twice(KEY_COLUMN.to_owned()));
        }
        if columns.is_empty() {
            return Err(QueryError::NoColumn);
        }
        if columns.len() > MAX_COLUMNS {
            return Err(QueryError::TooManyColumns(columns.len()));
        }
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].contains(column) {
                return Err(QueryError::Twice(column.clone()));
            }
        }
        Ok(Self { pieces, columns, parameter })
    }

    /// The statement for so many keys. `number` writes a column's number, `row` makes a row of
    /// `found` a document, `mark` writes a parameter, of which the first is 1.
    pub fn statement(
        &self,
        keys: usize,
        number: impl Fn(usize) -> String,
        row: &str,
        mark: impl Fn(usize) -> String,
    ) -> String {
        let Pieces { head, tail } = &self.pieces;
        let one = |at| {
            let (number, mark) = (number(at), mark(at + 1));
            format!(
                "SELECT {number} AS n, {row} AS found FROM (SELECT * FROM ({head}{mark}{tail}\n) AS asked LIMIT 2) AS found"
            )
        };
        (0..keys).map(one).collect::<Vec<_>>().join("\nUNION ALL\n")
    }

    /// All columns with the key's, each as its name in a text and as `quote` writes it in SQL.
    pub fn object(&self, quote: impl Fn(&str) -> (String, String)) -> String {
        let columns = self.columns.iter().map(String::as_str).chain([KEY_COLUMN]);
        let pairs = columns.map(|column| {
            let (text, name) = quote(column);
            format!("{text}, found.{name}")
        });
        pairs.collect::<Vec<_>>().join(", ")
    }
}

/// What is prepared to learn of a query.
pub fn probe(pieces: &Pieces, mark: &str) -> String {
    format!("SELECT * FROM ({}{mark}{}\n) AS asked", pieces.head, pieces.tail)
}
