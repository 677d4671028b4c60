use std::fmt;
use std::str::FromStr;

use super::gid::{GlobalIdApp, Model};
use super::reference::{Asked, Reference};

/// A stream's name with values in it: `progress:{job_id}`, `inbox:{user.id}`,
/// `comments:{gid(Post, post_id)}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub(super) Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Value(Reference),
    /// What Rails' `stream_for` makes of the record with this id.
    GlobalId(Model, Reference),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("stream is empty")]
    Empty,
    #[error("{0:?} has a {{ without its }}")]
    Unclosed(String),
    #[error("{0:?} has a }} without its {{")]
    Unopened(String),
    #[error("{0:?} has no : between two parameters, so that different values could make one name")]
    Adjacent(String),
    #[error(
        "{0:?} has braces around {1:?}, which is neither a parameter's name (letters, digits and _), nor a claim \
         (user.id), nor gid(Model, id)"
    )]
    Name(String, String),
}

impl Template {
    /// The name, with each value in its place; or what isn't there, or is no record's id. A name
    /// is never half filled.
    ///
    /// A value can't reach past its place: the separator in it is percent-encoded, and the
    /// percent sign; and between two values there is a separator. So different values never
    /// make one name.
    pub fn fill(&self, asked: &Asked<'_>, app: Option<&GlobalIdApp>) -> Result<String, Reference> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Value(reference) => {
                    let value = asked.value(reference).ok_or_else(|| reference.clone())?;
                    for character in value.chars() {
                        match character {
                            ':' => name.push_str("%3A"),
                            '%' => name.push_str("%25"),
                            other => name.push(other),
                        }
                    }
                }
                Part::GlobalId(model, reference) => {
                    let id = asked.value(reference);
                    let param = id.and_then(|id| app?.param(model, &id));
                    name.push_str(&param.ok_or_else(|| reference.clone())?);
                }
            }
        }
        Ok(name)
    }

    /// Whether it needs an identity.
    pub fn has_claims(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Text(_) => false,
            Part::Value(reference) | Part::GlobalId(_, reference) => reference.is_claim(),
        })
    }

    /// Whether it needs an identifier.
    pub fn has_parameters(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Text(_) => false,
            Part::Value(reference) | Part::GlobalId(_, reference) => !reference.is_claim(),
        })
    }

    /// Whether it needs the application's name.
    pub fn has_global_ids(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::GlobalId(..)))
    }
}

