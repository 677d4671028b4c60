//! From another process's COMMIT to a subscriber's socket, where nothing else runs.
//!
//! The time counts from when the writer's INSERT, a transaction of its own, has returned. The
//! row can be seen a little before that, so a time may be negative. What counts from the
//! INSERT's beginning holds the commit, hence the disk, as well.

use crate::Scale;
use crate::databases::connection::Way;
use crate::databases::engine::Engine;
use crate::databases::server::DatabaseServer;
use crate::harness::report::{Report, Times};
use crate::harness::series::Pause;
use crate::writer;

/// After a second without a row the tail is at rest.
const ASLEEP: Pause = Pause::milliseconds(1300, 1600);
const AWAKE: Pause = Pause::milliseconds(50, 150);
pub const FLOWING: Pause = Pause::milliseconds(20, 60);

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let cases: &[(Way, Pause)] = match engine {
        Engine::Postgres => {
            &[(Way::View, ASLEEP), (Way::View, AWAKE), (Way::Table, ASLEEP), (Way::Table, FLOWING)]
        }
        Engine::MariaDb => &[(Way::View, ASLEEP), (Way::View, FLOWING)],
    };
    let database_server = DatabaseServer::start(engine);
    let database = database_server.database();
    for (way, pause) in cases.iter().copied() {
        let is_asleep = pause.least == ASLEEP.least;
        let count = if is_asleep { scale.sparse_samples } else { scale.latency_samples };
        database.empty();
        let server = database.serve(&[]);
        let series = writer::series(&server, &database, way, pause, count);
        for (from, times) in [("commit", series.since_commit()), ("insert", series.since_insert())] {
            report.add(
                engine
                    .figure()
                    .with("way", way.name())
                    .with("pause_ms", pause.name())
                    .with("from", from)
                    .with("n", count)
                    .spread(&Times::new(times)),
            );
        }
    }
}
