//! Promises 1 to 3 and 5, held against a real run: many writers publish in every way, two servers
//! deliver, the database is restarted, killed and paused meanwhile. Each delivery is logged, and at
//! the end the logs are compared with the table.
//!
//!     cargo test --test program history::                       # half a minute a database
//!     HISTORY_SECONDS=1800 cargo test --release --test program history::postgres -- --nocapture
//!
//! `HISTORY_SEED` repeats what was chosen, though not how it was timed. With `HISTORY_NAIVE=1` a
//! reader by `id > last`, as Solid Cable is one, is checked beside the servers; what it misses is
//! printed.

mod check;
mod engine;
mod faults;
mod journal;
mod reader;
mod report;
mod session;
mod writer;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::support::{Database, DatabaseServer, Server, server, tablecast};
use check::{Log, Table};
use engine::Engine;
use faults::Fault;
use journal::Journal;
use report::Report;
use session::Session;

#[test]
fn postgres() {
    run(Engine::Postgres);
}

#[test]
fn mariadb() {
    run(Engine::MariaDb);
}

const PREFIX: &str = "history";
const WRITERS: u16 = 24;
/// Streams that all writers share; after them comes one of each writer's own.
const SHARED_STREAMS: u16 = 4;
const STREAMS: u16 = SHARED_STREAMS + WRITERS;

fn stream_name(stream: u16) -> String {
    match stream.checked_sub(SHARED_STREAMS) {
        None => format!("shared:{stream}"),
        Some(writer) => format!("own:{writer}"),
    }
}

/// A message, as (writer, number).
type Name = (u16, u32);
/// Since the start, in milliseconds.
type Time = u32;

/// What all who take part share.
struct Stage {
    engine: Engine,
    url: String,
    seed: u64,
    began: Instant,
    /// Writers and faults come to their end.
    over: AtomicBool,
    /// Each stream's last message is committed, or never will be.
    written: AtomicBool,
    /// What each connection saw last, packed; 0 before the first.
    seen: Vec<AtomicU64>,
    /// Each writer's process in the database while it is in a transaction, else 0.
    backends: Vec<AtomicI32>,
    /// Whether transactions can be prepared.
    prepares: bool,
}

impl Stage {
    fn now(&self) -> Time {
        self.began.elapsed().as_millis() as Time
    }

    /// For one of many who choose at random.
    fn random(&self, who: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed ^ who)
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn is_written(&self) -> bool {
        self.written.load(Relaxed)
    }
}

/// Whatever fails, no thread goes on for ever.
struct Ending<'a>(&'a Stage);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Relaxed);
        self.0.written.store(true, Relaxed);
    }
}

fn knob<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}

fn run(engine: Engine) {
    let seed: u64 = knob("HISTORY_SEED").unwrap_or_else(rand::random);
    let seconds: u64 = knob("HISTORY_SECONDS").unwrap_or(30);
    println!("HISTORY_SEED={seed} HISTORY_SECONDS={seconds} ({engine:?})");
    let prepares = engine.can_prepare() && seed.is_multiple_of(2);

    let mut database_server = engine.start(prepares);
    let database = database_server.database();
    set_up(engine, &database);
    let servers = [serve(&database, &["--wake=auto"]), serve(&database, &["--wake=poll"])];
    let stage = Arc::new(Stage {
        engine,
        url: database.url(),
        seed,
        began: Instant::now(),
        over: AtomicBool::new(false),
        written: AtomicBool::new(false),
        seen: (0..servers.len() * reader::WHOLE).map(|_| AtomicU64::new(0)).collect(),
        backends: (0..WRITERS).map(|_| AtomicI32::new(0)).collect(),
        prepares,
    });
    let naive = knob::<u8>("HISTORY_NAIVE").is_some_and(|naive| naive > 0);
    let recording = record(&stage, &servers, &mut database_server, Duration::from_secs(seconds), naive);

    let mut violations = check::check(&recording.table, &recording.logs);
    violations.extend(recording.journal.compare(&recording.table));
    let report = Report { stage: &stage, recording: &recording };
    report.print();
    if !violations.is_empty() {
        report.tell(&violations);
        panic!("{} violations; HISTORY_SEED={seed} HISTORY_SECONDS={seconds}", violations.len());
    }
}

/// All that is left of a run.
struct Recording {
    table: Table,
    logs: Vec<Log>,
    journal: Journal,
    faults: Vec<Fault>,
    naive: Option<Log>,
}

fn record(
    stage: &Arc<Stage>,
    servers: &[Server],
    database: &mut DatabaseServer,
    time: Duration,
    naive: bool,
) -> Recording {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    thread::scope(|scope| {
        let _ending = Ending(stage);
        let mut staying = Vec::new();
        let mut visiting = Vec::new();
        for (number, server) in servers.iter().enumerate() {
            for one in 0..reader::WHOLE {
                let reader = reader::Whole::subscribe(server, number, one, stage);
                staying.push(scope.spawn(move || reader.read(stage)));
            }
            visiting.push(scope.spawn(move || reader::come_and_go(server, number, stage)));
        }
        let naive = naive.then(|| {
            let naive = runtime.block_on(reader::Naive::begin(stage.clone()));
            runtime.spawn(naive.read())
        });
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| runtime.spawn(writer::write(stage.clone(), writer))).collect();
        let faults = scope.spawn(move || faults::cause(database, stage));

        let end = stage.began + time;
        while Instant::now() < end && !faults.is_finished() {
            thread::sleep(Duration::from_millis(100));
        }
        stage.over.store(true, Relaxed);
        // The database runs from here on.
        let faults = faults.join().unwrap();
        let journal = writers.into_iter().map(|writer| runtime.block_on(writer).unwrap());
        let journal = Journal::new(journal.collect());
        let table = runtime.block_on(async {
            writer::publish_markers(stage).await;
            stage.written.store(true, Relaxed);
            read_table(stage, &journal).await
        });
        let mut logs: Vec<Log> = staying.into_iter().map(|reader| reader.join().unwrap()).collect();
        logs.extend(visiting.into_iter().flat_map(|reader| reader.join().unwrap()));
        let naive = naive.map(|naive| runtime.block_on(naive).unwrap());
        Recording { table, logs, journal, faults, naive }
    })
}

fn set_up(engine: Engine, database: &Database) {
    let mut migrate = tablecast();
    migrate.args(["migrate", "--channel-prefix", PREFIX, "--database-url", &database.url()]);
    let output = migrate.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    database.sql(engine.set_up());
}

fn serve(database: &Database, arguments: &[&str]) -> Server {
    let mut builder = server().database_url(&database.url()).with_prefix(PREFIX).open();
    // All rows are needed in the end, and a reader that this process keeps waiting is none that
    // is slow.
    for argument in ["--retention=off", "--send-buffer-bytes=64MiB"].iter().chain(arguments) {
        builder = builder.arg(argument);
    }
    builder.start()
}

async fn read_table(stage: &Stage, journal: &Journal) -> Table {
    let mut session = Session::open(stage).await.unwrap();
    let mut rows = Vec::new();
    let mut after = i64::MIN;
    loop {
        let page = session.read(after, 10_000).await.unwrap();
        let Some(last) = page.last() else { return Table::new(rows) };
        after = last.id;
        rows.extend(page.into_iter().filter_map(|row| check::Row::new(row, journal)));
    }
}
