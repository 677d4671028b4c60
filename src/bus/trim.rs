//! When to trim, and how much at a time.

use std::time::Duration;

use tokio::time::Instant;

use super::database::Writer;
use super::position::Ids;
use super::tail::Progress;

/// Small enough that another writer hardly waits: a batch is a few milliseconds.
const BATCH: u32 = 500;
/// Between two batches the lock is free for others for at least this long.
const PAUSE: Duration = Duration::from_millis(50);
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);
/// Rounds that go on where the last one stopped, before one starts anew.
const ROUNDS_TO_START_ANEW: u32 = 60;

/// Trims in rounds: messages, then what the helper tables needn't keep.
///
/// It runs in the writer's task, between publishes, so that this process has one writer.
pub(super) struct Trimmer {
    lead: String,
    /// None: rows are left alone, by setting or because they are another's.
    retention_secs: Option<u64>,
    progress: Progress,
    /// What had been released when the last round ended. A row whose transaction was open for longer than the
    /// retention is old when it comes: all servers have had a round to see it, and so have those who read back.
    settled: Ids,
    next: Instant,
    stage: Stage,
    rounds: u32,
}

enum Stage {
    Messages,
    Helpers,
}

impl Trimmer {
    pub fn new(lead: String, retention: Option<Duration>, progress: Progress) -> Self {
        let retention_secs = retention.map(|retention| retention.as_secs());
        // Not at once: a server that starts has better things to do.
        let next = Instant::now() + PAUSE;
        let settled = progress.released();
        Self { lead, retention_secs, progress, settled, next, stage: Stage::Messages, rounds: 0 }
    }

    /// Resolves when there is a batch to trim; never, where nothing trims.
    pub async fn due(trimmer: &Option<Self>) {
        match trimmer {
            Some(trimmer) => tokio::time::sleep_until(trimmer.next).await,
            None => std::future::pending().await,
        }
    }

    /// What failed is left for the next round, so that the other stages have theirs.
    pub fn failed(&mut self) {
        self.rest();
        self.stage = match self.stage {
            Stage::Messages => Stage::Helpers,
            Stage::Helpers => Stage::Messages,
        };
    }

    /// One batch.
    pub async fn step(&mut self, writer: &mut Writer) -> Result<(), sqlx::Error> {
        self.next = Instant::now() + PAUSE;
        match self.stage {
            Stage::Messages => {
                let more = match self.retention_secs {
                    // Read before the batch is chosen: what is released later waits.
                    Some(retention) => {
                        // If another history has begun since, `settled` is of the one before.
                        let released = self.progress.released().and(&self.settled);
                        writer.trim(&self.lead, &released, retention, BATCH).await?
                    }
                    None => false,
                };
                if !more {
                    self.stage = Stage::Helpers;
                }
            }
            Stage::Helpers => {
                if !writer.trim_helpers(BATCH).await? {
                    self.stage = Stage::Messages;
                    self.rest();
                    self.rounds += 1;
                    if self.rounds.is_multiple_of(ROUNDS_TO_START_ANEW) {
                        writer.trim_from_the_start();
                    }
                }
            }
        }
        Ok(())
    }

    fn rest(&mut self) {
        self.next = Instant::now() + BETWEEN_ROUNDS;
        self.settled = self.progress.released();
    }
}
