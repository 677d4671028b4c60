//! A worker: a process of its own that publishes rows by SQL.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::clients::{STREAM, runtime};
use crate::process::{self, Process, WRITE, now};

/// When a writer's commits return.
#[derive(Clone, Copy)]
pub enum Synchronous {
    /// Once they are on the disk: what a plain connection does.
    Full,
    Normal,
}

impl Synchronous {
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
        }
    }
}

/// The least and the most that a writer waits between two rows.
#[derive(Clone, Copy)]
pub struct Pause {
    pub least: Duration,
    pub most: Duration,
}

/// One row's INSERT, in its writer's eyes.
pub struct Commit {
    pub begun: i64,
    pub returned: i64,
}

/// Runs a writer to its end.
pub fn write(directory: &Path, synchronous: Synchronous, pause: Pause, count: usize) -> Vec<Commit> {
    let numbers = [pause.least.as_millis(), pause.most.as_millis(), count as u128];
    let mut command = Process::this(WRITE);
    command
        .arg(process::database(directory))
        .arg(synchronous.name())
        .args(numbers.map(|number| number.to_string()));
    let mut writer = Process::spawn(&mut command);
    let lines = writer.stdout().lines();
    let commits: Vec<_> = lines.map(|line| parse(&line.expect("it is text"))).collect();
    assert_eq!(commits.len(), count, "the writer ended early");
    commits
}

fn parse(line: &str) -> Commit {
    let (begun, returned) = line.split_once(' ').expect("two times");
    let number = |text: &str| text.parse().expect("a number");
    Commit { begun: number(begun), returned: number(returned) }
}

/// The role [`WRITE`].
pub fn main(arguments: &[String]) {
    let [database, synchronous, least, most, count] = arguments else { panic!("five arguments") };
    process::die_with_parent();
    let synchronous = if synchronous == "full" { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
    let options =
        SqliteConnectOptions::new().filename(database).synchronous(synchronous).disable_statement_logging();
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let pauses = number(least)..=number(most);
    runtime().block_on(async {
        let mut connection = options.connect().await.expect("the server made it");
        for sequence in 0..number(count) {
            tokio::time::sleep(Duration::from_millis(rand::random_range(pauses.clone()))).await;
            let commit = insert(&mut connection, sequence).await;
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{} {}", commit.begun, commit.returned).expect("the bench listens");
        }
        connection.close().await.expect("nobody disturbs it");
    });
}

async fn insert(connection: &mut SqliteConnection, sequence: u64) -> Commit {
    let data = format!(r#"{{"sequence":{sequence},"percent":50,"text":"{}"}}"#, "x".repeat(100));
    let begun = now();
    sqlx::query("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)")
        .bind(STREAM)
        .bind(data)
        .execute(connection)
        .await
        .expect("the row is committed");
    Commit { begun, returned: now() }
}
