use std::fmt;

/// Names with a hole in them: `*` matches anything, colons too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it matches every name.
    pub fn is_everything(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// What stands before its first star and behind its last one; none where it has none.
    pub fn ends(&self) -> Option<(&str, &str)> {
        let (begin, _) = self.0.split_once('*')?;
        let (_, end) = self.0.rsplit_once('*')?;
        Some((begin, end))
    }

    /// The pieces between the stars stand in `name` in their order, the first at its
    /// beginning and the last at its end. Linear: each piece is searched from where the one
    /// before it was found first.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut pieces = rest.split('*');
        let last = pieces.next_back().expect("splitting gives at least one piece");
        for piece in pieces {
            let Some(at) = name.find(piece) else { return false };
            name = &name[at + piece.len()..];
        }
        name.ends_with(last)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_matches_anything() {
        let matches = |pattern, name| Pattern::new(pattern).matches(name);
        assert!(matches("*", ""));
        assert!(matches("*", "a:b"));
        assert!(matches("progress:*", "progress:"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*a", "a"));
        assert!(!matches("progress:*", "progress"));
        assert!(!matches("progress", "progress:1"));
    }

    #[test]
    fn only_stars_match_everything() {
        for (pattern, is_everything) in [("*", true), ("**", true), ("", false), ("a*", false)] {
            assert_eq!(Pattern::new(pattern).is_everything(), is_everything, "{pattern}");
        }
    }

    fn by_the_book(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| by_the_book(rest, &name[skip..])),
            ([p, pattern @ ..], [n, name @ ..]) => p == n && by_the_book(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(Pattern::new(&pattern).matches(&name), by_the_book(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
