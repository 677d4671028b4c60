use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A stream's name with parameters of the identifier in it: `progress:{job_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
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
    #[error("{0:?} has braces around {1:?}, which is no parameter's name (letters, digits and _)")]
    Name(String, String),
}

impl Template {
    /// The name, with each parameter in its place; or the parameter that isn't there. A name is
    /// never half filled.
    ///
    /// A value can't reach past its place: the separator in it is percent-encoded, and the
    /// percent sign; and between two parameters there is a separator. So two values never make
    /// one name.
    pub fn fill(&self, parameter: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Parameter(key) => {
                    let value =
                        parameter(key).filter(|value| !value.is_empty()).ok_or_else(|| key.clone())?;
                    for character in value.chars() {
                        match character {
                            ':' => name.push_str("%3A"),
                            '%' => name.push_str("%25"),
                            other => name.push(other),
                        }
                    }
                }
            }
        }
        Ok(name)
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
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(TemplateError::Name(text.into(), name.into()));
            }
            let separated = match parts.as_slice() {
                [] | [Part::Text(_)] => true,
                [.., Part::Text(between)] => between.contains(':'),
                [.., Part::Parameter(_)] => false,
            };
            if !separated {
                return Err(TemplateError::Adjacent(text.into()));
            }
            parts.push(Part::Parameter(name.into()));
            rest = behind;
        }
        Ok(Self(parts))
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        text.parse()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Parameter(name) => write!(f, "{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read_and_written() {
        for text in ["news", "progress:{job_id}", "{a}:{b}", "x{a}y"] {
            assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
        }
        for text in ["", "{a}{b}", "{a}-{b}", "a:{", "a:{}", "a}", "{a b}", "{a}}"] {
            assert!(text.parse::<Template>().is_err(), "{text}");
        }
    }

    #[test]
    fn different_values_never_make_one_name() {
        let template: Template = "{a}:{b}".parse().unwrap();
        let fill =
            |a: &str, b: &str| template.fill(|key| Some(if key == "a" { a } else { b }.to_owned())).unwrap();

        assert_eq!(fill("x:y", "z"), "x%3Ay:z");
        assert_ne!(fill("x:y", "z"), fill("x", "y:z"));
        assert_ne!(fill("x%3Ay", "z"), fill("x:y", "z"));
    }
}
