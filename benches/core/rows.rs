//! What a table that is full of rows costs, by the side of an empty one.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use crate::harness::clients::runtime;
use crate::harness::load::SINGLE;
use crate::harness::process::directory;
use crate::harness::report::{Figure, Report, Times};
use crate::harness::series::Series;
use crate::latency::FLOWING;
use crate::writer::{self, Synchronous};
use crate::{Scale, database, start_server};

/// In turns, so that a machine that slows down meanwhile slows both.
const ROUNDS: usize = 2;
const CHANNELS: u32 = 50_000;

pub fn run(report: &mut Report, scale: &Scale) {
    let full = filled(scale.rows);
    let (mut without, mut with) = (Measured::default(), Measured::default());
    for _ in 0..ROUNDS {
        let empty = directory();
        without.measure(report, empty.path(), 0, scale);
        with.measure(report, full.path(), scale.rows, scale);
    }
    report.add(with.compared_to(&without, scale.rows));
}

#[derive(Default)]
struct Measured {
    latencies: Vec<i64>,
    answers: Vec<i64>,
    messages_per_second: Vec<f64>,
}

impl Measured {
    fn measure(&mut self, report: &mut Report, directory: &Path, rows: u32, scale: &Scale) {
        let server = start_server(directory, &["--wake", "auto", "--sqlite-synchronous", "normal"]);
        let series = Series::measure(
            &server,
            &mut writer::command(directory, Synchronous::Full),
            FLOWING,
            scale.rows_samples,
        );
        let latencies = series.since_commit();
        let figure = Figure::new().with("rows", rows).with("measured", "latency").with("writer", "full");
        report.add(figure.spread(&Times::new(latencies.clone())));
        self.latencies.extend(latencies);

        let throughput = SINGLE.run(&server, scale.http_time);
        let figure = Figure::new().with("rows", rows).with("measured", "http");
        report.add(
            figure
                .value("messages_per_s", throughput.messages_per_second)
                .value("server_cpu_us", throughput.cpu_per_message)
                .spread(&Times::new(throughput.answers.clone())),
        );
        self.answers.extend(throughput.answers);
        self.messages_per_second.push(throughput.messages_per_second);
    }

    /// Quotients of all rounds together.
    fn compared_to(self, other: &Self, rows: u32) -> Figure {
        let rate = |measured: &Self| measured.messages_per_second.iter().sum::<f64>();
        let rates = rate(&self) / rate(other);
        let latencies = [Times::new(self.latencies), Times::new(other.latencies.clone())];
        let answers = [Times::new(self.answers), Times::new(other.answers.clone())];
        let quotient = |[with, without]: &[Times; 2], share| with.at(share) / without.at(share);
        Figure::new()
            .with("rows", rows)
            .with("compared_to", 0)
            .value("latency_p50", quotient(&latencies, 0.5))
            .value("latency_p95", quotient(&latencies, 0.95))
            .value("messages_per_s", rates)
            .value("answer_p50", quotient(&answers, 0.5))
            .value("answer_p99", quotient(&answers, 0.99))
    }
}

/// A directory with a table that has held rows for most of the retention time.
fn filled(rows: u32) -> TempDir {
    let directory = directory();
    // Makes the table.
    drop(start_server(directory.path(), &[]));
    let options =
        SqliteConnectOptions::new().filename(database(directory.path())).disable_statement_logging();
    runtime().block_on(async {
        let mut connection = options.connect().await.expect("the server made it");
        for sql in [FILL_MESSAGES, FILL_HASHES] {
            let inserted = sqlx::query(sql).bind(rows).bind(CHANNELS).execute(&mut connection).await;
            inserted.expect("there is room on the disk");
        }
        connection.close().await.expect("nobody disturbs it");
    });
    directory
}

/// Rows of the last twenty hours, in the order of time; channels come in turns, and their
/// hashes are as scattered as a digest's.
const FILL_MESSAGES: &str = r#"
    INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
    WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < ?1)
    SELECT CAST(printf('progress:%d', i % ?2) AS BLOB),
           CAST(printf('{"percent":%d,"text":"%.*c"}', i % 100, 100, 'x') AS BLOB),
           strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%f seconds', (?1 - i) * 72000.0 / ?1)),
           (((i % ?2) * 2654435761 & 4294967295) << 31) - (i % ?2)
    FROM numbers"#;

/// As if all had been published by SQL.
const FILL_HASHES: &str = "
    INSERT INTO tablecast_stream_hashes (channel, channel_hash)
    SELECT channel, channel_hash FROM solid_cable_messages WHERE id > ?1 - ?2";
