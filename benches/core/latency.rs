//! From another process's COMMIT to a subscriber's socket, on a server that has nothing else
//! to do.
//!
//! The time counts from when the writer's INSERT has returned. What the socket sees before
//! that is negative and stays so: a commit can be seen before its writer has gone on to
//! checkpoint the log. The writer also learns of its commit one hop between two threads later
//! than SQLite does (sqlx), by which all is too small. What counts from the INSERT's beginning
//! has neither flaw, and holds the commit as well.

use crate::Scale;
use crate::harness::process::directory;
use crate::harness::report::{Figure, Report, Times};
use crate::harness::series::{Pause, Series};
use crate::start_server;
use crate::writer::{self, Synchronous};

pub const FLOWING: Pause = Pause::milliseconds(50, 150);
/// The table counts as flowing for a second; then it is polled at the poll interval alone.
const SPARSE: Pause = Pause::milliseconds(1050, 1250);

pub fn run(report: &mut Report, scale: &Scale) {
    for wake in ["auto", "poll"] {
        for synchronous in [Synchronous::Full, Synchronous::Normal] {
            measure(report, wake, synchronous, FLOWING, scale.latency_samples);
        }
        measure(report, wake, Synchronous::Full, SPARSE, scale.sparse_samples);
    }
}

fn measure(report: &mut Report, wake: &str, synchronous: Synchronous, pause: Pause, count: usize) {
    let directory = directory();
    let server = start_server(directory.path(), &["--wake", wake]);
    let series = Series::measure(&server, &mut writer::command(directory.path(), synchronous), pause, count);
    for (from, times) in [("commit", series.since_commit()), ("insert", series.since_insert())] {
        report.add(
            Figure::new()
                .with("wake", wake)
                .with("writer", synchronous.name())
                .with("pause_ms", pause.name())
                .with("from", from)
                .with("n", count)
                .spread(&Times::new(times)),
        );
    }
}
