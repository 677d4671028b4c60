//! What a table that is full of rows costs, by the side of an empty one: latency, publishing by
//! HTTP, and catching up, in pairs of runs.
//!
//! The full one has dead ids all over, and a transaction is open in its database that has
//! written elsewhere, so that nobody can tell by xids alone that those ids are dead. The empty
//! one is in another database server, since such a transaction is felt in all databases of one.
//! That second server is idle while the other is measured.

use std::time::{Duration, Instant};

use crate::Scale;
use crate::catchup::catch_up;
use crate::databases::connection::{Session, Way};
use crate::databases::engine::Engine;
use crate::databases::pairs::Pairs;
use crate::databases::server::{Database, DatabaseServer};
use crate::harness::load::SINGLE;
use crate::harness::report::{Report, Times};
use crate::latency::FLOWING;
use crate::writer;

const CHANNELS: u64 = 50_000;
/// Rows of a statement that fills, and of how many one is deleted again.
const CHUNK: u64 = 500_000;
const DEAD: u64 = 100;
/// For so long after its start a server is busy with the ids that are missing.
const SETTLES: Duration = Duration::from_secs(10);
/// Within the time for which rows are retained.
const AGE_S: u64 = 20 * 3600;

const QUANTITIES: [&str; 5] =
    ["start_ms", "latency_p50_us", "latency_p95_us", "messages_per_s", "rows_per_s"];

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let servers = [DatabaseServer::start(engine), DatabaseServer::start(engine)];
    let [full, empty] = servers.each_ref().map(DatabaseServer::database);
    let started = Instant::now();
    fill(&full, scale.rows);
    let held = hold(&full);
    report.add(
        engine
            .figure()
            .with("rows", scale.rows)
            .with("dead", scale.rows / DEAD)
            .value("filled_s", started.elapsed().as_secs_f64()),
    );
    let pairs = Pairs::measure(scale.pairs, |is_full| {
        if is_full {
            full.settle();
            measure(&full, scale)
        } else {
            empty.empty();
            measure(&empty, scale)
        }
    });
    drop(held);
    for (number, quantity) in QUANTITIES.into_iter().enumerate() {
        let figure = engine.figure().with("rows", scale.rows).with("what", quantity);
        report.add(pairs.compare(number, figure.with("pairs", scale.pairs)));
    }
}

/// In the order of [`QUANTITIES`].
fn measure(database: &Database, scale: &Scale) -> [f64; 5] {
    let started = Instant::now();
    let server = database.serve(&[]);
    let start = started.elapsed().as_secs_f64() * 1000.0;
    std::thread::sleep(SETTLES);
    let series = writer::series(&server, database, Way::View, FLOWING, scale.full_samples);
    let latencies = Times::new(series.since_commit());
    let published = SINGLE.run(&server, scale.full_time).messages_per_second;
    let caught_up = catch_up(&server, database, "late:", scale.full_catchup_rows);
    [start, latencies.at(0.5), latencies.at(0.95), published, caught_up]
}

/// Indexes are made last: in the other order random pages of each would be written all the while.
fn fill(database: &Database, rows: u64) {
    let engine = database.engine;
    let mut session = database.session();
    let [drop_indexes, make_indexes] = engine.indexes().map(|sql| session.texts(sql));
    for sql in drop_indexes {
        session.run(&sql);
    }
    for first in (1..=rows).step_by(CHUNK as usize) {
        let last = rows.min(first + CHUNK - 1);
        session.run(&engine.insert_rows("progress:", CHANNELS, (first, last), rows, AGE_S));
    }
    session.run(&format!("DELETE FROM solid_cable_messages WHERE id % {DEAD} = 0"));
    for sql in make_indexes {
        session.run(&sql);
    }
    session.run(engine.tidy());
}

/// A transaction that stays open and has written, though not to the table.
fn hold(database: &Database) -> Session {
    let mut session = database.session();
    session.run("CREATE TABLE elsewhere (id integer)");
    session.run("BEGIN");
    session.run("INSERT INTO elsewhere VALUES (1)");
    session
}
