//! Figures in files, from which the page and its charts are made.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::harness::report::Report;
use crate::{machine, servers};

/// Keeps what a part came to.
pub fn write(part: &str, report: &Report) {
    let absent: Vec<&str> = servers::absent().into_iter().map(|(name, _)| name).collect();
    let results = json!({
        "part": part,
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

pub fn read(part: &str) -> Value {
    let text = fs::read_to_string(file(part)).unwrap_or_else(|_| panic!("{part} was never measured"));
    serde_json::from_str(&text).expect("we wrote it")
}

fn file(part: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&directory).expect("benches can be written");
    directory.join(part).with_extension("json")
}
