//! How fast a tail reads what was written while it couldn't: the server is stopped (SIGSTOP),
//! one statement inserts rows of its prefix, the server goes on. The time ends when the last
//! row was released to the hub, where nobody listens, by the server's own count.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Scale;
use crate::databases::engine::Engine;
use crate::databases::server::{Database, DatabaseServer};
use crate::harness::clients::counted;
use crate::harness::process::Server;
use crate::harness::report::Report;

const CHANNELS: u64 = 1000;
/// More than it takes, on a machine that is busy with other things.
const LONGEST: Duration = Duration::from_secs(120);

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let database_server = DatabaseServer::start(engine);
    let database = database_server.database();
    for _ in 0..scale.catchup_rounds {
        database.empty();
        let server = database.serve(&["--channel-prefix", "bench"]);
        let before = server.memory();
        let rows_per_second = catch_up(&server, &database, "bench:", scale.catchup_rows);
        report.add(
            engine
                .figure()
                .with("rows", scale.catchup_rows)
                .value("rows_per_s", rows_per_second)
                .value("memory_growth_mib", peak_memory(&server).saturating_sub(before) as f64 / 1_048_576.0),
        );
    }
}

/// Rows a second.
pub fn catch_up(server: &Server, database: &Database, lead: &str, rows: u64) -> f64 {
    let before = released(server.internal);
    let process = Pid::from_raw(server.id() as i32).expect("it is a child");
    kill_process(process, Signal::STOP).expect("it lives");
    database.session().run(&database.engine.insert_rows(lead, CHANNELS, (1, rows), rows, 0));
    database.settle();
    let start = Instant::now();
    kill_process(process, Signal::CONT).expect("it lives");
    loop {
        let count = released(server.internal) - before;
        assert!(count <= rows, "each row comes once");
        if count == rows {
            return rows as f64 / start.elapsed().as_secs_f64();
        }
        assert!(start.elapsed() < LONGEST, "only {count} rows of {rows} come");
        thread::sleep(Duration::from_millis(5));
    }
}

fn released(server: SocketAddr) -> u64 {
    counted(server, r#"tablecast_rows_total{result="released"}"#).expect("it counts them") as u64
}

/// The most memory that the server has held so far, in bytes.
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it lives");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
