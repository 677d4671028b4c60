//! SQL as a row of words and signs, so that what is quoted or a comment isn't taken for either.

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgres,
    Mysql,
    Sqlite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or a name.
    Word,
    /// A name in quotation marks.
    QuotedName,
    /// A text or a number.
    Literal,
    /// `$1`, and any other numbered one.
    Parameter,
    QuestionMark,
    Open,
    Close,
    Semicolon,
    /// Any other sign; an operator with all its characters.
    Sign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'t> {
    pub kind: TokenKind,
    /// Where it begins, in bytes.
    pub at: usize,
    pub text: &'t str,
}

impl Token<'_> {
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }

    pub fn is_word(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::QuotedName)
    }
}

/// Yields the tokens, and None in the place of a quotation or comment without an end, which is the last.
pub struct Lexer<'t> {
    text: &'t str,
    at: usize,
    dialect: Dialect,
}

/// What operators are written with.
const OPERATOR: &[u8] = b"=<>!:|&+-*/%^~@#";

impl<'t> Lexer<'t> {
    pub fn new(text: &'t str, dialect: Dialect) -> Self {
        Self { text, at: 0, dialect }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// The length of what the rest begins with, if that is a comment. None inside: it has no end.
    fn comment(&self) -> Option<Option<usize>> {
        let rest = self.rest();
        let line = |rest: &str| Some(Some(rest.find('\n').unwrap_or(rest.len())));
        match self.dialect {
            // Two minus signs are an operator there, but before white space.
            Dialect::Mysql if rest.starts_with("--") => {
                if rest[2..].chars().next().is_none_or(|c| c.is_whitespace() || c.is_control()) {
                    line(rest)
                } else {
                    None
                }
            }
            Dialect::Mysql if rest.starts_with('#') => line(rest),
            _ if rest.starts_with("--") => line(rest),
            _ if rest.starts_with("/*") => Some(self.block_comment()),
            _ => None,
        }
    }

    fn block_comment(&self) -> Option<usize> {
        let rest = self.rest().as_bytes();
        let (mut depth, mut at) = (1, 2);
        while depth > 0 {
            match rest.get(at..at + 2)? {
                b"*/" => {
                    depth -= 1;
                    at += 2;
                }
                // PostgreSQL's alone can stand in one another.
                b"/*" if self.dialect == Dialect::Postgres => {
                    depth += 1;
                    at += 2;
                }
                _ => at += 1,
            }
        }
        Some(at)
    }

    /// The length of a quotation that begins after `skip` bytes and ends with `mark`.
    fn quotation(&self, skip: usize, mark: u8, backslashes: bool) -> Option<usize> {
        let rest = self.rest().as_bytes();
        let mut at = skip + 1;
        loop {
            match *rest.get(at)? {
                b'\\' if backslashes => at += 2,
                byte if byte == mark && rest.get(at + 1) == Some(&mark) && mark != b']' => at += 2,
                byte if byte == mark => return Some(at + 1),
                _ => at += 1,
            }
        }
    }

    /// What begins with a dollar sign.
    fn dollar(&self) -> Option<(TokenKind, usize)> {
        let rest = self.rest();
        let name = rest[1..].find(|c: char| !is_in_name(c) || c == '$').unwrap_or(rest.len() - 1);
        let name = &rest[1..1 + name];
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let digits = name.bytes().take_while(u8::is_ascii_digit).count();
            return Some((TokenKind::Parameter, 1 + digits));
        }
        let tag = &rest[..name.len() + 1];
        if self.dialect != Dialect::Postgres || !rest[tag.len()..].starts_with('$') {
            return Some((TokenKind::Sign, tag.len()));
        }
        let tag = &rest[..tag.len() + 1];
        let end = rest[tag.len()..].find(tag)?;
        Some((TokenKind::Literal, tag.len() + end + tag.len()))
    }

