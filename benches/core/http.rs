//! Publishing by HTTP, in both of SQLite's modes.

use crate::Scale;
use crate::harness::load::{ARRAYS, SINGLE};
use crate::harness::process::directory;
use crate::harness::report::{Figure, Report, Times};
use crate::start_server;

pub fn run(report: &mut Report, scale: &Scale) {
    for load in [SINGLE, ARRAYS] {
        for synchronous in ["normal", "full"] {
            let directory = directory();
            let server = start_server(directory.path(), &["--sqlite-synchronous", synchronous]);
            let result = load.run(&server, scale.http_time);
            report.add(
                Figure::new()
                    .with("synchronous", synchronous)
                    .with("connections", load.connections)
                    .with("messages", load.messages)
                    .value("messages_per_s", result.messages_per_second)
                    .value("server_cpu_us", result.cpu_per_message)
                    .spread(&Times::new(result.answers)),
            );
        }
    }
}
