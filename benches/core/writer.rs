//! A worker: a process of its own that publishes rows by SQL.

use std::path::Path;
use std::process::Command;

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use crate::database;
use crate::harness::clients::{STREAM, runtime};
use crate::harness::process::{self, Process, WRITE};
use crate::harness::series;

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

pub fn command(directory: &Path, synchronous: Synchronous) -> Command {
    let mut command = Process::this(WRITE);
    command.arg(database(directory)).arg(synchronous.name());
    command
}

/// The role [`WRITE`].
pub fn main(arguments: &[String]) {
    let [database, synchronous, numbers @ ..] = arguments else { panic!("a file and a mode") };
    process::die_with_parent();
    let synchronous = if synchronous == "full" { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
    let options =
        SqliteConnectOptions::new().filename(database).synchronous(synchronous).disable_statement_logging();
    runtime().block_on(async {
        let mut connection = options.connect().await.expect("the server made it");
        series::write(numbers, async |data| {
            sqlx::query("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)")
                .bind(STREAM)
                .bind(data)
                .execute(&mut connection)
                .await
                .expect("the row is committed");
        })
        .await;
        connection.close().await.expect("nobody disturbs it");
    });
}
