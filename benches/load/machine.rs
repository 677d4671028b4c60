//! The machine: what it is, and what all of it has spent.

use std::fs::read_to_string;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::process::{kib, ticks};

pub fn description() -> Value {
    let processor = read_to_string("/proc/cpuinfo").expect("this is Linux");
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    json!({
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, |cores| cores.get()),
        "memory_gib": kib(&meminfo(), "MemTotal:").div_ceil(1 << 20),
        "kernel": read_to_string("/proc/sys/kernel/osrelease").expect("this is Linux").trim(),
    })
}

/// CPU time that all processes and the kernel together have taken.
pub fn cpu() -> Duration {
    let stat = read_to_string("/proc/stat").expect("this is Linux");
    let fields: Vec<&str> = stat.lines().next().expect("it has lines").split_whitespace().skip(1).collect();
    // user, nice, system, (idle, iowait,) irq, softirq
    ticks(fields[..3].iter().chain(&fields[5..7]).copied())
}

/// What the kernel keeps for its own objects, sockets among them, in bytes.
pub fn slab() -> u64 {
    kib(&meminfo(), "Slab:") * 1024
}

fn meminfo() -> String {
    read_to_string("/proc/meminfo").expect("this is Linux")
}
