//! Figures in files, from which the page and its charts are made.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::report::Report;
use crate::{machine, servers};

/// What a part came to, as far as the page tells it.
#[derive(Deserialize)]
pub struct Results {
    pub tablecast: String,
    pub date: String,
    pub command: String,
    pub machine: Value,
    pub absent: Vec<String>,
    pub figures: Vec<Figure>,
}

#[derive(Deserialize)]
pub struct Figure {
    pub server: String,
    /// What else the contestant was; each of these is one part's own.
    array: Option<u64>,
    bytes: Option<u64>,
    stalled: Option<u64>,
    pub quantity: String,
    pub median: f64,
    /// To the first contestant; it has none itself.
    pub ratio: Option<f64>,
}

/// Keeps what a part came to.
pub fn write(part: &str, report: &Report) {
    let absent: Vec<&str> = servers::absent().into_iter().map(|(name, _)| name).collect();
    let results = json!({
        "tablecast": env!("CARGO_PKG_VERSION"),
        "date": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "command": format!("cargo bench --bench load -- {part}"),
        "machine": machine::description(),
        "absent": absent,
        "figures": report.figures(),
    });
    let text = serde_json::to_string_pretty(&results).expect("keys are text");
    fs::write(file(part), text + "\n").expect("benches/results can be written");
}

/// What it came to the last time, if there was one.
pub fn read(part: &str) -> Option<Results> {
    let text = fs::read_to_string(file(part)).ok()?;
    Some(serde_json::from_str(&text).expect("we wrote it"))
}

fn file(part: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&directory).expect("benches can be written");
    directory.join(part).with_extension("json")
}

impl Figure {
    pub fn contestant(&self) -> String {
        let server = &self.server;
        match self {
            Self { array: Some(1), .. } => format!("{server}, one by one"),
            Self { array: Some(array), .. } => format!("{server}, arrays of {array}"),
            Self { bytes: Some(bytes @ ..1024), .. } => format!("{server}, {bytes} B"),
            Self { bytes: Some(bytes), .. } => format!("{server}, {} KiB", bytes / 1024),
            Self { stalled: Some(stalled), .. } => format!("{server}, {stalled} stalled"),
            _ => server.clone(),
        }
    }
}
