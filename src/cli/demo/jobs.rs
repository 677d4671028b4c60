use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use crate::cli::Outcome;

/// The hidden command that is the jobs' process.
pub const JOBS: &str = "demo-jobs";

pub fn jobs_command() -> Command {
    Command::new(JOBS).hide(true).arg(Arg::new("database").required(true))
}

/// Five jobs that know of tablecast only one view.
pub async fn run_jobs(matches: &ArgMatches) -> Outcome {
    let database = matches.get_one::<String>("database").expect("it is required");
    let jobs = [
        Job {
            id: "import",
            title: "Import customers",
            total: 1000,
            step: 10,
            pause: 60,
            queued: 4000,
            fails_at: None,
            unit: "row",
        },
        Job {
            id: "thumbnails",
            title: "Make thumbnails",
            total: 240,
            step: 2,
            pause: 110,
            queued: 500,
            fails_at: None,
            unit: "image",
        },
        Job {
            id: "report",
            title: "Monthly report",
            total: 60,
            step: 1,
            pause: 150,
            queued: 1000,
            fails_at: Some(34),
            unit: "page",
        },
        Job {
            id: "video",
            title: "Transcode video",
            total: 90,
            step: 1,
            pause: 650,
            queued: 1500,
            fails_at: None,
            unit: "second",
        },
        Job {
            id: "mailing",
            title: "Send newsletter",
            total: 25_000,
            step: 50,
            pause: 8,
            queued: 700,
            fails_at: None,
            unit: "letter",
        },
    ];
    for job in jobs {
        let connection = SqliteConnectOptions::new()
            .filename(database)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging()
            .connect()
            .await?;
        tokio::spawn(async move { job.run(connection).await });
    }
    // Until the demo is gone.
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    Ok(())
}

struct Job {
    id: &'static str,
    title: &'static str,
    total: u64,
    step: u64,
    /// Milliseconds of make-believe work for each step.
    pause: u64,
    /// Milliseconds before it begins.
    queued: u64,
    fails_at: Option<u64>,
    unit: &'static str,
}

impl Job {
    /// Again and again, until the database is gone.
    async fn run(&self, mut connection: SqliteConnection) -> Result<(), sqlx::Error> {
        loop {
            self.publish(
                &mut connection,
                json!({ "status": "queued", "percent": 0, "message": "waiting for a worker" }),
            )
            .await?;
            sleep(Duration::from_millis(self.queued)).await;
            let mut attempt = 1;
            let mut at = 0;
            while at < self.total {
                if attempt == 1 && self.fails_at == Some(at) {
                    let failed = json!({ "status": "retrying", "percent": self.percent(at), "error": "the printer is on fire", "attempt": attempt, "retry_in": 3 });
                    self.publish(&mut connection, failed).await?;
                    sleep(Duration::from_secs(3)).await;
                    (attempt, at) = (2, 0);
                }
                sleep(Duration::from_millis(self.pause)).await;
                at = (at + self.step).min(self.total);
                let message = format!("{} {at} of {}", self.unit, self.total);
                let working = json!({ "status": "working", "percent": self.percent(at), "at": at, "total": self.total, "message": message, "attempt": attempt });
                self.publish(&mut connection, working).await?;
            }
            self.publish(&mut connection, json!({ "status": "completed", "percent": 100, "at": self.total, "total": self.total, "attempt": attempt })).await?;
            sleep(Duration::from_secs(4)).await;
        }
    }

    fn percent(&self, at: u64) -> u64 {
        at * 100 / self.total
    }

    /// Every message is complete, for who comes late.
    async fn publish(&self, connection: &mut SqliteConnection, mut data: Value) -> Result<(), sqlx::Error> {
        data["id"] = self.id.into();
        data["title"] = self.title.into();
        sqlx::query("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)")
            .bind(format!("progress:{}", self.id))
            .bind(data.to_string())
            .execute(connection)
            .await
            .map(drop)
    }
}
