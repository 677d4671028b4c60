//! Publishing by HTTP as fast as the answers come, each after its COMMIT. A subscriber gets all
//! of it, and the server's time holds that.

use crate::Scale;
use crate::databases::engine::Engine;
use crate::databases::server::DatabaseServer;
use crate::harness::load::{ARRAYS, SINGLE};
use crate::harness::report::{Report, Times};

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let database_server = DatabaseServer::start(engine);
    let database = database_server.database();
    for _ in 0..scale.http_rounds {
        for load in [SINGLE, ARRAYS] {
            database.empty();
            let server = database.serve(&[]);
            let result = load.run(&server, scale.http_time);
            report.add(
                engine
                    .figure()
                    .with("connections", load.connections)
                    .with("messages", load.messages)
                    .value("messages_per_s", result.messages_per_second)
                    .value("server_cpu_us", result.cpu_per_message)
                    .spread(&Times::new(result.answers)),
            );
        }
    }
}
