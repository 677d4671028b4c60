//! What the table costs as a bus, on PostgreSQL and MariaDB, measured from outside: the release
//! binary as its users run it, database servers of the bench's own, and writers and clients in
//! processes of theirs. All of it shares the machine.
//!
//!     cargo bench --bench bus                                  # all parts on both
//!     cargo bench --bench bus -- postgres latency http         # some
//!     cargo bench --bench bus -- --quick mariadb               # whether it works at all
//!
//! Each figure is a line of the table when it is there, and a line of JSON at its part's end.
//! What compares two settings runs them in turns, and prints the quotient of each pair.

mod catchup;
#[path = "../databases/mod.rs"]
mod databases;
mod full;
#[path = "../harness/mod.rs"]
mod harness;
mod http;
mod idle;
mod latency;
mod naive;
mod writer;
mod writers;

use std::time::Duration;

use databases::engine::Engine;
use databases::server;
use harness::process::{self, LAUNCH, WRITE};
use harness::report::Report;

/// How much is measured.
struct Scale {
    latency_samples: usize,
    /// Each more than a second after the one before.
    sparse_samples: usize,
    /// Of each comparison, in `writers` and `full`.
    pairs: usize,
    writers_time: Duration,
    http_rounds: usize,
    http_time: Duration,
    catchup_rounds: usize,
    catchup_rows: u64,
    idle_time: Duration,
    rows: u64,
    full_samples: usize,
    full_time: Duration,
    full_catchup_rows: u64,
    naive_time: Duration,
}

const FULL: Scale = Scale {
    latency_samples: 300,
    sparse_samples: 60,
    pairs: 9,
    writers_time: Duration::from_secs(8),
    http_rounds: 3,
    http_time: Duration::from_secs(5),
    catchup_rounds: 5,
    catchup_rows: 300_000,
    idle_time: Duration::from_secs(20),
    rows: 10_000_000,
    full_samples: 600,
    full_time: Duration::from_secs(3),
    full_catchup_rows: 100_000,
    naive_time: Duration::from_secs(20),
};

const QUICK: Scale = Scale {
    latency_samples: 20,
    sparse_samples: 3,
    pairs: 1,
    writers_time: Duration::from_secs(1),
    http_rounds: 1,
    http_time: Duration::from_secs(1),
    catchup_rounds: 1,
    catchup_rows: 30_000,
    idle_time: Duration::from_secs(5),
    rows: 200_000,
    full_samples: 20,
    full_time: Duration::from_secs(1),
    full_catchup_rows: 20_000,
    naive_time: Duration::from_secs(3),
};

/// Whatever hangs ends with this, and the children with it.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

type Part = fn(&mut Report, &Scale, Engine);

const PARTS: [(&str, Part); 7] = [
    ("latency", latency::run),
    ("writers", writers::run),
    ("http", http::run),
    ("catchup", catchup::run),
    ("idle", idle::run),
    ("full", full::run),
    ("naive", naive::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (role, rest) = arguments.split_first().map_or(("", &[][..]), |(role, rest)| (role, rest));
    match role {
        LAUNCH => process::launched(rest),
        WRITE => writer::write(rest),
        writer::LOAD => writer::load(rest),
        naive::MIX => naive::write(rest),
        server::CLEAN => server::clean(rest),
        _ => measure(&arguments),
    }
}

fn measure(arguments: &[String]) {
    // `cargo bench` says --bench; without it and without a part this is `cargo test`.
    let (mut scale, mut names, mut engines, mut is_bench) = (&FULL, Vec::new(), Vec::new(), false);
    for argument in arguments {
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--quick" => scale = &QUICK,
            name if PARTS.iter().any(|(part, _)| *part == name) => names.push(name),
            name => match Engine::ALL.into_iter().find(|engine| engine.name() == name) {
                Some(engine) => engines.push(engine),
                None => usage(),
            },
        }
    }
    if !is_bench && names.is_empty() {
        return println!("nothing to test; run `cargo bench --bench bus`");
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
    for engine in Engine::ALL {
        if !engines.is_empty() && !engines.contains(&engine) {
            continue;
        }
        for (name, run) in PARTS {
            if names.is_empty() || names.contains(&name) {
                let mut report = Report::new(name);
                run(&mut report, scale, engine);
                report.print_json();
            }
        }
    }
}

fn usage() -> ! {
    let parts = PARTS.map(|(part, _)| part).join(" ");
    let engines = Engine::ALL.map(Engine::name).join("|");
    eprintln!("usage: cargo bench --bench bus -- [--quick] [{engines}] [PART]…, with parts {parts}");
    std::process::exit(2);
}
