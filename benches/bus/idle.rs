//! What a server with nothing to do asks of its database, and of the processor.
//!
//! PostgreSQL counts transactions; a statement outside of one is one. A session reports its
//! own with up to a second's delay, and the window is that much unsharp at each end. The row
//! `wake=none` is without a server: the database's own work, and the question itself.

use std::thread;
use std::time::Duration;

use crate::Scale;
use crate::databases::engine::Engine;
use crate::databases::server::DatabaseServer;
use crate::harness::report::Report;

/// Until what the start has cost is counted, and the tail is at rest.
const SETTLED: Duration = Duration::from_secs(4);

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let database_server = DatabaseServer::start(engine);
    let database = database_server.database();
    let mut administration = database_server.administration();
    let wakes: &[&str] = match engine {
        Engine::Postgres => &["none", "auto", "notify", "poll"],
        Engine::MariaDb => &["none", "auto", "poll"],
    };
    for wake in wakes.iter().copied() {
        let server = (wake != "none").then(|| database.serve(&["--wake", wake]));
        let cpu = || server.as_ref().map_or(Duration::ZERO, |server| server.cpu());
        thread::sleep(SETTLED);
        let (work, used) = (administration.number(engine.work()), cpu());
        thread::sleep(scale.idle_time);
        let (work, used) = (administration.number(engine.work()) - work, cpu() - used);
        let seconds = scale.idle_time.as_secs_f64();
        report.add(
            engine
                .figure()
                .with("wake", wake)
                .with("seconds", seconds)
                .value("statements_per_s", work as f64 / seconds)
                .value("server_cpu_percent", used.as_secs_f64() * 100.0 / seconds),
        );
    }
}
