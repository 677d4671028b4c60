//! Whether two doors can lead to one stream.
//!
//! A filled value holds no `:` ([`Template::fill`]), and neither does a record's GlobalID, which is base64. So
//! the colons of a name are those of its template, as many in each name, and between two of them there is at
//! most one value: two templates can make one name where they have as many pieces, and each of one can be
//! what the other's is. What a value may be beside that isn't looked at: it is said to be possible rather
//! than not.

use super::pattern::Pattern;
use super::reference::Reference;
use super::template::{Part, Template};

/// What stands between two colons.
#[derive(Debug, Default, PartialEq)]
struct Piece<'a> {
    before: String,
    value: Option<&'a Part>,
    after: String,
}

impl Template {
    /// Whether some name is made by both. True may be too much to say, false never is.
    pub(super) fn can_meet(&self, other: &Self) -> bool {
        meet(&self.pieces(), &other.pieces())
    }

    /// Whether some name that it makes is matched.
    pub(super) fn can_match(&self, pattern: &Pattern) -> bool {
        let pieces = self.pieces();
        let Some((begin, end)) = pattern.ends() else {
            return meet(&pieces, &literal(&pattern.to_string()));
        };
        let (mut head, mut tail) = (String::new(), String::new());
        for (position, piece) in pieces.iter().enumerate() {
            head += if position == 0 { "" } else { ":" };
            head += &piece.before;
            if piece.value.is_some() {
                break;
            }
        }
        for (position, piece) in pieces.iter().rev().enumerate() {
            let text = if piece.value.is_some() { &piece.after } else { &piece.before };
            tail = format!("{text}{}{tail}", if position == 0 { "" } else { ":" });
            if piece.value.is_some() {
                break;
            }
        }
        if pieces.iter().all(|piece| piece.value.is_none()) {
            return pattern.matches(&head);
        }
        begin_alike(begin, &head) && end_alike(end, &tail)
    }

    /// Whether only the values tell them apart: `inbox:{id}` and `inbox:{user.id}`.
    pub(super) fn is_worded_as(&self, other: &Self) -> bool {
        let texts = |template: &Self| {
            let pieces = template.pieces().into_iter();
            pieces.map(|piece| (piece.before, piece.value.is_some(), piece.after)).collect::<Vec<_>>()
        };
        texts(self) == texts(other)
    }

    /// The claims in it, each with the number of its piece.
    pub(super) fn claims(&self) -> Vec<(usize, String)> {
        let claim = |(position, piece): (usize, Piece)| match piece.value? {
            Part::Value(reference @ Reference::Claim(_))
            | Part::GlobalId(_, reference @ Reference::Claim(_)) => Some((position, reference.to_string())),
            _ => None,
        };
        self.pieces().into_iter().enumerate().filter_map(claim).collect()
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut pieces = vec![Piece::default()];
        for part in &self.0 {
            let Part::Text(text) = part else {
                last(&mut pieces).value = Some(part);
                continue;
            };
            for (position, text) in text.split(':').enumerate() {
                if position > 0 {
                    pieces.push(Piece::default());
                }
                let piece = last(&mut pieces);
                let place = if piece.value.is_some() { &mut piece.after } else { &mut piece.before };
                place.push_str(text);
            }
        }
        pieces
    }
}

fn last<'a, 'b>(pieces: &'b mut [Piece<'a>]) -> &'b mut Piece<'a> {
    pieces.last_mut().expect("there is one from the beginning")
}

fn literal(name: &str) -> Vec<Piece<'_>> {
    name.split(':').map(|text| Piece { before: text.into(), ..Piece::default() }).collect()
}

fn meet(one: &[Piece<'_>], other: &[Piece<'_>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.can_be(other))
}

