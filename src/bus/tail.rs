//! The one reader of a process that follows the table.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::sqlite::{Changes, Content, Database, FileId, Reader};
use super::{Batch, BusConfig, Message, OpenError, Source, Status, StatusHandle};
use crate::stream::{MAX_CHANNEL_BYTES, Prefix};
use crate::telemetry::metrics;

/// Follows the table by id, and releases its prefix's rows.
///
/// # Why nothing is lost
///
/// `high` is the last id that was read; a page is all that lies above it. SQLite gives
/// ids out under its write lock and commits in their order, so no row below `high` can
/// still appear. What wakes the tail is only a hint: between two looks lies at most the
/// poll interval.
pub struct Tail {
    database: Database,
    /// None after an error that a new connection may mend.
    reader: Option<Reader>,
    file: FileId,
    /// Another file is read than was, and nobody has been told: not before it could be read.
    replaced: bool,
    changes: Changes,
    prefix: Prefix,
    lead: String,
    max_payload_bytes: usize,
    poll_interval: Duration,
    high: i64,
    /// The last page was full, so the next is read without a wait.
    more: bool,
    file_checked: Instant,
    failures: u32,
    progress: Progress,
    status: StatusHandle,
    skipped: SkipLog,
}

/// How far the tail is, for the writer beside it.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    released: Arc<AtomicI64>,
    /// The writer has committed: there is something to read.
    pub own_writes: Arc<Notify>,
}

impl Progress {
    /// All rows up to this id have been released.
    pub fn released(&self) -> i64 {
        self.released.load(Ordering::Acquire)
    }
}

const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

