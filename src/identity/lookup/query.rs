//! The operator's query, taken apart as far as is needed: where its one parameter stands, and which
//! column that is compared with.

use super::lexer::{Dialect, Lexer, Token, TokenKind};

/// The column by which a row says which session it is.
pub const KEY_COLUMN: &str = "session_key";

/// A query, as the pieces around its parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// As it was given.
    pub plain: Pieces,
    /// With the column that the parameter is compared with among its columns, named [`KEY_COLUMN`]. None
    /// where it isn't seen which one that is.
    pub with_key: Option<Pieces>,
}

/// What stands before the parameter, and what after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    pub head: String,
    pub tail: String,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("a quotation or a comment in it has no end")]
    Unterminated,
    #[error("it must be one SELECT, such as SELECT user_id FROM sessions WHERE id = $1")]
    NotASelect,
    #[error("it has no parameter: write $1 (or ?) where the session's key belongs")]
    NoParameter,
    #[error("it has {0} parameters; the session's key is the only one, written once, as $1 or ?")]
    Parameters(usize),
    #[error(
        "it isn't seen which column is the session's key: write WHERE column = $1, or select that column AS {KEY_COLUMN} too"
    )]
    NoKey,
    #[error("it gives no column but the session's key; the first one says who is signed in")]
    NoColumn,
    #[error("it gives {0} columns; at most {MAX_COLUMNS} can be claims")]
    TooManyColumns(usize),
    #[error("it gives two columns named {0}; name one of them otherwise with AS")]
    Twice(String),
    #[error("its parameter is of type {0}; cast it to bigint, uuid or text, as in column = $1::text")]
    ParameterType(String),
    #[error("the database refuses it: {0}")]
    Refused(String),
}

/// Each claim of each connection is memory.
pub const MAX_COLUMNS: usize = 32;

impl Query {
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, QueryError> {
        let mut tokens: Vec<Token> =
            Lexer::new(text, dialect).collect::<Option<_>>().ok_or(QueryError::Unterminated)?;
        while tokens.last().is_some_and(|token| token.kind == TokenKind::Semicolon) {
            tokens.pop();
        }
        let begins_well = tokens.first().is_some_and(|token| {
            token.kind == TokenKind::Word && (token.is_word("select") || token.is_word("with"))
        });
        if !begins_well || tokens.iter().any(|token| token.kind == TokenKind::Semicolon) {
            return Err(QueryError::NotASelect);
        }
        let marks = marks(&tokens);
        let &[mark] = marks.as_slice() else {
            return Err(if marks.is_empty() {
                QueryError::NoParameter
            } else {
                QueryError::Parameters(marks.len())
            });
        };
        let end = tokens.last().map_or(text.len(), |token| token.end());
        let tail = text[tokens[mark].end()..end].to_owned();
        let head = &text[..tokens[mark].at];
        let with_key = selecting_key(text, &tokens[..mark]).map(|(from, column)| Pieces {
            head: format!("{}, {column} AS {KEY_COLUMN} {}", &text[..from], &head[from..]),
            tail: tail.clone(),
        });
        Ok(Self { plain: Pieces { head: head.to_owned(), tail }, with_key })
    }
}

/// Where the parameters stand. A question mark is one where no `$1` is: PostgreSQL has operators that
/// are written so.
fn marks(tokens: &[Token]) -> Vec<usize> {
    let of = |kind| (0..tokens.len()).filter(|&at| tokens[at].kind == kind).collect::<Vec<_>>();
    let dollars = of(TokenKind::Parameter);
    if dollars.is_empty() { of(TokenKind::QuestionMark) } else { dollars }
}

