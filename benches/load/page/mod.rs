//! `docs/performance.md`: its tables and its charts, made from the results.

mod charts;
mod tables;

use std::fs;
use std::path::PathBuf;

/// What is measured, as people call it.
const QUANTITIES: [(&str, &str); 16] = [
    ("server_us", "server's CPU, µs/delivery"),
    ("machine_us", "all CPU, µs/delivery"),
    ("deliveries_per_s", "deliveries/s"),
    ("p50_us", "p50, µs"),
    ("p99_us", "p99, µs"),
    ("max_us", "max, µs"),
    ("rss_kib", "RSS, KiB/connection"),
    ("kernel_kib", "kernel, KiB/connection"),
    ("pings_per_s", "pings/s"),
    ("cpu_percent", "CPU, % of a core"),
    ("rss_after_burst_kib", "RSS after a burst, KiB/connection"),
    ("confirm_p50_ms", "confirmed p50, ms"),
    ("confirm_p99_ms", "confirmed p99, ms"),
    ("confirm_max_ms", "confirmed last, ms"),
    ("refused", "refused and back"),
    ("longest_ping_gap_ms", "longest wait for a ping, ms"),
];

fn heading(quantity: &str) -> &'static str {
    let found = QUANTITIES.into_iter().find(|(name, _)| *name == quantity);
    found.unwrap_or_else(|| panic!("what is {quantity}?")).1
}

/// Makes both anew.
pub fn make() {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    charts::draw(&docs.join("performance"));
    let file = docs.join("performance.md");
    let page = fs::read_to_string(&file).expect("the page is there");
    fs::write(&file, tables::fill(&page)).expect("docs can be written");
}

/// Three digits, or two after the point.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{:.*}", if value.fract() == 0.0 { 0 } else { 2 }, value);
    }
    let unit = 10_f64.powi(value.log10() as i32 - 2);
    let digits = format!("{:.0}", (value / unit).round() * unit);
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).expect("digits"));
    groups.collect::<Vec<_>>().join(",")
}
