//! Committing what HTTP publishes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::database::{Database, Trouble, Writer};
use super::request::{IdempotencyKey, Outcome, Outgoing, Request};
use super::tail::Progress;
use super::trim::Trimmer;
use super::{BusConfig, Info};
use crate::stream::Prefix;
use crate::telemetry::{OnceAMinute, metrics};

/// A request in the queue.
struct Queued {
    request: Request,
    reply: Reply,
}

struct Reply {
    sender: oneshot::Sender<Result<Vec<i64>, PublishError>>,
    _place: Place,
}

/// A place in the queue, until it is answered.
struct Place {
    _room: OwnedSemaphorePermit,
}

impl Place {
    fn new(room: OwnedSemaphorePermit) -> Self {
        metrics().publishes_pending.increment(1);
        Self { _room: room }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics().publishes_pending.decrement(1);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nobody knows whether it was committed. A repeat with a key is safe.
    #[error("the database is away: {0}")]
    Away(Arc<str>),
    /// Something that the table's owner added refused it, such as a CHECK.
    #[error("the database refused it: {0}")]
    Refused(Arc<str>),
    #[error("as much waits for the database as may (--max-pending-bytes)")]
    Full,
    #[error("this Idempotency-Key was used for another message, or with another publish key")]
    KeyReused,
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// The way into the table. Clones share one writer.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Queued>,
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
        Self::spawn(Database::new(config), config, Arc::default(), None)
    }

    fn spawn(
        database: Database,
        config: &BusConfig,
        wake_tail: Arc<Notify>,
        trimmer: Option<Trimmer>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let task = WriterTask {
            database,
            writer: None,
            prefix: config.prefix.clone(),
            wake_tail,
            trimmer,
            failure_told: OnceAMinute::default(),
        };
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
        let (sender, answer) = oneshot::channel();
        let (request, reply) = (Request { messages, key }, Reply { sender, _place: Place::new(room) });
        self.queue.send(Queued { request, reply }).map_err(|_| PublishError::ShuttingDown)?;
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
    failure_told: OnceAMinute,
}

impl WriterTask {
    async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Queued>, closing: CancellationToken) {
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
            let (requests, replies);
            (requests, replies, carried) = gather(first, &mut waiting);
            self.commit(requests, replies).await;
        }
        if let Some(writer) = self.writer {
            writer.close().await;
        }
    }

    /// Requests that wait share a transaction, and so the cost of a commit. Nobody
    /// waits for company: what isn't there yet goes into the next.
    async fn commit(&mut self, requests: Vec<Request>, replies: Vec<Reply>) {
        let answers = match self.try_commit(&requests).await {
            // One of them may be to blame: each is tried by itself.
            Err(PublishError::Refused(_)) if requests.len() > 1 => {
                let mut answers = Vec::with_capacity(requests.len());
                for request in &requests {
                    answers.push(
                        self.try_commit(std::slice::from_ref(request)).await.map(|mut one| one.remove(0)),
                    );
                }
                answers
            }
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(error) => {
                if self.failure_told.is_due() {
                    tracing::warn!(%error, requests = requests.len(), "publishing failed; this is told once a minute");
                }
                vec![Err(error); requests.len()]
            }
        };
        self.wake_tail.notify_one();
        for ((answer, request), reply) in answers.into_iter().zip(requests).zip(replies) {
            let count = request.messages.len() as u64;
            let answer = match answer {
                Ok(Outcome::Committed(ids)) => {
                    metrics().publishes_committed.increment(count);
                    Ok(ids)
                }
                Ok(Outcome::Replayed(ids)) => {
                    metrics().publishes_replayed.increment(count);
                    Ok(ids)
                }
                Ok(Outcome::KeyReused) => Err(PublishError::KeyReused),
                Err(error) => {
                    metrics().publishes_failed.increment(count);
                    Err(error)
                }
            };
            let _ = reply.sender.send(answer);
        }
    }

    /// One transaction, begun again while another process holds the lock.
    async fn try_commit(&mut self, requests: &[Request]) -> Result<Vec<Outcome>, PublishError> {
        let started = Instant::now();
        loop {
            let committed = async {
                writer(&mut self.writer, &self.database).await?.commit(&self.prefix, requests).await
            };
            let error = match committed.await {
                Ok(outcomes) => return Ok(outcomes),
                Err(error) => error,
            };
            let trouble = self.database.trouble(&error);
            if trouble == Trouble::Refused {
                return Err(PublishError::Refused(error.to_string().into()));
            }
            // A new connection next time: the file may be another one.
            self.writer = None;
            if trouble != Trouble::Busy || started.elapsed() >= PATIENCE {
                return Err(PublishError::Away(error.to_string().into()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
    let is_current = match writer {
        Some(writer) => writer.is_current().await,
        None => false,
    };
    if !is_current {
        *writer = None;
    }
    match writer {
        Some(writer) => Ok(writer),
        None => Ok(writer.insert(database.writer().await?)),
    }
}

/// The first and what else waits, up to the bounds of a group; and what was taken
/// from the queue but didn't fit.
fn gather(
    first: Queued,
    waiting: &mut mpsc::UnboundedReceiver<Queued>,
) -> (Vec<Request>, Vec<Reply>, Option<Queued>) {
    let (mut messages, mut bytes) = (0, 0);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some(queued) = next {
        messages += queued.request.messages.len();
        bytes += queued.request.messages.iter().map(|message| message.payload.len()).sum::<usize>();
        if !requests.is_empty() && (messages > GROUP_MESSAGES || bytes > GROUP_BYTES) {
            return (requests, replies, Some(queued));
        }
        requests.push(queued.request);
        replies.push(queued.reply);
        next = waiting.try_recv().ok();
    }
    (requests, replies, None)
}
