//! The one reader of a process that follows the table.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::barrier::{BarrierHandle, Barriers};
use super::cut::Cut;
use super::database::{Database, History, Reader, SetupError, Trouble, Waker};
use super::gaps::{Gaps, Request, Tick};
use super::position::{Era, Ids, Steps};
use super::row::{Content, Page, Row};
use super::{Batch, BusConfig, Mark, Message, Messages, Source, Status, StatusHandle, channel_hash};
use crate::stream::{MAX_CHANNEL_BYTES, Prefix, Stream};
use crate::telemetry::{OnceAMinute, metrics};

/// Follows the table by id, and releases its prefix's rows.
///
/// Why nothing is lost, nothing comes twice and order holds is told where it is kept, in
/// [`gaps`](super::gaps). What wakes the tail is only a hint: between two looks lies at most
/// the poll interval.
pub struct Tail {
    database: Database,
    /// None after an error that a new connection may mend.
    reader: Option<Reader>,
    history: History,
    waker: Waker,
    prefix: Prefix,
    poll_interval: Duration,
    /// There is more to read, so the next look doesn't wait.
    again: bool,
    /// All that there was has been handed on. Looking again at once would find the few rows that
    /// have come meanwhile, and be a busy writer's burden without end.
    rests_first: bool,
    connection_checked: Instant,
    failures: u32,
    strays_told: OnceAMinute,
    progress: Progress,
    barriers: Barriers<Cut>,
    era: Arc<Era>,
    /// When the last look began, by the database's clock: seconds since 1970.
    look_began: i64,
    marks_superseded: bool,
    status: StatusHandle,
    skipped: SkipLog,
}

/// How far the tail is, for who stands beside it.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    gaps: Arc<Mutex<Gaps>>,
    /// The writer has committed: there is something to read.
    pub own_writes: Arc<Notify>,
}

impl Progress {
    /// For who trims.
    pub fn released(&self) -> Ids {
        Ids::certainly_released(&self.gaps.lock())
    }
}

const CONNECTION_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