impl Part {
    fn in_braces(text: &str) -> Option<Self> {
        match text.strip_prefix("gid(").and_then(|rest| rest.strip_suffix(')')) {
            Some(arguments) => {
                let (model, id) = arguments.split_once(',')?;
                Some(Self::GlobalId(model.trim().parse().ok()?, id.trim().parse().ok()?))
            }
            None => text.parse().ok().map(Self::Value),
        }
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, behind) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') {
                return Err(TemplateError::Unopened(text.into()));
            }
            if !literal.is_empty() {
                parts.push(Part::Text(literal.into()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (name, behind) =
                behind.split_once('}').ok_or_else(|| TemplateError::Unclosed(text.into()))?;
            let part = Part::in_braces(name).ok_or_else(|| TemplateError::Name(text.into(), name.into()))?;
            let separated = match parts.as_slice() {
                [] | [Part::Text(_)] => true,
                [.., Part::Text(between)] => between.contains(':'),
                [.., Part::Value(_) | Part::GlobalId(..)] => false,
            };
            if !separated {
                return Err(TemplateError::Adjacent(text.into()));
            }
            parts.push(part);
            rest = behind;
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Value(reference) => write!(f, "{{{reference}}}"),
            Part::GlobalId(model, reference) => write!(f, "{{gid({model}, {reference})}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tablecast_protocol::Identifier;

    use super::*;
    use crate::identity::Identity;

    fn fill(template: &str, parameters: &Value, claims: &Value) -> Result<String, String> {
        let raw = parameters.to_string();
        let identifier = Identifier::parse(&raw).unwrap();
        let claims = claims.as_object().unwrap().clone();
        let who = Identity { claims, name: None, expires: None, session: None };
        let asked = Asked { identifier: &identifier, who: Some(&who) };
        let app = "my-app".parse().unwrap();
        let template: Template = template.parse().unwrap();
        template.fill(&asked, Some(&app)).map_err(|missing| missing.to_string())
    }

    #[test]
    fn templates_are_read_and_written() {
        for text in [
            "news",
            "progress:{job_id}",
            "{a}:{b}",
            "x{a}y",
            "inbox:{user.id}:{user.org.id}",
            "comments:{gid(Post, post_id)}",
            "{gid(Admin::User, user.id)}",
        ] {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "{a}{b}",
            "{a}-{b}",
            "{gid(A, a)}{b}",
            "{a}-{user.b}",
            "a:{",
            "a:{}",
            "a}",
            "{a b}",
            "{a}}",
            "{user.}",
            "{gid(Post)}",
            "{gid(post, id)}",
            "{gid(Post, id, id)}",
            "{gid(Post, gid(Post, id))}",
            "{gid(Post, id}",
        ] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn claims_are_filled_in_as_parameters_are() {
        let fill = |claims: &Value| fill("progress:{user.id}:{job}", &json!({"job": "a:b"}), claims);

        assert_eq!(fill(&json!({"id": 7})).unwrap(), "progress:7:a%3Ab");
        assert_eq!(fill(&json!({"id": "7:%"})).unwrap(), "progress:7%3A%25:a%3Ab");
        for missing in [json!({}), json!({"id": ""}), json!({"id": null}), json!({"id": [7]})] {
            assert_eq!(fill(&missing), Err("user.id".into()), "{missing}");
        }
    }

    #[test]
    fn a_record_is_named_as_stream_for_names_it() {
        let parameters = json!({"post_id": "1"});
        assert_eq!(
            fill("comments:{gid(Post, post_id)}", &parameters, &json!({})).unwrap(),
            "comments:Z2lkOi8vbXktYXBwL1Bvc3QvMQ"
        );
        assert_eq!(
            fill("{gid(User, user.id)}", &parameters, &json!({"id": 1})).unwrap(),
            "Z2lkOi8vbXktYXBwL1VzZXIvMQ"
        );
        let padded = fill("comments:{gid(Post, post_id)}", &json!({"post_id": "01"}), &json!({}));
        assert_eq!(padded, Err("post_id".into()));
    }

    /// Two pairs of values that are one text where nothing but their places tells them apart:
    /// the same words, parted at another of the characters that join them.
    fn pairs() -> impl Strategy<Value = [(String, String); 2]> {
        let joint = || prop::sample::select(&[":", "%3A", "%3a", "/", " ", "+", "%2B", "%25"]);
        let words = proptest::collection::vec("[a1%]", 3);
        (words, [joint(), joint()], [1..3_usize, 1..3_usize]).prop_map(|(words, joints, places)| {
            [0, 1].map(|which| {
                let (a, b) = words.split_at(places[which]);
                (a.join(joints[which]), b.join(joints[which]))
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn different_values_never_make_one_name(
            template in prop::sample::select(&[
                "{a}:{user.b}",
                "x{user.b}:{a}y",
                "{gid(Post, a)}:{user.b}",
                "c:{gid(Post, user.b)}:{gid(Post, a)}",
            ]),
            [one, other] in pairs(),
        ) {
            let fill = |(a, b): &(String, String)| fill(template, &json!({ "a": a }), &json!({ "b": b }));

            if let (Ok(a), Ok(b)) = (fill(&one), fill(&other)) {
                prop_assert_eq!(a == b, one == other);
            }
        }

        #[test]
        fn whatever_is_written_it_is_a_template_or_told(text in "[{}a:(),guser.id P]{0,24}") {
            if let Ok(template) = text.parse::<Template>() {
                let written = template.to_string();
                prop_assert_eq!(written.parse::<Template>().unwrap(), template);
            }
        }
    }
}
