//! What it costs to reach many clients, beside other servers: each as its users run it, in turns,
//! with the same clients and the same publisher, everything on one machine.
//!
//!     cargo bench --bench load                            # all parts, about twelve minutes
//!     cargo bench --bench load -- paced idle              # some
//!     cargo bench --bench load -- paced --quick           # only to see whether it works
//!     cargo bench --bench load -- page                    # draws the charts again
//!
//!     BEFORE=/path/to/tablecast cargo bench --bench load -- builds builds-streams
//!
//! Figures go to `benches/results/`, and from there into `docs/performance.md` and its charts.

mod client;
#[path = "../harness/mod.rs"]
mod harness;
mod machine;
mod page;
mod parts;
mod publish;
mod results;
mod rounds;
mod servers;

use std::time::Duration;

use harness::process::{self, LAUNCH};
use harness::report::Report;

/// The role of the clients' process.
const CLIENTS: &str = "clients";

/// Instead of a part: makes the page from the results that are there.
const PAGE: &str = "page";

/// How much is measured.
struct Scale {
    rounds: usize,
    subscribers: usize,
    paced_messages: usize,
    /// Of what is published without a pace.
    flood_time: Duration,
    idle_rounds: usize,
    idle_connections: usize,
    idle_time: Duration,
    burst_messages: usize,
    streams_rounds: usize,
    streams: usize,
    storm_rounds: usize,
    storm_connections: usize,
    /// Longer than the storm takes.
    storm_time: Duration,
    slow_subscribers: usize,
    slow_messages: usize,
    payload_rounds: usize,
    payload_subscribers: usize,
    build_pairs: usize,
}

const FULL: Scale = Scale {
    rounds: 5,
    subscribers: 1000,
    paced_messages: 400,
    flood_time: Duration::from_secs(3),
    idle_rounds: 1,
    idle_connections: 9000,
    idle_time: Duration::from_secs(15),
    burst_messages: 1024,
    streams_rounds: 3,
    streams: 10_000,
    storm_rounds: 2,
    storm_connections: 9000,
    storm_time: Duration::from_secs(15),
    slow_subscribers: 200,
    slow_messages: 500,
    payload_rounds: 2,
    payload_subscribers: 500,
    build_pairs: 9,
};

const QUICK: Scale = Scale {
    rounds: 2,
    subscribers: 200,
    paced_messages: 100,
    flood_time: Duration::from_millis(500),
    idle_rounds: 1,
    idle_connections: 500,
    idle_time: Duration::from_secs(3),
    burst_messages: 256,
    streams_rounds: 1,
    streams: 1000,
    storm_rounds: 1,
    storm_connections: 500,
    storm_time: Duration::from_secs(4),
    slow_subscribers: 50,
    slow_messages: 100,
    payload_rounds: 1,
    payload_subscribers: 50,
    build_pairs: 1,
};

/// Whatever hangs ends with this, and the children with it.
const LONGEST: Duration = Duration::from_secs(40 * 60);

type Part = fn(&mut Report, &Scale);

const PARTS: [(&str, Part); 7] = [
    ("paced", parts::paced::run),
    ("batched", parts::batched::run),
    ("idle", parts::idle::run),
    ("streams", parts::streams::run),
    ("storm", parts::storm::run),
    ("slow", parts::slow::run),
    ("payload", parts::payload::run),
];

/// Only if they are named: for who changes something, and in no page.
const BUILDS: [(&str, Part); 2] =
    [("builds", parts::builds::run), ("builds-streams", parts::builds::run_streams)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((role, arguments)) if role == LAUNCH => process::launched(arguments),
        Some((role, _)) if role == CLIENTS => client::role::main(),
        Some((role, arguments)) if role == servers::BARE => servers::bare(arguments),
        Some((role, _)) if role == servers::AFTERNOON => servers::afternoon(),
        _ => measure(&arguments),
    }
}

fn measure(arguments: &[String]) {
    // `cargo bench` says --bench; without it and without a part this is `cargo test`.
    let (mut scale, mut names, mut is_bench, mut is_quick) = (&FULL, Vec::new(), false, false);
    for argument in arguments {
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--quick" => (scale, is_quick) = (&QUICK, true),
            PAGE => return page::make(),
            name if PARTS.iter().chain(&BUILDS).any(|(part, _)| *part == name) => names.push(name),
            _ => usage(),
        }
    }
    if !is_bench && names.is_empty() {
        return println!("nothing to test; run `cargo bench --bench load`");
    }
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST);
        eprintln!("given up after {LONGEST:?}");
        std::process::exit(1);
    });
    println!("tablecast {}, {}", env!("CARGO_PKG_VERSION"), machine::description());
    for (name, variable) in servers::absent() {
        println!("{name} is absent: {variable} isn't set");
    }
    for (name, run) in BUILDS {
        if names.contains(&name) {
            run(&mut Report::new(name), scale);
        }
    }
    for (name, run) in PARTS {
        if names.is_empty() || names.contains(&name) {
            let mut report = Report::new(name);
            run(&mut report, scale);
            if !is_quick {
                results::write(name, &report);
                page::make();
            }
        }
    }
}

fn usage() -> ! {
    let parts = PARTS.iter().chain(&BUILDS).map(|(part, _)| *part).collect::<Vec<_>>().join(" ");
    eprintln!("usage: cargo bench --bench load -- [--quick] [PART]…, with parts {parts}");
    std::process::exit(2);
}