impl Piece<'_> {
    fn can_be(&self, other: &Self) -> bool {
        match (self.value, other.value) {
            (None, None) => self.before == other.before,
            (None, Some(_)) => other.can_hold(&self.before),
            (Some(_), None) => self.can_hold(&other.before),
            (Some(Part::GlobalId(one, _)), Some(Part::GlobalId(two, _)))
                if (&self.before, &self.after) == (&other.before, &other.after) =>
            {
                // The same base64, of URIs that have the class in them.
                one == two
            }
            (Some(_), Some(_)) => {
                begin_alike(&self.before, &other.before) && end_alike(&self.after, &other.after)
            }
        }
    }

    /// With a value that isn't empty, which none is.
    fn can_hold(&self, text: &str) -> bool {
        text.len() > self.before.len() + self.after.len()
            && text.starts_with(&self.before)
            && text.ends_with(&self.after)
    }
}

fn begin_alike(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn end_alike(one: &str, other: &str) -> bool {
    one.ends_with(other) || other.ends_with(one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tablecast_protocol::Identifier;

    use super::*;
    use crate::channels::Asked;

    fn template(text: &str) -> Template {
        text.parse().unwrap()
    }

    #[test]
    fn templates_meet_where_a_value_can_reach_into_the_others_text() {
        for (one, other) in [
            ("room_{room}", "room_own_{user.id}"),
            ("{a}", "news"),
            ("room:{room}", "room:{user.id}"),
            ("a:{x}:{y}", "a:b:{z}"),
            ("{a}_log", "job_{b}"),
            ("c:{gid(Post, a)}", "c:{gid(Post, user.b)}"),
            ("c:{gid(Post, a)}", "c:{b}"),
            ("news", "news"),
        ] {
            assert!(template(one).can_meet(&template(other)), "{one} {other}");
            assert!(template(other).can_meet(&template(one)), "{other} {one}");
        }
        for (one, other) in [
            ("room:{room}", "own:{user.id}"),
            ("room:{room}", "room:own:{user.id}"),
            ("progress:{job}", "progress:{user.id}:{job}"),
            ("{a}", "a:{b}"),
            ("room_{room}", "room_"),
            ("{a}_log", "{b}_job"),
            ("c:{gid(Post, a)}", "c:{gid(User, b)}"),
            ("news", "new"),
        ] {
            assert!(!template(one).can_meet(&template(other)), "{one} {other}");
            assert!(!template(other).can_meet(&template(one)), "{other} {one}");
        }
    }

    #[test]
    fn patterns_meet_what_they_could_match() {
        for (text, pattern, can) in [
            ("own:{user.id}", "*", true),
            ("own:{user.id}", "o*", true),
            ("own:{user.id}", "own:7", true),
            ("own:{user.id}", "own:*", true),
            ("own:{user.id}", "own:a:*", true),
            ("own:{user.id}", "*:7", true),
            ("own:{user.id}:log", "*log", true),
            ("news", "n*s", true),
            ("own:{user.id}", "news*", false),
            ("own:{user.id}", "own", false),
            ("own:{user.id}", "own:7:8", false),
            ("own:{user.id}:log", "*:job", false),
            ("news", "n*t", false),
        ] {
            assert_eq!(template(text).can_match(&Pattern::new(pattern)), can, "{text} {pattern}");
        }
    }

    fn made(template: &Template, value: &str, other: &str) -> String {
        let parameters = json!({ "a": value, "b": other }).to_string();
        let identifier = Identifier::parse(&parameters).unwrap();
        template.fill(&Asked { identifier: &identifier, who: None }, None).unwrap()
    }

    /// Templates of a few letters, so that they meet often.
    fn any_template() -> impl Strategy<Value = String> {
        "[x:]{0,2}(\\{a\\})?[x:]{0,2}(:\\{b\\})?[x:]{0,2}".prop_filter("empty", |text| !text.is_empty())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn names_that_are_the_same_were_said_to_be_possible(
            one in any_template(),
            other in any_template(),
            values in proptest::collection::vec("[x:%]{1,3}", 4),
            pattern in "[x:*]{1,4}",
        ) {
            let (one, other) = (template(&one), template(&other));
            let (a, b) = (made(&one, &values[0], &values[1]), made(&other, &values[2], &values[3]));
            prop_assert!(a != b || one.can_meet(&other), "{}", a);
            let pattern = Pattern::new(&pattern);
            prop_assert!(!pattern.matches(&a) || one.can_match(&pattern), "{}", a);
        }
    }
}