/// Where the FROM stands before which a column can be added to those that the query gives, and the
/// column that is compared with the parameter behind these tokens.
fn selecting_key<'t>(text: &'t str, before: &[Token<'t>]) -> Option<(usize, &'t str)> {
    let (equals, rest) = before.split_last()?;
    if equals.text != "=" {
        return None;
    }
    let mut start = rest.len();
    loop {
        let name = start.checked_sub(1)?;
        if !rest[name].is_name() {
            return None;
        }
        start = name;
        match start.checked_sub(1) {
            Some(dot) if rest[dot].text == "." => start = dot,
            _ => break,
        }
    }
    // An operator there would make it a part of something else.
    if rest[..start].last()?.kind != TokenKind::Word {
        return None;
    }
    let column = &text[rest[start].at..rest.last()?.end()];

    let mut depth = 0_usize;
    let mut from = None;
    for token in &rest[..start] {
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.checked_sub(1)?,
            TokenKind::Word if depth == 0 && token.is_word("select") => from = None,
            TokenKind::Word if depth == 0 && from.is_none() && token.is_word("from") => {
                from = Some(token.at);
            }
            _ => {}
        }
    }
    // Within parentheses its column can't be seen from outside.
    if depth == 0 { from.map(|from| (from, column)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_key(text: &str) -> String {
        let query = Query::parse(text, Dialect::Postgres).unwrap();
        let pieces = query.with_key.expect("its key is seen");
        format!("{}•{}", pieces.head, pieces.tail)
    }

    #[test]
    fn the_column_that_is_compared_is_selected_too() {
        for (given, made) in [
            (
                "SELECT user_id FROM sessions WHERE id = $1",
                "SELECT user_id , id AS session_key FROM sessions WHERE id = •",
            ),
            (
                "select distinct u.id, u.admin from sessions s join users u on u.id = s.user_id where s.token=? limit 1 ;",
                "select distinct u.id, u.admin , s.token AS session_key from sessions s join users u on u.id = s.user_id where s.token=• limit 1",
            ),
            (
                r#"WITH s AS (SELECT * FROM sessions) SELECT user_id FROM s WHERE "s" . "id" = $1::uuid -- the key"#,
                r#"WITH s AS (SELECT * FROM sessions) SELECT user_id , "s" . "id" AS session_key FROM s WHERE "s" . "id" = •::uuid"#,
            ),
            (
                "SELECT extract(day FROM at) FROM sessions WHERE active AND id = $1",
                "SELECT extract(day FROM at) , id AS session_key FROM sessions WHERE active AND id = •",
            ),
        ] {
            assert_eq!(with_key(given), made);
        }
    }

    #[test]
    fn where_the_key_is_not_seen_it_is_not_guessed() {
        for text in [
            "SELECT user_id FROM sessions WHERE id::text = $1",
            "SELECT user_id FROM sessions WHERE a + id = $1",
            "SELECT user_id FROM sessions WHERE lower(token) = $1",
            "SELECT user_id FROM sessions WHERE id > $1",
            "SELECT user_id FROM sessions WHERE id <= $1",
            "SELECT user_id FROM sessions WHERE id = ANY($1)",
            "SELECT user_id FROM sessions WHERE id IN ($1)",
            "SELECT user_id FROM (SELECT * FROM sessions WHERE id = $1) AS s",
            "SELECT session_user($1)",
        ] {
            assert_eq!(Query::parse(text, Dialect::Postgres).unwrap().with_key, None, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, error) in [
            ("", QueryError::NotASelect),
            ("DELETE FROM sessions WHERE id = $1", QueryError::NotASelect),
            ("SELECT 1 FROM s WHERE id = $1; DROP TABLE s", QueryError::NotASelect),
            ("SELECT user_id FROM sessions", QueryError::NoParameter),
            ("SELECT user_id FROM sessions WHERE id = '$1' -- $1 ?", QueryError::NoParameter),
            ("SELECT user_id FROM sessions WHERE id = $1 OR token = $1", QueryError::Parameters(2)),
            ("SELECT user_id FROM sessions WHERE id = $1 AND a = $2", QueryError::Parameters(2)),
            ("SELECT user_id FROM sessions WHERE id = ? OR b = ?", QueryError::Parameters(2)),
            ("SELECT user_id FROM sessions WHERE id = '", QueryError::Unterminated),
        ] {
            assert_eq!(Query::parse(text, Dialect::Postgres), Err(error), "{text}");
        }
    }

    #[test]
    fn a_question_mark_beside_a_numbered_parameter_is_an_operator() {
        let query =
            Query::parse("SELECT user_id FROM s WHERE data ? 'a' AND id = $1", Dialect::Postgres).unwrap();
        assert_eq!(query.plain.head, "SELECT user_id FROM s WHERE data ? 'a' AND id = ");
    }
}