    fn token(&self) -> Option<(TokenKind, usize)> {
        let rest = self.rest();
        let mysql = self.dialect == Dialect::Mysql;
        let next = rest.as_bytes().get(1).copied();
        Some(match rest.chars().next()? {
            'e' | 'E' if self.dialect == Dialect::Postgres && next == Some(b'\'') => {
                (TokenKind::Literal, self.quotation(1, b'\'', true)?)
            }
            '\'' => (TokenKind::Literal, self.quotation(0, b'\'', mysql)?),
            '"' if mysql => (TokenKind::Literal, self.quotation(0, b'"', true)?),
            '"' => (TokenKind::QuotedName, self.quotation(0, b'"', false)?),
            '`' if self.dialect != Dialect::Postgres => {
                (TokenKind::QuotedName, self.quotation(0, b'`', false)?)
            }
            '[' if self.dialect == Dialect::Sqlite => {
                (TokenKind::QuotedName, self.quotation(0, b']', false)?)
            }
            '$' => self.dollar()?,
            '?' => {
                let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                (TokenKind::QuestionMark, 1 + if self.dialect == Dialect::Sqlite { digits } else { 0 })
            }
            '(' => (TokenKind::Open, 1),
            ')' => (TokenKind::Close, 1),
            ';' => (TokenKind::Semicolon, 1),
            c if c.is_ascii_digit() => {
                let end = rest.find(|c: char| !is_in_name(c) && c != '.').unwrap_or(rest.len());
                (TokenKind::Literal, end)
            }
            c if is_in_name(c) => {
                (TokenKind::Word, rest.find(|c: char| !is_in_name(c)).unwrap_or(rest.len()))
            }
            c => {
                let mut operator = Self { at: self.at, ..*self };
                while operator.rest().bytes().next().is_some_and(|byte| OPERATOR.contains(&byte))
                    && operator.comment().is_none()
                {
                    operator.at += 1;
                }
                (TokenKind::Sign, (operator.at - self.at).max(c.len_utf8()))
            }
        })
    }
}

impl<'t> Iterator for Lexer<'t> {
    type Item = Option<Token<'t>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            match self.comment() {
                Some(Some(length)) => self.at += length,
                Some(None) => {
                    self.at = self.text.len();
                    return Some(None);
                }
                None => break,
            }
        }
        if self.rest().is_empty() {
            return None;
        }
        // A backslash may stand before the end, or before half a character.
        let found = self.token().filter(|(_, length)| self.rest().is_char_boundary(*length));
        let Some((kind, length)) = found else {
            self.at = self.text.len();
            return Some(None);
        };
        let token = Token { kind, at: self.at, text: &self.rest()[..length] };
        self.at += length;
        Some(Some(token))
    }
}

fn is_in_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parameters(text: &str, dialect: Dialect) -> Vec<usize> {
        let tokens = Lexer::new(text, dialect).flatten();
        let is_mark = |token: &Token| matches!(token.kind, TokenKind::Parameter | TokenKind::QuestionMark);
        tokens.filter(is_mark).map(|token| token.at).collect()
    }

    #[test]
    fn what_is_quoted_or_a_comment_is_no_parameter() {
        use Dialect::{Mysql, Postgres, Sqlite};
        for (text, dialect) in [
            ("'$1 ?'", Postgres),
            ("'it''s $1'", Postgres),
            (r"E'it\'s $1'", Postgres),
            (r#""a $1 ""?""#, Postgres),
            ("$$ $1 ? $$", Postgres),
            ("$t$ $1 $$ ? $t$", Postgres),
            ("-- $1 ?\n", Postgres),
            ("/* $1 /* */ ? */", Postgres),
            ("a$1", Postgres),
            (r"'it\'s ?'", Mysql),
            (r#""it\" ?""#, Mysql),
            ("`a ?`", Mysql),
            ("# ?", Mysql),
            ("-- ?", Mysql),
            ("[a ?]", Sqlite),
            ("`a ?`", Sqlite),
            ("/* ? */", Sqlite),
        ] {
            assert_eq!(parameters(text, dialect), [0; 0], "{text}");
        }
    }

    #[test]
    fn what_follows_a_quotation_or_a_comment_is_one() {
        use Dialect::{Mysql, Postgres, Sqlite};
        for (text, dialect, at) in [
            ("'' $1", Postgres, 3),
            (r"'\' $1", Postgres, 4),
            ("/* */$1", Postgres, 5),
            ("$$ $$ $1", Postgres, 6),
            ("é=$1", Postgres, 3),
            ("1--?", Mysql, 3),
            ("/* /* */ ?", Mysql, 9),
            ("?1", Sqlite, 0),
            ("# ?", Sqlite, 2),
        ] {
            assert_eq!(parameters(text, dialect), [at], "{text}");
        }
    }

    #[test]
    fn what_has_no_end_is_told() {
        for text in ["'a", "\"a", "/* a", "$$ a", r"E'\", "'\\é"] {
            assert_eq!(Lexer::new(text, Dialect::Postgres).last(), Some(None), "{text}");
        }
    }

    proptest! {
        #[test]
        fn tokens_stand_where_they_say(text in "([-$?'\"`/*#\\\\e1a=;\n é]|\\[){0,24}") {
            for dialect in [Dialect::Postgres, Dialect::Mysql, Dialect::Sqlite] {
                let mut end = 0;
                for token in Lexer::new(&text, dialect).flatten() {
                    prop_assert!(token.at >= end && !token.text.is_empty());
                    prop_assert_eq!(&text[token.at..token.end()], token.text);
                    end = token.end();
                }
            }
        }
    }
}
