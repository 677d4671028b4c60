use std::fmt;
use std::str::FromStr;

use super::reference::{Asked, Reference};

/// What must hold for a subscription: `{job_owner} == {user.id}`, `{user.role} != 'guest'`,
/// `{room} in {user.rooms}`, `{user.plan} in ['pro', 'team']`.
///
/// Values are compared as text, so that `"42"` equals `42`. Where one is missing the condition
/// doesn't hold, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// As it was written.
    text: String,
    left: Operand,
    comparison: Comparison,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Reference(Reference),
    Literal(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Comparison {
    Equals(Operand),
    Differs(Operand),
    IsAmong(Vec<String>),
    /// A member of a claim that is a list. A parameter is no list to look in: the client would
    /// choose both the value and the list.
    IsIn(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{condition:?}, character {at}: there must be {expected}")]
pub struct ConditionError {
    condition: String,
    /// From 1.
    at: usize,
    expected: &'static str,
}

impl Condition {
    pub fn holds(&self, asked: &Asked<'_>) -> bool {
        let Some(left) = self.left.value(asked) else { return false };
        match &self.comparison {
            Comparison::Equals(right) => right.value(asked).is_some_and(|right| left == right),
            Comparison::Differs(right) => right.value(asked).is_some_and(|right| left != right),
            Comparison::IsAmong(members) => members.contains(&left),
            Comparison::IsIn(path) => asked.is_member(&left, path),
        }
    }

    /// Whether it looks at who asks, and not only at what the client chooses.
    pub fn has_claims(&self) -> bool {
        let right = match &self.comparison {
            Comparison::Equals(right) | Comparison::Differs(right) => right.is_claim(),
            Comparison::IsAmong(_) => false,
            Comparison::IsIn(_) => true,
        };
        self.left.is_claim() || right
    }
}

impl Operand {
    fn value(&self, asked: &Asked<'_>) -> Option<String> {
        match self {
            Self::Reference(reference) => asked.value(reference),
            Self::Literal(text) => Some(text.clone()),
        }
    }

    fn is_claim(&self) -> bool {
        matches!(self, Self::Reference(reference) if reference.is_claim())
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let mut scanner = Scanner { text, rest: text };
        let left = scanner.operand()?;
        let comparison = scanner.comparison()?;
        scanner.end()?;
        let compares_literals = matches!(
            (&left, &comparison),
            (
                Operand::Literal(_),
                Comparison::Equals(Operand::Literal(_))
                    | Comparison::Differs(Operand::Literal(_))
                    | Comparison::IsAmong(_)
            )
        );
        if compares_literals {
            return Err(Scanner { text, rest: text }.expected("a {parameter} or {user.claim} on one side"));
        }
        Ok(Self { text: text.into(), left, comparison })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

struct Scanner<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Scanner<'_> {
    fn operand(&mut self) -> Result<Operand, ConditionError> {
        self.skip_spaces();
        if self.rest.starts_with('{') {
            return self.reference("a parameter's name or user.claim, and }").map(Operand::Reference);
        }
        self.literal("a {parameter}, a {user.claim}, a 'text' or an integer").map(Operand::Literal)
    }

    fn comparison(&mut self) -> Result<Comparison, ConditionError> {
        self.skip_spaces();
        if self.take("==") {
            self.operand().map(Comparison::Equals)
        } else if self.take("!=") {
            self.operand().map(Comparison::Differs)
        } else if self.take("in") {
            self.list()
        } else {
            Err(self.expected("==, != or in"))
        }
    }

    fn list(&mut self) -> Result<Comparison, ConditionError> {
        const A_LIST: &str = "a {user.claim} that is a list, or ['a', 'b']";
        self.skip_spaces();
        let before = self.rest;
        if self.rest.starts_with('{') {
            return match self.reference(A_LIST)? {
                Reference::Claim(path) => Ok(Comparison::IsIn(path)),
                Reference::Parameter(_) => {
                    self.rest = before;
                    Err(self.expected(A_LIST))
                }
            };
        }
        if !self.take("[") {
            return Err(self.expected(A_LIST));
        }
        let mut members = Vec::new();
        loop {
            self.skip_spaces();
            members.push(self.literal("a 'text' or an integer")?);
            self.skip_spaces();
            if self.take("]") {
                return Ok(Comparison::IsAmong(members));
            }
            if !self.take(",") {
                return Err(self.expected(", or ]"));
            }
        }
    }

    fn reference(&mut self, expected: &'static str) -> Result<Reference, ConditionError> {
        let inside = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        match inside.and_then(|(name, rest)| Some((name.parse().ok()?, rest))) {
            Some((reference, rest)) => {
                self.rest = rest;
                Ok(reference)
            }
            None => Err(self.expected(expected)),
        }
    }

    /// A text without quotes in it that isn't empty, or an integer as one writes it.
    fn literal(&mut self, expected: &'static str) -> Result<String, ConditionError> {
        let (literal, rest) = match self.rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap_or_default(),
            None => {
                let sign = usize::from(self.rest.starts_with('-'));
                let digits = self.rest[sign..].bytes().take_while(u8::is_ascii_digit).count();
                let (number, rest) = self.rest.split_at(sign + digits);
                let is_canonical = number == "0" || (digits > 0 && !number[sign..].starts_with('0'));
                if is_canonical { (number, rest) } else { ("", rest) }
            }
        };
        if literal.is_empty() {
            return Err(self.expected(expected));
        }
        self.rest = rest;
        Ok(literal.into())
    }

    fn end(&mut self) -> Result<(), ConditionError> {
        self.skip_spaces();
        if self.rest.is_empty() { Ok(()) } else { Err(self.expected("nothing more")) }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, word: &str) -> bool {
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expected(&self, expected: &'static str) -> ConditionError {
        let read = &self.text[..self.text.len() - self.rest.len()];
        ConditionError { condition: self.text.into(), at: read.chars().count() + 1, expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tablecast_protocol::Identifier;

    use super::*;
    use crate::identity::Identity;

    fn identity(claims: Value) -> Identity {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        Identity { claims, name: None, expires: None, session: None }
    }

    fn holds(condition: &str, parameters: Value, claims: Value) -> bool {
        let raw = parameters.to_string();
        let identifier = Identifier::parse(&raw).unwrap();
        let who = identity(claims);
        let asked = Asked { identifier: &identifier, who: Some(&who) };
        condition.parse::<Condition>().unwrap().holds(&asked)
    }

    #[test]
    fn values_are_compared_as_text() {
        let equal = |owner: Value, id: Value| {
            holds("{owner} == {user.id}", json!({ "owner": owner }), json!({ "id": id }))
        };
        assert!(equal(json!("42"), json!(42)));
        assert!(equal(json!(42), json!("42")));
        assert!(equal(json!("true"), json!(true)));
        assert!(!equal(json!("42"), json!("042")));
        assert!(!equal(json!("a"), json!("A")));
        assert!(!equal(json!("42"), json!([42])));
        assert!(!equal(json!([42]), json!([42])));
        assert!(!equal(json!(9007199254740993_u64), json!(9007199254740992_u64)));

        assert!(holds("{user.org.role}=='admin'", json!({}), json!({"org": {"role": "admin"}})));
        assert!(holds("7 == {user.level}", json!({}), json!({"level": "7"})));
        assert!(holds("{n} == -7", json!({"n": -7}), json!({})));
        assert!(holds("{user.role} != 'guest'", json!({}), json!({"role": "admin"})));
        assert!(!holds("{user.role} != 'guest'", json!({}), json!({"role": "guest"})));
    }

    #[test]
    fn a_missing_value_makes_every_condition_false() {
        for condition in [
            "{a} == {user.b}",
            "{a} != {user.b}",
            "{user.b} == {a}",
            "{user.b} != {a}",
            "{user.b} == {user.c}",
            "{user.b} != 'x'",
            "'x' != {user.b}",
            "{a} in {user.b}",
            "{user.b} in ['x']",
        ] {
            for nothing in [json!({}), json!({"a": null, "b": null, "c": null}), json!({"a": "", "b": ""})] {
                assert!(!holds(condition, nothing.clone(), nothing), "{condition}");
            }
            let raw = r#"{"a":"x"}"#;
            let identifier = Identifier::parse(raw).unwrap();
            let anybody = Asked { identifier: &identifier, who: None };
            assert!(!condition.parse::<Condition>().unwrap().holds(&anybody), "{condition}");
        }
    }

    #[test]
    fn a_list_is_a_claim_or_written_out() {
        let rooms = |room: Value, rooms: Value| {
            holds("{room} in {user.rooms}", json!({ "room": room }), json!({ "rooms": rooms }))
        };
        assert!(rooms(json!("b"), json!(["a", "b"])));
        assert!(rooms(json!("7"), json!([1, 7])));
        assert!(!rooms(json!("c"), json!(["a", "b"])));
        assert!(!rooms(json!("a"), json!([["a"], {"a": "a"}, null])));
        assert!(!rooms(json!("null"), json!([null])));
        assert!(!rooms(json!("a"), json!("a")), "text is no list");
        assert!(!rooms(json!("a"), json!({"a": "a"})));
        assert!(!rooms(json!(""), json!([""])));

        assert!(holds("'admin' in {user.roles}", json!({}), json!({"roles": ["admin"]})));
        assert!(holds("{user.plan} in ['pro', 7,'team']", json!({}), json!({"plan": "team"})));
        assert!(holds("{user.plan} in [ 'pro' ,7]", json!({}), json!({"plan": 7})));
        assert!(!holds("{user.plan} in ['pro','team']", json!({}), json!({"plan": "free"})));
    }

    #[test]
    fn what_is_no_condition_is_told_with_its_place() {
        for (text, at, expected) in [
            ("", 1, "a {parameter}"),
            ("{a} = 1", 5, "==, != or in"),
            ("{a}", 4, "==, != or in"),
            ("{a} ==", 7, "a {parameter}"),
            ("{é} == 1", 1, "a parameter's name"),
            ("{a", 1, "a parameter's name"),
            ("{a.b} == 1", 1, "a parameter's name"),
            ("{a} == 'x", 8, "a {parameter}"),
            ("{a} == ''", 8, "a {parameter}"),
            ("{a} == 007", 8, "a {parameter}"),
            ("{a} == -0", 8, "a {parameter}"),
            ("{a} == 1.5", 9, "nothing more"),
            ("{a} == 'é' and {b} == 1", 12, "nothing more"),
            ("{a} in {b}", 8, "a {user.claim} that is a list"),
            ("{a} in 'b'", 8, "a {user.claim} that is a list"),
            ("{a} in []", 9, "a 'text' or an integer"),
            ("{a} in ['b' 'c']", 13, ", or ]"),
            ("{a} in ['b',", 13, "a 'text' or an integer"),
            ("{a} in [{user.b}]", 9, "a 'text' or an integer"),
            ("{a} < 1", 5, "==, != or in"),
            ("'a' == 'a'", 1, "on one side"),
            ("1 in [1]", 1, "on one side"),
            ("{gid(Post, a)} == 1", 1, "a parameter's name"),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert_eq!(error.at, at, "{error}");
            assert!(error.expected.contains(expected), "{error}");
        }
    }

    #[test]
    fn it_knows_whether_it_looks_at_who_asks() {
        for (text, has) in [
            ("{a} == {b}", false),
            ("{a} in ['x']", false),
            ("{a} != 'x'", false),
            ("{a} == {user.b}", true),
            ("'x' in {user.b}", true),
            ("{user.a} in ['x']", true),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().has_claims(), has, "{text}");
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3i64..3).prop_map(Value::from),
            "[ab'é]{0,2}".prop_map(Value::from),
            "-?[0-2]{1,2}".prop_map(Value::from),
        ]
    }

    /// Text, as the definition has it.
    fn text(value: &Value) -> Option<String> {
        match value {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(
            a in scalar(), b in scalar(), members in proptest::collection::vec(scalar(), 0..4),
        ) {
            let (parameters, claims) = (json!({ "a": a }), json!({ "b": b, "list": members }));
            let (left, right) = (text(&a), text(&b));
            let both = left.is_some() && right.is_some();
            let holds = |condition: &str| holds(condition, parameters.clone(), claims.clone());

            prop_assert_eq!(holds("{a} == {user.b}"), both && left == right);
            prop_assert_eq!(holds("{user.b} == {a}"), both && left == right);
            prop_assert_eq!(holds("{a} != {user.b}"), both && left != right);
            let is_in = left.is_some() && members.iter().any(|member| text(member) == left);
            prop_assert_eq!(holds("{a} in {user.list}"), is_in);
        }

        #[test]
        fn whatever_is_written_it_is_a_condition_or_told(text in "[{}a user.'=!in\\[\\],0-9é-]{0,24}") {
            if let Err(error) = text.parse::<Condition>() {
                prop_assert!(error.at <= text.chars().count() + 1);
            }
        }
    }
}
