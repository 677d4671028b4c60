//! What it costs to come late, or back again, measured from outside: the release binary as its users
//! run it, on each database, with raw sockets as clients.
//!
//!     cargo bench --bench resume                              # all parts on all databases
//!     cargo bench --bench resume -- sqlite latest storm       # some
//!     cargo bench --bench resume -- --rows 100000 latest      # on a smaller table
//!     cargo bench --bench resume -- --quick                   # whether it works at all
//!     cargo bench --bench resume -- --page                    # keeps all, and makes the table of docs/performance.md
//!
//! Each figure is a line of the table when it is there, and a line of JSON at its part's end. What is asked of
//! a figure stands in its part's file. Clients, publisher and database share the machine with the server.
//!
//! What a build adds to the fan-out is another bench's: `cargo bench --bench load -- builds builds-streams`.

mod bytes;
mod crowd;
#[path = "../databases/mod.rs"]
mod databases;
mod established;
#[path = "../harness/mod.rs"]
mod harness;
mod latest;
mod messages;
mod missed;
mod page;
mod rules;
mod store;
mod storm;
mod subscribe;

use std::time::Duration;

use databases::server;
use harness::process::{self, LAUNCH};
use harness::report::Report;
use store::Kind;

/// How much is measured.
struct Scale {
    rows: u64,
    latest_samples: usize,
    subscribe_pairs: usize,
    subscribes: usize,
    missed_rounds: usize,
    missed_clients: usize,
    missed_messages: usize,
    storm_clients: usize,
    storm_streams: [usize; 2],
    alone: Duration,
}

const FULL: Scale = Scale {
    rows: 10_000_000,
    latest_samples: 500,
    subscribe_pairs: 9,
    subscribes: 10_000,
    missed_rounds: 3,
    missed_clients: 1000,
    missed_messages: 100,
    storm_clients: 10_000,
    storm_streams: [1000, 10_000],
    alone: Duration::from_secs(3),
};

const QUICK: Scale = Scale {
    rows: 100_000,
    latest_samples: 50,
    subscribe_pairs: 1,
    subscribes: 1000,
    missed_rounds: 1,
    missed_clients: 100,
    missed_messages: 20,
    storm_clients: 500,
    storm_streams: [50, 500],
    alone: Duration::from_secs(1),
};

/// Whatever hangs ends with this, and the children with it.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

type Part = fn(&mut Report, &Scale, Kind);

const PARTS: [(&str, Part); 5] = [
    ("bytes", bytes::run),
    ("subscribe", subscribe::run),
    ("missed", missed::run),
    ("storm", storm::run),
    ("latest", latest::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (role, rest) = arguments.split_first().map_or(("", &[][..]), |(role, rest)| (role, rest));
    match role {
        LAUNCH => process::launched(rest),
        server::CLEAN => server::clean(rest),
        _ => measure(&arguments),
    }
}

fn measure(arguments: &[String]) {
    // `cargo bench` says --bench; without it and without a part this is `cargo test`.
    let (mut scale, mut rows, mut is_bench, mut is_kept) = (FULL, None, false, false);
    let (mut names, mut kinds) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--quick" => scale = QUICK,
            "--page" => is_kept = true,
            "--rows" => rows = arguments.next().and_then(|rows| rows.parse().ok()).or_else(|| usage()),
            name if PARTS.iter().any(|(part, _)| *part == name) => names.push(name),
            name => match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
                Some(kind) => kinds.push(kind),
                None => usage(),
            },
        }
    }
    if !is_bench && names.is_empty() {
        return println!("nothing to test; run `cargo bench --bench resume`");
    }
    let scale = Scale { rows: rows.unwrap_or(scale.rows), ..scale };
    std::thread::spawn(|| {
        std::thread::sleep(LONGEST);
        eprintln!("given up after {LONGEST:?}");
        std::process::exit(1);
    });
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit may be raised to its maximum");
    println!(
        "tablecast {}, {} cores, files in {}",
        env!("CARGO_PKG_VERSION"),
        std::thread::available_parallelism().map_or(0, |cores| cores.get()),
        env!("CARGO_TARGET_TMPDIR"),
    );
    for kind in Kind::ALL {
        if !kinds.is_empty() && !kinds.contains(&kind) {
            continue;
        }
        for (name, run) in PARTS {
            if names.is_empty() || names.contains(&name) {
                let mut report = Report::new(name);
                run(&mut report, &scale, kind);
                if is_kept {
                    page::keep(name, kind, &report);
                    page::make();
                }
                report.print_json();
            }
        }
    }
}

fn usage() -> ! {
    let parts = PARTS.map(|(part, _)| part).join(" ");
    let kinds = Kind::ALL.map(Kind::name).join("|");
    eprintln!(
        "usage: cargo bench --bench resume -- [--quick] [--rows NUMBER] [--page] [{kinds}] [PART]…, with parts {parts}"
    );
    std::process::exit(2);
}
