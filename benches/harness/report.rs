//! Figures, for people and for programs.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// The figures of one part.
pub struct Report {
    part: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    pub fn new(part: &'static str) -> Self {
        Self { part, figures: Vec::new() }
    }

    pub fn add(&mut self, mut figure: Figure) {
        figure.part = self.part;
        println!("{figure}");
        self.figures.push(figure);
    }

    pub fn print_json(self) {
        for figure in &self.figures {
            println!("{}", serde_json::to_string(figure).expect("keys are text"));
        }
    }

    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

/// One line: what was measured, how, and what came out.
#[derive(Default)]
pub struct Figure {
    part: &'static str,
    settings: Vec<(&'static str, Value)>,
    values: Vec<(&'static str, Value)>,
}

impl Figure {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(mut self, key: &'static str, setting: impl Into<Value>) -> Self {
        self.settings.push((key, setting.into()));
        self
    }

    pub fn value(mut self, key: &'static str, value: impl Rounded) -> Self {
        self.values.push((key, value.rounded()));
        self
    }

    /// How times are spread, in microseconds.
    pub fn spread(self, times: &Times) -> Self {
        self.value("min_us", times.at(0.0))
            .value("p50_us", times.at(0.5))
            .value("p95_us", times.at(0.95))
            .value("p99_us", times.at(0.99))
            .value("max_us", times.at(1.0))
    }
}

/// A number, or several, with no more digits than mean anything.
pub trait Rounded {
    fn rounded(self) -> Value;
}

impl Rounded for f64 {
    fn rounded(self) -> Value {
        let digits = match self.abs() {
            ..1.0 => 1000.0,
            ..100.0 => 100.0,
            _ => 1.0,
        };
        Value::from((self * digits).round() / digits)
    }
}

impl Rounded for &[f64] {
    fn rounded(self) -> Value {
        self.iter().map(|value| value.rounded()).collect()
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.settings.iter().chain(&self.values).cloned();
        serializer.collect_map([("part", Value::from(self.part))].into_iter().chain(values))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings.iter().map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            value => format!("{key}={value}"),
        });
        write!(f, "{:<9} {:<58}", self.part, settings.collect::<Vec<_>>().join(" "))?;
        self.values.iter().try_for_each(|(key, value)| match value.as_f64() {
            Some(number) => write!(f, "  {key} {number:>7}"),
            None => write!(f, "  {key} {value}"),
        })
    }
}

/// Sorted nanoseconds.
pub struct Times(Vec<i64>);

impl Times {
    pub fn new(mut nanoseconds: Vec<i64>) -> Self {
        assert!(!nanoseconds.is_empty(), "nothing was measured");
        nanoseconds.sort_unstable();
        Self(nanoseconds)
    }

    /// The time that a share of all doesn't exceed, in microseconds.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.saturating_sub(1)] as f64 / 1000.0
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
