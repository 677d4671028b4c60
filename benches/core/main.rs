//! What a row's way costs, measured from outside: the release binary as its users run it, as a
//! process of its own on a fresh directory, with writers and clients in other processes.
//!
//!     cargo bench --bench core                          # all parts, about eight minutes
//!     cargo bench --bench core -- latency http --quick  # some, roughly
//!
//! Each figure is a line of the table when it is there, and a line of JSON at its part's end.

mod fanout;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod http;
mod latency;
mod rows;
mod start;
#[allow(dead_code, unused_imports)]
#[path = "../../tests/program/support/mod.rs"]
mod support;
mod writer;

use std::path::Path;
use std::time::Duration;

use harness::process::{self, LAUNCH, Server, WRITE};
use harness::report::Report;

/// How much is measured.
struct Scale {
    latency_samples: usize,
    /// Each more than a second after the one before.
    sparse_samples: usize,
    http_time: Duration,
    rows: u32,
    rows_samples: usize,
    starts: usize,
    subscribers: usize,
    fanout_messages: usize,
    hostile_rounds: usize,
    hostile_time: Duration,
}

const FULL: Scale = Scale {
    latency_samples: 300,
    sparse_samples: 40,
    http_time: Duration::from_secs(5),
    rows: 1_000_000,
    rows_samples: 150,
    starts: 20,
    subscribers: 1000,
    fanout_messages: 500,
    hostile_rounds: 4,
    hostile_time: Duration::from_secs(8),
};

const QUICK: Scale = Scale {
    latency_samples: 50,
    sparse_samples: 5,
    http_time: Duration::from_secs(1),
    rows: 100_000,
    rows_samples: 30,
    starts: 5,
    subscribers: 200,
    fanout_messages: 100,
    hostile_rounds: 1,
    hostile_time: Duration::from_secs(3),
};

/// Whatever hangs ends with this, and the children with it.
const LONGEST: Duration = Duration::from_secs(20 * 60);

type Part = fn(&mut Report, &Scale);

const PARTS: [(&str, Part); 6] = [
    ("latency", latency::run),
    ("http", http::run),
    ("rows", rows::run),
    ("start", start::run),
    ("fanout", fanout::run),
    ("hostile", hostile::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((role, arguments)) if role == LAUNCH => process::launched(arguments),
        Some((role, arguments)) if role == WRITE => writer::main(arguments),
        _ => measure(&arguments),
    }
}

fn measure(arguments: &[String]) {
    // `cargo bench` says --bench; without it and without a part this is `cargo test`.
    let (mut scale, mut names, mut is_bench) = (&FULL, Vec::new(), false);
    for argument in arguments {
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--quick" => scale = &QUICK,
            name if PARTS.iter().any(|(part, _)| *part == name) => names.push(name),
            _ => usage(),
        }
    }
    if !is_bench && names.is_empty() {
        return println!("nothing to test; run `cargo bench --bench core`");
    }
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST);
        eprintln!("given up after {LONGEST:?}");
        std::process::exit(1);
    });
    println!(
        "tablecast {}, {} cores, files in {}",
        env!("CARGO_PKG_VERSION"),
        std::thread::available_parallelism().map_or(0, |cores| cores.get()),
        env!("CARGO_TARGET_TMPDIR"),
    );
    for (name, run) in PARTS {
        if names.is_empty() || names.contains(&name) {
            let mut report = Report::new(name);
            run(&mut report, scale);
            report.print_json();
        }
    }
}

fn database(directory: &Path) -> String {
    directory.join("bench.db").into_os_string().into_string().expect("the target's path is UTF-8")
}

fn url(directory: &Path) -> String {
    format!("sqlite://{}", database(directory))
}

fn start_server(directory: &Path, settings: &[&str]) -> Server {
    Server::start(directory, &url(directory), settings)
}

fn usage() -> ! {
    let parts = PARTS.map(|(part, _)| part).join(" ");
    eprintln!("usage: cargo bench --bench core -- [--quick] [PART]…, with parts {parts}");
    std::process::exit(2);
}
