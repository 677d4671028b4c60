//! Committing what HTTP publishes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sqlite::{Database, Outcome, Writer};
use super::tail::Progress;
use super::trim::Trimmer;
use super::{BusConfig, DatabaseUrl, Info};
use crate::stream::{Prefix, Stream};
use crate::telemetry::metrics;

/// A message on its way into the table.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub stream: Stream,
    /// A JSON document; who makes one has checked it.
    pub payload: String,
}

/// What makes a publish safe to repeat, on any server that shares the table.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub key: String,
    /// SHA-256 of what is published, so that a key can't be taken for another message.
    pub fingerprint: Vec<u8>,
}

/// All or nothing.
#[derive(Debug)]
pub(super) struct Publish {
    pub messages: Vec<Outgoing>,
    pub key: Option<IdempotencyKey>,
    _room: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Vec<i64>, PublishError>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody knows whether it was committed. A repeat with a key is safe.
    #[error("the database is away: {0}")]
    Away(Arc<str>),
    #[error("as much waits for the database as may (--max-pending-bytes)")]
    Full,
    #[error("this Idempotency-Key was used for another message")]
    KeyReused,
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The way into the table. Clones share one writer.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Publish>,
    /// Bytes that may still be queued.
    room: Arc<Semaphore>,
    max_pending_bytes: usize,
    closing: CancellationToken,
}

/// A publish that has its place in the queue.
pub type Answer = oneshot::Receiver<Result<Vec<i64>, PublishError>>;

/// What a message takes beside its payload, roughly.
const MESSAGE_BYTES: usize = 256;

/// What goes into one transaction at most.
const GROUP_MESSAGES: usize = 512;
const GROUP_BYTES: usize = 8 << 20;

/// How long a publish that the database refused to take is tried before its
/// sender hears of it: longer than another's transaction should last.
const PATIENCE: Duration = Duration::from_secs(5);

impl Publisher {
    /// Starts the writer. It ends after [`close`](Self::close), or when the last publisher is dropped.
    pub(super) fn start(
        database: Database,
        config: &BusConfig,
        info: &Info,
        progress: Progress,
    ) -> (Self, JoinHandle<()>) {
        let may_trim = !config.prefix.is_none() || info.owns_table;
        let retention = config.retention.filter(|_| may_trim);
        let wake_tail = progress.own_writes.clone();
        let trimmer = Trimmer::new(config.prefix.lead(), retention, progress);
        Self::spawn(database, config, wake_tail, Some(trimmer))
    }

    /// A publisher without a server: no tail to wake, and nothing is trimmed.
    pub fn standalone(config: &BusConfig) -> (Self, JoinHandle<()>) {
        let DatabaseUrl::Sqlite(location) = &config.url;
        Self::spawn(Database::new(location.clone(), config), config, Arc::default(), None)
    }

    fn spawn(
        database: Database,
        config: &BusConfig,
        wake_tail: Arc<Notify>,
        trimmer: Option<Trimmer>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let task = WriterTask { database, writer: None, prefix: config.prefix.clone(), wake_tail, trimmer };
        let writer = tokio::spawn(task.run(waiting, closing.clone()));
        let max_pending_bytes = config.max_pending_bytes.min(u32::MAX as usize);
        let room = Arc::new(Semaphore::new(max_pending_bytes));
        (Self { queue, room, max_pending_bytes, closing }, writer)
    }

