//! The words that the tests are told in.

mod database;
mod events;
mod http;
pub mod mariadb;
mod pgbouncer;
pub mod postgres;
mod process;
mod proxy;
mod server;
mod socket;
mod tls;
mod transaction;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use database::{Database, DatabaseServer, PASSWORD};
pub use events::{Event, Events};
pub use http::{Answer, get, request, request_over};
pub use pgbouncer::PgBouncer;
pub use process::{installed, node, run};
pub use proxy::Proxy;
pub use server::{Builder, Server, server, tablecast};
pub use socket::{Frame, Socket};
pub use tls::{Authority, Pair, Wire};
pub use transaction::Transaction;

/// Far more than anything here should take, so that only what hangs fails by it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `{"channel":"$pubsub","stream_name":…}`, for streams that `--public-streams` opens.
pub fn pubsub(stream: &str) -> String {
    serde_json::json!({ "channel": "$pubsub", "stream_name": stream }).to_string()
}

/// Runs SQL in the stock `sqlite3` shell, as a worker would, and gives back what it prints.
pub fn sqlite3(database: &Path, sql: &str) -> String {
    let output = try_sqlite3(database, sql);
    assert!(output.status.success(), "{}\n{sql}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub fn try_sqlite3(database: &Path, sql: &str) -> Output {
    // A statement may begin with a comment, which the shell would take for an option.
    let sql = format!("\n{sql}");
    let mut shell = Command::new("sqlite3");
    shell.arg("-bail").args(["-cmd", ".timeout 10000"]).arg(database).arg(sql);
    shell.output().expect("sqlite3 is installed")
}

/// Runs a Python program with the database's path as its first argument.
pub fn python(database: &Path, program: &str) -> Output {
    Command::new("python3").args(["-c", program]).arg(database).output().expect("python3 is installed")
}

/// Begins another process's transaction on an SQLite file, which holds the lock until it is ended,
/// and runs SQL in it.
pub fn begin(database: &Path, sql: &str) -> Transaction {
    let mut shell = Command::new("sqlite3");
    shell.arg("-bail").args(["-cmd", ".timeout 10000"]).arg(database);
    Transaction::begin(shell, "BEGIN IMMEDIATE", sql)
}

/// Sends a signal to any process, by its id.
pub fn signal(signal: &str, process: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), process]).status();
    assert!(status.unwrap().success());
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
