//! From another process's COMMIT to a subscriber's socket, on a server that has nothing else
//! to do.
//!
//! The time counts from when the writer's INSERT has returned. What the socket sees before
//! that is negative and stays so: a commit can be seen before its writer has gone on to
//! checkpoint the log. The writer also learns of its commit one hop between two threads later
//! than SQLite does (sqlx), by which all is too small. What counts from the INSERT's beginning
//! has neither flaw, and holds the commit as well.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::Scale;
use crate::clients::Subscriber;
use crate::process::{Server, directory};
use crate::report::{Figure, Report, Times};
use crate::writer::{self, Commit, Pause, Synchronous};

const FLOWING: Pause = Pause { least: Duration::from_millis(50), most: Duration::from_millis(150) };
/// The table counts as flowing for a second; then it is polled at the poll interval alone.
const SPARSE: Pause = Pause { least: Duration::from_millis(1050), most: Duration::from_millis(1250) };

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
    let server = Server::start(directory.path(), &["--wake", wake]);
    let series = Series::measure(&server, directory.path(), synchronous, pause, count);
    for (from, times) in [("commit", series.since_commit()), ("insert", series.since_insert())] {
        report.add(
            Figure::new()
                .with("wake", wake)
                .with("writer", synchronous.name())
                .with("pause_ms", format!("{}..{}", pause.least.as_millis(), pause.most.as_millis()))
                .with("from", from)
                .with("n", count)
                .spread(&Times::new(times)),
        );
    }
}

/// Rows with the times at both ends.
pub struct Series {
    commits: Vec<Commit>,
    received: Vec<i64>,
}

impl Series {
    /// Has a writer commit rows, and a subscriber receive them.
    pub fn measure(
        server: &Server,
        directory: &Path,
        synchronous: Synchronous,
        pause: Pause,
        count: usize,
    ) -> Self {
        let mut subscriber = Subscriber::connect(server.public);
        let receiving = thread::spawn(move || receive(&mut subscriber, count));
        let commits = writer::write(directory, synchronous, pause, count);
        Self { commits, received: receiving.join().expect("all rows come") }
    }

    pub fn flowing(server: &Server, directory: &Path, synchronous: Synchronous, count: usize) -> Self {
        Self::measure(server, directory, synchronous, FLOWING, count)
    }

    pub fn since_commit(&self) -> Vec<i64> {
        self.since(|commit| commit.returned)
    }

    fn since_insert(&self) -> Vec<i64> {
        self.since(|commit| commit.begun)
    }

    fn since(&self, start: impl Fn(&Commit) -> i64) -> Vec<i64> {
        self.received.iter().zip(&self.commits).map(|(received, commit)| received - start(commit)).collect()
    }
}

/// When each row came, in order and none but these.
fn receive(subscriber: &mut Subscriber, count: usize) -> Vec<i64> {
    let receive = |sequence| {
        let (received, frame) = subscriber.message().expect("the row comes");
        let frame: Value = serde_json::from_slice(&frame).expect("frames are JSON");
        assert_eq!(frame["message"]["sequence"], sequence, "rows come in order, each once");
        received
    };
    (0..count).map(receive).collect()
}