    /// Answers once the messages are committed, with their ids in order. If the
    /// caller goes away meanwhile, they are committed all the same.
    pub async fn publish(
        &self,
        messages: Vec<Outgoing>,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<i64>, PublishError> {
        let room = self.room.clone().try_acquire_many_owned(self.size(&messages));
        let answer = self.send(messages, key, room.map_err(|_| PublishError::Full)?)?;
        answer.await.unwrap_or(Err(PublishError::ShuttingDown))
    }

    /// Like [`publish`](Self::publish), but waits for room and not for the commit: messages
    /// of one caller are committed in the order of these calls.
    pub async fn enqueue(&self, messages: Vec<Outgoing>) -> Result<Answer, PublishError> {
        let room = self.room.clone().acquire_many_owned(self.size(&messages)).await;
        self.send(messages, None, room.map_err(|_| PublishError::ShuttingDown)?)
    }

    /// From now on nothing is accepted; what was, is committed, and then the writer ends.
    pub fn close(&self) {
        self.closing.cancel();
    }

    fn send(
        &self,
        messages: Vec<Outgoing>,
        key: Option<IdempotencyKey>,
        room: OwnedSemaphorePermit,
    ) -> Result<Answer, PublishError> {
        let (reply, answer) = oneshot::channel();
        let publish = Publish { messages, key, reply, _room: room };
        self.queue.send(publish).map_err(|_| PublishError::ShuttingDown)?;
        Ok(answer)
    }

    /// What messages take in the queue. What is larger than the queue fits when it is empty.
    fn size(&self, messages: &[Outgoing]) -> u32 {
        let bytes: usize = messages.iter().map(|message| message.payload.len() + MESSAGE_BYTES).sum();
        bytes.min(self.max_pending_bytes) as u32
    }
}

struct WriterTask {
    database: Database,
    /// None until it is needed, and after an error that a new connection may mend.
    writer: Option<Writer>,
    prefix: Prefix,
    wake_tail: Arc<Notify>,
    trimmer: Option<Trimmer>,
}

impl WriterTask {
    async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Publish>, closing: CancellationToken) {
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(publish) => Some(publish),
                None => tokio::select! {
                    biased;
                    first = waiting.recv() => first,
                    () = closing.cancelled(), if !waiting.is_closed() => {
                        waiting.close();
                        continue;
                    }
                    () = Trimmer::due(&self.trimmer) => {
                        self.trim().await;
                        continue;
                    }
                },
            };
            let Some(first) = first else { break };
            let group;
            (group, carried) = gather(first, &mut waiting);
            self.commit(group).await;
        }
        if let Some(writer) = self.writer {
            writer.close().await;
        }
    }

    /// Requests that wait share a transaction, and so the cost of a commit. Nobody
    /// waits for company: what isn't there yet goes into the next.
    async fn commit(&mut self, group: Vec<Publish>) {
        let started = Instant::now();
        let answers = loop {
            match self.try_commit(&group).await {
                Ok(outcomes) => break Ok(outcomes),
                Err(error) => {
                    // A new connection next time: the file may be another one.
                    self.writer = None;
                    // A lock of another process: the busy timeout has passed or doesn't apply.
                    if !super::sqlite::is_locked(&error) || started.elapsed() >= PATIENCE {
                        break Err(PublishError::Away(error.to_string().into()));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        match answers {
            Ok(outcomes) => {
                self.wake_tail.notify_one();
                for (publish, outcome) in group.into_iter().zip(outcomes) {
                    let count = publish.messages.len() as u64;
                    let answer = match outcome {
                        Outcome::Committed(ids) => {
                            metrics().publishes_committed.increment(count);
                            Ok(ids)
                        }
                        Outcome::Replayed(ids) => {
                            metrics().publishes_replayed.increment(count);
                            Ok(ids)
                        }
                        Outcome::KeyReused => Err(PublishError::KeyReused),
                    };
                    let _ = publish.reply.send(answer);
                }
            }
            Err(error) => {
                tracing::warn!(%error, requests = group.len(), "publishing failed");
                for publish in group {
                    metrics().publishes_failed.increment(publish.messages.len() as u64);
                    let _ = publish.reply.send(Err(error.clone()));
                }
            }
        }
    }

    async fn try_commit(&mut self, group: &[Publish]) -> Result<Vec<Outcome>, sqlx::Error> {
        writer(&mut self.writer, &self.database).await?.commit(&self.prefix, group).await
    }

    async fn trim(&mut self) {
        let Some(trimmer) = &mut self.trimmer else { return };
        let trimmed = async { trimmer.step(writer(&mut self.writer, &self.database).await?).await };
        if let Err(error) = trimmed.await {
            tracing::warn!(%error, "trimming failed and will be tried again");
            trimmer.failed();
            self.writer = None;
        }
    }
}

/// The connection, opened where it is missing or leads to a file that was replaced.
async fn writer<'a>(
    writer: &'a mut Option<Writer>,
    database: &Database,
) -> Result<&'a mut Writer, sqlx::Error> {
    if writer.as_ref().is_none_or(|writer| !writer.is_current()) {
        *writer = Some(database.writer().await?);
    }
    Ok(writer.as_mut().expect("it was just opened"))
}

/// The first and what else waits, up to the bounds of a group; and what was taken
/// from the queue but didn't fit.
fn gather(first: Publish, waiting: &mut mpsc::UnboundedReceiver<Publish>) -> (Vec<Publish>, Option<Publish>) {
    let size =
        |publish: &Publish| publish.messages.iter().map(|message| message.payload.len()).sum::<usize>();
    let (mut messages, mut bytes) = (first.messages.len(), size(&first));
    let mut group = vec![first];
    while let Ok(next) = waiting.try_recv() {
        messages += next.messages.len();
        bytes += size(&next);
        if messages > GROUP_MESSAGES || bytes > GROUP_BYTES {
            return (group, Some(next));
        }
        group.push(next);
    }
    (group, None)
}
