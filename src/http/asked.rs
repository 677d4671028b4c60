//! What a request's query asks for: streams, by name or identifier, and other parameters.

use std::borrow::Cow;

use axum::http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tablecast_protocol::Identifier;

use super::App;
use super::problem::Problem;
use crate::channels::{Refusal, Target};
use crate::identity::Identity;
use crate::telemetry::metrics;

/// A query, read.
#[derive(Debug)]
pub struct Asked {
    pub subjects: Subjects,
    pub rest: Parameters,
}

/// What was named, in that order.
#[derive(Debug)]
pub struct Subjects(Vec<Subject>);

#[derive(Debug)]
enum Subject {
    Stream(String),
    Identifier(String),
}

/// Parameters that name no stream.
#[derive(Debug)]
pub struct Parameters(Vec<(String, String)>);

/// `stream=progress:42` is short for the identifier `{"channel":"$pubsub","stream_name":"progress:42"}`, and may
/// be repeated as `identifier=` may.
pub fn read(query: &str) -> Result<Asked, Problem> {
    let mut subjects = Vec::new();
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        match name.as_str() {
            "stream" => subjects.push(Subject::Stream(value)),
            "identifier" => subjects.push(Subject::Identifier(value)),
            _ => rest.push((name, value)),
        }
    }
    Ok(Asked { subjects: Subjects(subjects), rest: Parameters(rest) })
}

impl Subjects {
    /// The streams' names; none for an identifier.
    pub fn names(self) -> Vec<Option<String>> {
        let name = |subject| match subject {
            Subject::Stream(name) => Some(name),
            Subject::Identifier(_) => None,
        };
        self.0.into_iter().map(name).collect()
    }

    /// Where each leads: all of them, or the first that can't be.
    pub fn resolve(&self, app: &App, who: Option<&Identity>) -> Result<Vec<Target>, Problem> {
        let limits = &app.context.limits;
        if self.0.is_empty() {
            return Err(bad("name a stream (?stream=progress:42) or an identifier (?identifier={…})"));
        }
        if self.0.len() > limits.max_subscriptions {
            return Err(refused(&Refusal::TooMany));
        }
        self.0
            .iter()
            .map(|subject| {
                let raw = subject.identifier();
                if raw.len() > limits.max_identifier_bytes {
                    return Err(refused(&Refusal::TooLong));
                }
                let identifier = Identifier::parse(&raw).map_err(|error| bad(error.to_string()))?;
                app.context.channels.resolve(&identifier, who).map_err(|refusal| refused(&refusal))
            })
            .collect()
    }
}

impl Subject {
    fn identifier(&self) -> Cow<'_, str> {
        match self {
            Self::Stream(name) => json!({ "channel": "$pubsub", "stream_name": name }).to_string().into(),
            Self::Identifier(raw) => raw.into(),
        }
    }
}

impl Parameters {
    /// The value of a parameter that may have several names; an error if it is given twice.
    pub fn take(&mut self, names: &[&str]) -> Result<Option<String>, Problem> {
        let mut found = None;
        let mut twice = false;
        self.0.retain(|(name, value)| {
            let is_it = names.contains(&name.as_str());
            if is_it {
                twice |= found.replace(value.clone()).is_some();
            }
            !is_it
        });
        if twice { Err(bad(format!("{} is given twice", names[0]))) } else { Ok(found) }
    }

    /// What isn't known is an error, or a misspelt parameter would be missed without a word.
    pub fn nothing_else(self, but: &[&str]) -> Result<(), Problem> {
        match self.0.into_iter().find(|(name, _)| !but.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(bad(format!("there is no parameter {name:?}")))
            }
        }
    }
}

fn decode(text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Into::into).map_err(|_| bad("the query is not UTF-8"))
}

/// Which rule it was is for the log: a guesser would learn how near it is.
fn refused(refusal: &Refusal) -> Problem {
    metrics().subscribes_rejected.increment(1);
    metrics().refused(refusal.name());
    tracing::debug!(%refusal, "a subscription was rejected");
    Problem::new(StatusCode::FORBIDDEN, "this may not be listened to")
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}
