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
}

/// One line: what was measured, how, and what came out.
#[derive(Default)]
pub struct Figure {
    part: &'static str,
    settings: Vec<(&'static str, Value)>,
    values: Vec<(&'static str, f64)>,
}

impl Figure {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(mut self, key: &'static str, setting: impl Into<Value>) -> Self {
        self.settings.push((key, setting.into()));
        self
    }

    pub fn value(mut self, key: &'static str, value: f64) -> Self {
        let digits = if value.abs() < 100.0 { 100.0 } else { 1.0 };
        self.values.push((key, (value * digits).round() / digits));
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

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.values.iter().map(|(key, value)| (*key, Value::from(*value)));
        let settings = self.settings.iter().cloned();
        serializer.collect_map([("part", Value::from(self.part))].into_iter().chain(settings).chain(values))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings.iter().map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            value => format!("{key}={value}"),
        });
        write!(f, "{:<8}{:<58}", self.part, settings.collect::<Vec<_>>().join(" "))?;
        self.values.iter().try_for_each(|(key, value)| write!(f, "  {key} {value:>7}"))
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