impl Tail {
    /// Starts at the end of the log: what is there already was for those who listened.
    pub(super) async fn open(
        database: Database,
        config: &BusConfig,
        status: StatusHandle,
    ) -> Result<Self, OpenError> {
        let own_writes = Arc::new(Notify::new());
        let changes = database.changes(own_writes.clone())?;
        let failed = super::sqlite::SetupError::Sqlx;
        let mut reader = database.reader().await.map_err(failed)?;
        let high = reader.last_id().await.map_err(failed)?;
        metrics().tail_position.set(high as f64);
        let now = Instant::now();
        Ok(Self {
            database,
            file: reader.file(),
            replaced: false,
            reader: Some(reader),
            changes,
            prefix: config.prefix.clone(),
            lead: config.prefix.lead(),
            max_payload_bytes: config.max_payload_bytes,
            poll_interval: config.poll_interval,
            high,
            more: false,
            file_checked: now,
            failures: 0,
            progress: Progress { released: Arc::new(AtomicI64::new(high)), own_writes },
            status,
            skipped: SkipLog::new(now),
        })
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// One look: a batch, if there was anything to release.
    async fn look(&mut self) -> Result<Option<Batch>, sqlx::Error> {
        self.connect().await?;
        let reader = self.reader.as_mut().expect("it was just opened");
        if !reader.changed().await? && !self.more {
            return Ok(None);
        }
        self.changes.committed();
        // Should reading fail now, the next look must not wait for another change.
        self.more = true;
        let page = reader.page(self.high, &self.lead, self.max_payload_bytes).await?;
        if page.rows.is_empty() || self.replaced {
            // A commit, and nothing to read above `high`: rows may be gone. Where ids start
            // anew, this table is not the one that was followed.
            let last_id = reader.last_id().await?;
            if self.replaced || last_id < self.high {
                (self.replaced, self.more) = (false, false);
                self.advance(last_id);
                return Ok(Some(Batch::NewHistory));
            }
        }

        self.more = page.full;
        let Some(&(last_id, _)) = page.rows.last() else { return Ok(None) };
        let messages: Vec<_> =
            page.rows.into_iter().filter_map(|(id, content)| self.message(id, content)).collect();
        self.advance(last_id);
        self.changes.flowed();
        metrics().rows_released.increment(messages.len() as u64);
        Ok(Some(Batch::Released(messages)))
    }

    /// Opens the reader where it is missing, and notes where it reads another file than the one
    /// that was followed.
    async fn connect(&mut self) -> Result<(), sqlx::Error> {
        if self.file_checked.elapsed() >= FILE_CHECK_INTERVAL {
            self.file_checked = Instant::now();
            if self.reader.as_ref().is_some_and(|reader| !reader.is_current()) {
                self.reader = None;
            }
        }
        if self.reader.is_some() {
            return Ok(());
        }
        let reader = self.database.reader().await?;
        self.replaced |= reader.file() != self.file;
        self.file = reader.file();
        self.reader = Some(reader);
        Ok(())
    }

    fn advance(&mut self, high: i64) {
        self.high = high;
        self.progress.released.store(high, Ordering::Release);
        metrics().tail_position.set(high as f64);
    }

    /// A row as a message; none if it is another's, or can't be one.
    fn message(&mut self, id: i64, content: Content) -> Option<Message> {
        let (channel, payload) = match content {
            Content::Row { channel, payload } => (channel, payload),
            Content::TooLarge { channel, bytes } => {
                self.skip(id, &channel, Skip::TooLarge(bytes));
                return None;
            }
            Content::Foreign => return None,
        };
        let stream = if channel.len() > MAX_CHANNEL_BYTES { None } else { self.prefix.strip(&channel) };
        let Some(stream) = stream else {
            self.skip(id, &channel, Skip::NotAName);
            return None;
        };
        match String::from_utf8(payload) {
            Ok(payload) if tablecast_protocol::is_json(&payload) => {
                Some(Message { stream, payload: payload.into_boxed_str() })
            }
            _ => {
                self.skip(id, &channel, Skip::NotJson);
                None
            }
        }
    }

    fn skip(&mut self, id: i64, channel: &[u8], why: Skip) {
        match why {
            Skip::TooLarge(_) => metrics().rows_too_large.increment(1),
            Skip::NotJson => metrics().rows_not_json.increment(1),
            Skip::NotAName => metrics().rows_not_a_name.increment(1),
        }
        if !self.skipped.is_due(channel) {
            return;
        }
        let channel = String::from_utf8_lossy(&channel[..channel.len().min(SHOWN_CHANNEL_BYTES)]);
        match why {
            Skip::TooLarge(bytes) => {
                tracing::warn!(id, %channel, bytes, "a row is larger than --max-payload-bytes and was skipped");
            }
            Skip::NotJson => tracing::warn!(id, %channel, "a row's payload is not JSON and was skipped"),
            Skip::NotAName => {
                tracing::warn!(id, %channel, "a row's channel is too long or not UTF-8 and was skipped")
            }
        }
    }
}

impl Source for Tail {
    async fn next(&mut self) -> Batch {
        loop {
            match self.look().await {
                Ok(found) => {
                    if self.failures > 0 {
                        self.failures = 0;
                        self.status.set(Status::Following);
                    }
                    match found {
                        Some(batch) => return batch,
                        None => self.changes.worth_a_look(self.poll_interval).await,
                    }
                }
                Err(error) => self.recover(error).await,
            }
        }
    }
}

impl Tail {
    /// Keeps `high`, so that after any outage all that was committed meanwhile is read.
    async fn recover(&mut self, error: sqlx::Error) {
        self.failures = self.failures.saturating_add(1);
        // One failed look under a lock is a matter of milliseconds, not of readiness.
        if self.failures > 1 {
            self.status.set(Status::Away(error.to_string().into()));
        }
        if !super::sqlite::is_locked(&error)
            && let Some(reader) = self.reader.take()
        {
            reader.close().await;
        }
        let longest = self.poll_interval.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

#[derive(Clone, Copy)]
enum Skip {
    TooLarge(i64),
    NotJson,
    NotAName,
}

/// Lets one line a minute through for each stream.
struct SkipLog {
    since: Instant,
    seen: HashSet<Vec<u8>>,
}

/// Of a channel that may be anything, so much goes into the log.
const SHOWN_CHANNEL_BYTES: usize = 128;
/// More streams than this in a minute aren't told apart any more.
const SKIP_LOG_STREAMS: usize = 1000;

impl SkipLog {
    fn new(now: Instant) -> Self {
        Self { since: now, seen: HashSet::new() }
    }

    fn is_due(&mut self, channel: &[u8]) -> bool {
        if self.since.elapsed() >= Duration::from_secs(60) {
            *self = Self::new(Instant::now());
        }
        self.seen.len() < SKIP_LOG_STREAMS
            && self.seen.insert(channel.iter().take(SHOWN_CHANNEL_BYTES).copied().collect())
    }
}
