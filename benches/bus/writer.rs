//! Workers: processes of their own that write rows by SQL.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::databases::connection::{Connection, Stream, Way};
use crate::databases::server::Database;
use crate::harness::clients::{STREAM, data, runtime};
use crate::harness::process::{Process, Server, WRITE, die_with_parent};
use crate::harness::series::{self, Pause, Series};

/// The bench as many writers at once.
pub const LOAD: &str = "load";

/// Before the inserts count: longer than the first ones after a rest have to notify a server
/// that had gone to sleep.
const WARM_UP: Duration = Duration::from_millis(1500);
const DATA_BYTES: usize = 150;

/// One writer, whose rows a subscriber waits for.
pub fn series(server: &Server, database: &Database, way: Way, pause: Pause, count: usize) -> Series {
    let mut writer = Process::this(WRITE);
    Series::measure(server, writer.args([&database.url, way.name()]), pause, count)
}

/// The role [`WRITE`].
pub fn write(arguments: &[String]) {
    let [url, way, numbers @ ..] = arguments else { panic!("a database and a way") };
    die_with_parent();
    runtime().block_on(async {
        let mut connection = Connection::open(url).await.expect("the database answers");
        let (way, stream) = (Way::named(way), Stream::new(STREAM));
        series::write(numbers, async |data| connection.insert(way, &stream, &data).await).await;
    });
}

/// Inserts a second of `writers` connections in one process, each a single row and a COMMIT.
pub fn rate(database: &Database, way: Way, writers: usize, time: Duration) -> f64 {
    let mut load = Process::this(LOAD);
    let numbers = [writers.to_string(), time.as_millis().to_string()];
    let mut load = Process::spawn(load.args([&database.url, way.name()]).args(numbers));
    let mut count = String::new();
    load.stdout().read_to_string(&mut count).expect("it says how many");
    count.trim().parse::<f64>().expect("a number") / time.as_secs_f64()
}

/// The role [`LOAD`].
pub fn load(arguments: &[String]) {
    let [url, way, writers, time] = arguments else { panic!("four arguments") };
    die_with_parent();
    let (way, time) = (Way::named(way), Duration::from_millis(time.parse().expect("a number")));
    let count: u64 = runtime().block_on(async {
        let mut connections = Vec::new();
        for _ in 0..writers.parse().expect("a number") {
            connections.push(Connection::open(url).await.expect("the database answers"));
        }
        let start = Instant::now() + WARM_UP;
        let end = start + time;
        let writers: JoinSet<u64> = connections
            .into_iter()
            .enumerate()
            .map(|(number, mut connection)| async move {
                let (stream, data) = (Stream::new(&format!("load:{number}")), data(DATA_BYTES, false));
                let mut count = 0;
                loop {
                    connection.insert(way, &stream, &data).await;
                    let now = Instant::now();
                    if now >= end {
                        return count;
                    }
                    count += u64::from(now >= start);
                }
            })
            .collect();
        writers.join_all().await.into_iter().sum()
    });
    writeln!(std::io::stdout(), "{count}").expect("the bench listens");
}
