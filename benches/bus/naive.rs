//! Why a table's tail needs more than `id > last`: a reader that asks so each 100 ms, as Solid
//! Cable does, and tablecast's subscribers, beside the same writers. What is in the table
//! in the end is what should have been seen.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Scale;
use crate::databases::connection::{Connection, Session, Stream, Way};
use crate::databases::engine::Engine;
use crate::databases::server::{Database, DatabaseServer};
use crate::harness::clients::{LAST, STREAM, Subscriber, runtime};
use crate::harness::load::publish_last;
use crate::harness::process::{Process, die_with_parent};
use crate::harness::report::Report;

/// The bench as writers of all kinds.
pub const MIX: &str = "mix";

const WRITERS: u64 = 24;
const SUBSCRIBERS: usize = 3;
const POLL: Duration = Duration::from_millis(100);
/// Numbers of one writer: more than it writes.
const NUMBERS: u64 = 1_000_000;

pub fn run(report: &mut Report, scale: &Scale, engine: Engine) {
    let database_server = DatabaseServer::start(engine);
    let database = database_server.database();
    let server = database.serve(&[]);
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let subscriber = Subscriber::connect(server.public);
        subscribers.push(thread::spawn(|| numbers(subscriber)));
    }
    let (done, is_done) = channel::<()>();
    let session = database.session();
    let naive = thread::spawn(move || poll(session, &is_done));

    let rolled_back = mix(&database, scale.naive_time);
    // Each has had time for all that there is.
    thread::sleep(3 * POLL);
    drop(done);
    let naive = naive.join().expect("it only reads");
    let table = database.session().numbers("SELECT id FROM solid_cable_messages ORDER BY id");
    add(report, engine, "naive", rolled_back, &count(naive), &count(table));

    let rows = database.session().texts(engine.payloads());
    let rows = count(rows.iter().map(|payload| number(payload.as_bytes())).collect());
    runtime().block_on(publish_last(&server));
    for subscriber in subscribers {
        let seen = count(subscriber.join().expect("the last message comes"));
        add(report, engine, "tablecast", rolled_back, &seen, &rows);
    }
}

fn add(
    report: &mut Report,
    engine: Engine,
    reader: &str,
    rolled_back: u64,
    seen: &HashMap<i64, usize>,
    table: &HashMap<i64, usize>,
) {
    let lost = table.keys().filter(|number| !seen.contains_key(number)).count();
    let phantoms = seen.keys().filter(|number| !table.contains_key(number)).count();
    let doubled = seen.values().filter(|times| **times > 1).count();
    report.add(
        engine
            .figure()
            .with("reader", reader)
            .with("writers", WRITERS)
            .with("rows", table.len())
            .with("rolled_back", rolled_back)
            .value("lost", lost as f64)
            .value("lost_percent", lost as f64 * 100.0 / table.len() as f64)
            .value("doubled", doubled as f64)
            .value("phantoms", phantoms as f64),
    );
}

fn count(numbers: Vec<i64>) -> HashMap<i64, usize> {
    let mut counts = HashMap::new();
    numbers.into_iter().for_each(|number| *counts.entry(number).or_default() += 1);
    counts
}

/// Ids as Solid Cable finds them.
fn poll(mut session: Session, is_done: &Receiver<()>) -> Vec<i64> {
    let mut last = 0;
    let mut seen = Vec::new();
    loop {
        let is_last = is_done.recv_timeout(POLL) != Err(RecvTimeoutError::Timeout);
        let ids =
            session.numbers(&format!("SELECT id FROM solid_cable_messages WHERE id > {last} ORDER BY id"));
        last = ids.last().copied().unwrap_or(last);
        seen.extend(ids);
        if is_last {
            return seen;
        }
    }
}

/// The numbers of all messages before the last one.
fn numbers(mut subscriber: Subscriber) -> Vec<i64> {
    let mut numbers = Vec::new();
    loop {
        let (_, frame) = subscriber.message().expect("the last message comes");
        if frame.ends_with(LAST) {
            return numbers;
        }
        let frame: Value = serde_json::from_slice(&frame).expect("frames are JSON");
        numbers.push(frame["message"]["number"].as_i64().expect("it has a number"));
    }
}

fn number(payload: &[u8]) -> i64 {
    let payload: Value = serde_json::from_slice(payload).expect("payloads are JSON");
    payload["number"].as_i64().expect("it has a number")
}

/// Runs the writers to their end, and says how many rows they rolled back.
fn mix(database: &Database, time: Duration) -> u64 {
    let mut writers = Process::this(MIX);
    let mut writers = Process::spawn(writers.arg(&database.url).arg(time.as_millis().to_string()));
    let mut said = String::new();
    writers.stdout().read_to_string(&mut said).expect("it says how many");
    said.trim().parse().expect("a number")
}

/// The role [`MIX`].
pub fn write(arguments: &[String]) {
    let [url, time] = arguments else { panic!("two arguments") };
    die_with_parent();
    let end = Instant::now() + Duration::from_millis(time.parse().expect("a number"));
    let rolled_back: u64 = runtime().block_on(async {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let connection = Connection::open(url).await.expect("the database answers");
            writers.spawn(write_until(end, writer, connection));
        }
        writers.join_all().await.into_iter().sum()
    });
    writeln!(std::io::stdout(), "{rolled_back}").expect("the bench listens");
}

/// Of ten transactions six are a single row; two are short, one is long, and one is rolled back.
async fn write_until(end: Instant, writer: u64, mut connection: Connection) -> u64 {
    let stream = Stream::new(STREAM);
    let way = if writer.is_multiple_of(2) { Way::View } else { Way::Table };
    let (mut number, mut rolled_back) = (writer * NUMBERS, 0);
    while Instant::now() < end {
        let (rows, pause_ms, ending) = match rand::random_range(0..10) {
            0..6 => (1, 0, ""),
            6..8 => (3, 10, "COMMIT"),
            8 => (3, 200, "COMMIT"),
            _ => (2, 10, "ROLLBACK"),
        };
        if !ending.is_empty() {
            connection.run("BEGIN").await;
        }
        for _ in 0..rows {
            connection.insert(way, &stream, &format!(r#"{{"number":{number}}}"#)).await;
            number += 1;
            sleep(Duration::from_millis(rand::random_range(0..=pause_ms))).await;
        }
        if !ending.is_empty() {
            connection.run(ending).await;
        }
        rolled_back += if ending == "ROLLBACK" { rows } else { 0 };
        sleep(Duration::from_millis(rand::random_range(0..20))).await;
    }
    rolled_back
}
