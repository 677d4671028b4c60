//! What writers pay: inserts a second of 32 connections in one process, each a prepared INSERT
//! of a single row that commits by itself, in pairs of runs on an emptied table. The first
//! 1.5 s don't count, in which a server that was at rest is still being notified: what a burst
//! after a rest pays for its first second is not measured here.
//!
//! - `server`: straight into the table, with a server that follows it against without. The
//!   server has no subscribers; it takes its share of the same two cores.
//! - `wake`: through the view, with a server in both runs, with the look at the deadline in
//!   the view's function against the function without it (PostgreSQL).
//! - `view`: through the view against straight into the table, without a server.

use crate::Scale;
use crate::databases::connection::Way;
use crate::databases::engine::Engine;
use crate::databases::pairs::Pairs;
use crate::databases::server::{Database, DatabaseServer};
use crate::harness::report::Report;
use crate::writer;

const WRITERS: usize = 32;
const WAKE: &str = include_str!("../../migrations/postgres/wake.sql");
const FUNCTION: &str = "SELECT pg_get_functiondef('public.tablecast_publish_insert()'::regprocedure)";

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let database_server = DatabaseServer::start(engine);
    let database = &database_server.database();
    let measure = |way, is_served| {
        database.empty();
        let server = if is_served { Some(database.serve(&[])) } else { None };
        let rate = writer::rate(database, way, WRITERS, scale.writers_time);
        drop(server);
        [rate]
    };
    let mut compare = |what, pairs: Pairs<1>| {
        let figure = engine.figure().with("what", what).with("writers", WRITERS);
        report.add(pairs.compare(0, figure.with("pairs", scale.pairs)));
    };
    compare("server", Pairs::measure(scale.pairs, |with| measure(Way::Table, with)));
    if engine == Engine::Postgres {
        let functions = Functions::of(database);
        let pairs = Pairs::measure(scale.pairs, |with| {
            database.session().run(if with { &functions.with_wake } else { &functions.without });
            measure(Way::View, true)
        });
        database.session().run(&functions.with_wake);
        compare("wake", pairs);
    }
    let way = |with| if with { Way::View } else { Way::Table };
    compare("view", Pairs::measure(scale.pairs, |with| measure(way(with), false)));
}

/// The view's function as `tablecast migrate` makes it, and without the part that wakes.
struct Functions {
    with_wake: String,
    without: String,
}

impl Functions {
    fn of(database: &Database) -> Self {
        let with_wake = database.session().texts(FUNCTION).remove(0);
        let without = with_wake.replace(&WAKE.replace("{{schema}}", "public"), "");
        assert!(without.len() < with_wake.len(), "the function wakes nobody");
        Self { with_wake, without }
    }
}