impl Tail {
    /// Starts at the end of the log: what is there already was for those who listened.
    pub(super) async fn open(
        database: Database,
        config: &BusConfig,
        status: StatusHandle,
    ) -> Result<Self, SetupError> {
        let own_writes = Arc::new(Notify::new());
        let waker = database.waker(own_writes.clone()).await?;
        let failed = |error| database.setup_error(error);
        let mut reader = database.reader().await.map_err(failed)?;
        let time = reader.time();
        let start = reader.start().await.map_err(failed)?;
        let now = Instant::now();
        let gaps = Gaps::new(reader.evidence(), start, now);
        metrics().followed(&gaps);
        let gaps = Arc::new(Mutex::new(gaps));
        Ok(Self {
            history: reader.history(),
            era: Arc::new(Era { history: reader.life(), time, ..Era::default() }),
            look_began: time,
            reader: Some(reader),
            waker,
            prefix: config.prefix.clone(),
            poll_interval: config.poll_interval,
            again: false,
            rests_first: false,
            connection_checked: now,
            failures: 0,
            strays_told: OnceAMinute::default(),
            barriers: Barriers::new(own_writes.clone()),
            progress: Progress { gaps, own_writes },
            marks_superseded: config.marks_superseded,
            status,
            skipped: SkipLog::new(now),
            database,
        })
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    pub(super) fn barriers(&self) -> BarrierHandle<Cut> {
        self.barriers.handle()
    }

    /// One look: a batch, if there was anything to release.
    async fn look(&mut self) -> Result<Option<Batch>, sqlx::Error> {
        self.again = false;
        if !self.connect().await? {
            return Ok(Some(self.begin_anew().await?));
        }
        self.look_began = self.reader.as_ref().expect("it was just opened").time();
        if let Some(batch) = self.look_again().await? {
            self.again = true;
            return Ok(Some(batch));
        }
        let reader = self.reader.as_mut().expect("it was just opened");
        let (lists, request) = {
            let mut gaps = self.progress.gaps.lock();
            let lists = reader.lists(gaps.wants_list(Instant::now()) || self.waker.wants_facts());
            (lists, gaps.request(lists))
        };
        let began = Instant::now();
        let Some(page) = reader.look(&request, lists).await? else { return Ok(None) };
        let ended = Instant::now();
        self.waker.looked(page.rows.len(), page.facts.as_ref());
        if page.last_value < request.above {
            return Ok(Some(self.begin_anew().await?));
        }
        if reader.life() != self.era.history {
            // It had none before.
            Arc::make_mut(&mut self.era).history = reader.life();
        }

        let Page { rows, full, last_value, facts } = page;
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let (found, new) = ids.split_at(ids.partition_point(|id| *id <= request.above));
        // Asked before anything counts as released: should it fail, nothing is lost.
        let superseded = if self.marks_superseded && !found.is_empty() {
            reader.superseded(&rows[..found.len()], request.above).await?
        } else {
            Vec::new()
        };
        let (release, steps, strays, ignored) = {
            let mut gaps = self.progress.gaps.lock();
            let (before, counts) = (Ids::released(&gaps), gaps.counts());
            let release = gaps.observe(&Tick { began, ended, found, new, full, last_value, facts });
            metrics().followed(&gaps);
            let steps = Steps::new(before, release.ids.clone(), release.late, gaps.high());
            let now = gaps.counts();
            (release, steps, now.strays - counts.strays, now.strays_ignored - counts.strays_ignored)
        };
        if strays > 0 || ignored > 0 {
            self.strayed(strays, ignored).await;
        }
        self.again = release.again;
        Ok(self.batch(rows, &superseded, steps))
    }

    /// What was given up is looked at again now and then. A find means that a rule was broken, by
    /// this program or by a writer that draws ids in some way of its own.
    async fn look_again(&mut self) -> Result<Option<Batch>, sqlx::Error> {
        let (before, ranges) = {
            let mut gaps = self.progress.gaps.lock();
            let Some(ranges) = gaps.second_look(Instant::now()) else { return Ok(None) };
            (Ids::released(&gaps), ranges)
        };
        let request = Request { probes: ranges, above: i64::MAX, except: Vec::new() };
        let reader = self.reader.as_mut().expect("it was just opened");
        let Some(page) = reader.look(&request, false).await? else { return Ok(None) };
        let ids: Vec<i64> = page.rows.iter().map(|row| row.id).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let superseded = if self.marks_superseded {
            reader.superseded(&page.rows, before.high).await?
        } else {
            Vec::new()
        };
        let found = {
            let mut gaps = self.progress.gaps.lock();
            let found = gaps.found_again(&ids);
            metrics().followed(&gaps);
            found
        };
        if !found.is_empty() {
            metrics().rows_after_giving_up.increment(found.len() as u64);
            tracing::error!(
                rows = found.len(),
                first_id = found[0],
                "rows came after their ids had been given up, and are delivered late: were ids drawn long before their INSERT?"
            );
        }
        let high = before.high;
        let late = found.len();
        Ok(self.batch(page.rows, &superseded, Steps::new(before, found, late, high)))
    }

    /// Rows lie above all that the table's sequence has given out: they were written by hand, or
    /// the table draws from another sequence now, which a new connection finds out.
    async fn strayed(&mut self, released: u64, ignored: u64) {
        metrics().rows_stray.increment(released);
        if !self.strays_told.is_due() {
            return;
        }
        if ignored > 0 {
            tracing::error!(
                rows = ignored,
                "too many ids lie above all that the table's sequence has given out, and are not delivered: set it (setval) to the highest id"
            );
        } else {
            tracing::warn!(rows = released, "ids lie above all that the table's sequence has given out");
        }
        self.disconnect().await;
    }

    /// The rows that were released, which are in the order of the rows, as messages. Those whose
    /// ids are in `superseded` are.
    fn batch(&mut self, rows: Vec<Row>, superseded: &[i64], steps: Steps) -> Option<Batch> {
        let mut messages = Vec::with_capacity(rows.len());
        let mut counts = Vec::with_capacity(rows.len());
        let mut released = 0;
        for Row { id, content } in rows {
            if steps.ids().get(released) != Some(&id) {
                continue;
            }
            released += 1;
            if let Some((stream, payload)) = self.message(id, content) {
                let superseded = superseded.contains(&id);
                messages.push(Message { stream, payload, superseded, mark: Mark(id) });
                counts.push(released);
            }
        }
        metrics().rows_released.increment(messages.len() as u64);
        (!messages.is_empty()).then_some(Batch::Released(Messages {
            messages,
            counts,
            steps,
            era: self.era.clone(),
        }))
    }

    /// Opens the reader where it is missing; says whether it reads what was followed until now.
    async fn connect(&mut self) -> Result<bool, sqlx::Error> {
        if self.connection_checked.elapsed() >= CONNECTION_CHECK_INTERVAL {
            self.connection_checked = Instant::now();
            if self.reader.as_ref().is_some_and(|reader| !reader.is_current()) {
                self.disconnect().await;
            }
        }
        if self.reader.is_none() {
            let mut reader = self.database.reader().await?;
            let follows = reader.follows(&self.history).await?;
            self.progress.gaps.lock().reconnected();
            if follows {
                self.go_on_with(reader.life());
            }
            self.reader = Some(reader);
            return Ok(follows);
        }
        Ok(true)
    }

    /// The life that was followed goes on.
    fn go_on_with(&mut self, life: Option<u64>) {
        if life != self.era.history {
            let gaps = &self.progress.gaps;
            Arc::make_mut(&mut self.era).goes_on_as(life, || Ids::released(&gaps.lock()));
        }
    }

    /// All that had been committed by then was found.
    fn date(&mut self, time: i64) {
        let open_since = self.progress.gaps.lock().unresolved_since();
        let open_for = open_since.map_or(0, |since| since.elapsed().as_secs().cast_signed());
        self.era.date(time, open_for);
    }

    async fn disconnect(&mut self) {
        if let Some(reader) = self.reader.take() {
            self.history = reader.history();
            reader.close().await;
        }
    }

    /// Goes on from the end of a table that isn't the one that was followed.
    async fn begin_anew(&mut self) -> Result<Batch, sqlx::Error> {
        // A reader is made for one life of the table. Should anything fail here, `history` is
        // still the old one, and the next connection tells it again.
        if let Some(reader) = self.reader.take() {
            reader.close().await;
        }
        let mut reader = self.database.reader().await?;
        let time = reader.time();
        let start = reader.start().await?;
        self.history = reader.history();
        self.era = Arc::new(self.era.ended(reader.life(), time));
        *self.progress.gaps.lock() = Gaps::new(reader.evidence(), start, Instant::now());
        self.date(time);
        metrics().followed(&self.progress.gaps.lock());
        self.reader = Some(reader);
        Ok(Batch::NewHistory)
    }

    /// A row as a message of a stream; none if it is another's, or can't be one.
    fn message(&mut self, id: i64, content: Content) -> Option<(Stream, Box<str>)> {
        let (channel, payload, hash) = match content {
            Content::Own { channel, payload, hash } => (channel, payload, hash),
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
        let payload = match String::from_utf8(payload) {
            Ok(payload) if tablecast_protocol::is_json(&payload) => payload.into_boxed_str(),
            _ => {
                self.skip(id, &channel, Skip::NotJson);
                return None;
            }
        };
        if hash != Some(channel_hash(&channel)) {
            metrics().rows_wrong_hash.increment(1);
            if self.skipped.is_due(&channel) {
                let channel = String::from_utf8_lossy(&channel);
                tracing::warn!(id, %channel, "a row's channel_hash is wrong: it is delivered, but not by Rails, nor by replay");
            }
        }
        Some((stream, payload))
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
            // Whoever asks for the next batch has dealt with the last one.
            self.pass_barriers();
            if std::mem::take(&mut self.rests_first) {
                self.rest().await;
            }
            self.barriers.begin_look();
            self.status.begin_look();
            match self.look().await {
                Ok(found) => {
                    if !self.again {
                        self.barriers.end_look();
                        self.status.end_look();
                        // What this look has found was given the time before: of that each message lacks the next.
                        self.date(self.look_began);
                    }
                    if self.failures > 0 {
                        self.failures = 0;
                        self.status.set(Status::Following);
                    }
                    match found {
                        Some(batch) => {
                            self.rests_first = !self.again && self.waker.polls();
                            return batch;
                        }
                        None if self.again => {}
                        None => {
                            self.pass_barriers();
                            self.rest().await;
                        }
                    }
                }
                Err(error) => self.recover(error).await,
            }
        }
    }
}

impl Tail {
    fn pass_barriers(&mut self) {
        let (gaps, era) = (&self.progress.gaps, &self.era);
        self.barriers.pass(|| Cut::new(Ids::released(&gaps.lock()), era.clone()));
    }

    async fn rest(&mut self) {
        let Some(reader) = self.reader.as_mut() else { return };
        if let Err(error) = self.waker.rest(reader, self.poll_interval).await {
            self.recover(error).await;
        }
    }

    /// What was released stays known, so that after any outage all that was committed
    /// meanwhile is read.
    async fn recover(&mut self, error: sqlx::Error) {
        self.failures = self.failures.saturating_add(1);
        let trouble = self.database.trouble(&error);
        let was_waited_for = matches!(&error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut);
        // One failed look under a lock is a matter of milliseconds, not of readiness.
        if self.failures > 1 || was_waited_for {
            self.status.set(Status::Away(self.database.setup_error(error).to_string().into()));
        }
        if trouble != Trouble::Busy {
            self.disconnect().await;
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
