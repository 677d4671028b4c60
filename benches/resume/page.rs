//! `docs/performance.md`: the table of what it costs to come back, made from what each part came to the last
//! time that it was run with `--page`.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::harness::report::{Report, median};
use crate::store::Kind;

/// A line of the table.
struct Line {
    what: &'static str,
    asked: &'static str,
    /// The part, and the settings of its figures, whose median is shown.
    with: &'static str,
    value: &'static str,
    /// So many of the value's units are one of the line's.
    unit: f64,
}

const LINES: [Line; 14] = [
    line(
        "Latest message of a stream that has many old ones, p50, ms",
        "1",
        "latest stream=hot from=table",
        "p50_us",
        1e3,
    ),
    line("… that has one old one", "1", "latest stream=cold from=table", "p50_us", 1e3),
    line("… that has none", "1", "latest stream=absent from=table", "p50_us", 1e3),
    line("Subscribe with a state's message, CPU to a plain one", "1.3", "subscribe rule=state", "ratio", 1.0),
    line("… with an event stream's last one", "1.3", "subscribe rule=replay", "ratio", 1.0),
    line(
        "1,000 back at streams of their own, 100 missed each, all done, s",
        "2",
        "missed streams=1000",
        "done_last_ms",
        1e3,
    ),
    line("… at one stream", "2", "missed streams=1", "done_last_ms", 1e3),
    line(
        "10,000 back at 1,000 states, server restarted, all current, s",
        "10",
        "storm streams=1000 memory=cold",
        "done_last_ms",
        1e3,
    ),
    line("… server still there", "10", "storm streams=1000 memory=warm", "done_last_ms", 1e3),
    line(
        "10,000 back at 10,000 states, server restarted, all current, s",
        "10",
        "storm streams=10000 memory=cold",
        "done_last_ms",
        1e3,
    ),
    line("… server still there", "10", "storm streams=10000 memory=warm", "done_last_ms", 1e3),
    line(
        "… another client's messages meanwhile, p99, ms",
        "",
        "storm streams=10000 memory=cold",
        "established_p99_storm_ms",
        1.0,
    ),
    line("Bytes added by the extended protocol, ids of 7 digits", "80", "bytes id=1234567", "added", 1.0),
    line("… of 10 digits", "80", "bytes id=1234567890", "added", 1.0),
];

const fn line(
    what: &'static str,
    asked: &'static str,
    with: &'static str,
    value: &'static str,
    unit: f64,
) -> Line {
    Line { what, asked, with, value, unit }
}

const BEGIN: &str = "<!-- resume -->\n";
const END: &str = "<!-- /resume -->";

/// Keeps what a part came to on a database.
pub fn keep(part: &str, kind: Kind, report: &Report) {
    let mut kept = read();
    kept.insert(
        format!("{} {part}", kind.name()),
        json!({
            "tablecast": env!("CARGO_PKG_VERSION"),
            "date": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            "figures": report.figures(),
        }),
    );
    let text = serde_json::to_string_pretty(&kept).expect("keys are text");
    fs::write(file(), text + "\n").expect("benches/results can be written");
}

/// Makes the table anew.
pub fn make() {
    let kept = read();
    let mut table = String::from("| | asked |");
    table.extend(Kind::ALL.map(|kind| format!(" {} |", kind.name())));
    table.push_str("\n| --- | ---: | ---: | ---: | ---: |\n");
    for line in LINES {
        table.push_str(&format!("| {} | {} |", line.what, line.asked));
        table.extend(Kind::ALL.map(|kind| format!(" {} |", line.cell(&kept, kind))));
        table.push('\n');
    }
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let page = fs::read_to_string(&file).expect("the page is there");
    let (head, rest) = page.split_once(BEGIN).expect("the page has its marks");
    let (_, tail) = rest.split_once(END).expect("the page has its marks");
    fs::write(&file, format!("{head}{BEGIN}{table}{END}{tail}")).expect("docs can be written");
}

impl Line {
    /// Empty where it hasn't been measured.
    fn cell(&self, kept: &Map<String, Value>, kind: Kind) -> String {
        let mut words = self.with.split(' ');
        let part = words.next().expect("a part");
        let settings: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fits = |figure: &&Value| settings.iter().all(|(key, value)| text(&figure[*key]) == *value);
        let figures =
            kept.get(&format!("{} {part}", kind.name())).and_then(|kept| kept["figures"].as_array());
        let values =
            figures.into_iter().flatten().filter(fits).filter_map(|figure| figure[self.value].as_f64());
        let values: Vec<f64> = values.collect();
        if values.is_empty() {
            return String::new();
        }
        let value = median(values) / self.unit;
        format!("{:.*}", if value.fract() == 0.0 { 0 } else { 2 }, value)
    }
}

fn read() -> Map<String, Value> {
    let text = fs::read_to_string(file()).unwrap_or_else(|_| "{}".into());
    serde_json::from_str(&text).expect("we wrote it")
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/results/resume.json")
}
