//! Giving a client what it missed, while its new messages are held back.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tablecast_protocol::Frame;

use super::Context;
use crate::bus::{Cut, Log, Most, Rejection, Replay, Replayed, Resumed};
use crate::hub::{Answer, Dialect, Gift, Of, Outbox, Past, SubscriptionId, at_of};
use crate::stream::Stream;
use crate::telemetry::metrics;

/// Reads back for clients, within limits.
pub struct History {
    pub log: Log,
    /// How old a position may be.
    pub window: Option<Duration>,
    pub max_messages: usize,
}

/// Where a client wants to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The word that came with the last message that it has.
    Word(String),
    /// Messages of this second or later, by its own clock: it has none.
    Since(i64),
    /// It has said so in a way that can't be read.
    Unreadable,
}

/// One that waits for what it missed. Its messages are held meanwhile.
pub struct Request {
    pub id: SubscriptionId,
    pub of: Of,
    pub identifier: Arc<str>,
    pub dialect: Dialect,
    pub stream: Stream,
    pub from: From,
    /// What a newcomer is given, and who can't go on from where it was.
    pub past: Option<Past>,
}

/// What is left to do for it.
pub enum Outcome {
    /// Nothing: it has been given all, and told so.
    Given,
    /// It is as if it were new.
    Give(Gift),
    /// It can't go on, and there is nothing else to give it.
    Refused,
    /// What it missed can't be read now: it is to come again, and nothing is lost.
    Unavailable,
}

/// One after the other: a connection has one place in the queue for the database, however much it asks for.
#[derive(Default)]
pub struct Replays {
    waiting: VecDeque<Request>,
    running: Option<(SubscriptionId, Running)>,
}

type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Messages of so many bytes go into one frame's run.
const CHUNK_BYTES: usize = 16 << 10;

impl Replays {
    pub fn push(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    pub fn awaits(&self, id: SubscriptionId) -> bool {
        self.running.as_ref().is_some_and(|(running, _)| *running == id)
            || self.waiting.iter().any(|request| request.id == id)
    }

    /// Whether there was one, which is nobody's any more now.
    pub fn cancel(&mut self, id: SubscriptionId) -> bool {
        if self.running.as_ref().is_some_and(|(running, _)| *running == id) {
            self.running = None;
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|request| request.id != id);
        self.waiting.len() < before
    }

    /// The next one that is done.
    pub fn poll_next(
        &mut self,
        cx: &mut Task<'_>,
        context: &Arc<Context>,
        outbox: &Arc<Outbox>,
    ) -> Poll<(SubscriptionId, Outcome)> {
        if self.running.is_none() {
            let Some(request) = self.waiting.pop_front() else { return Poll::Pending };
            let id = request.id;
            self.running = Some((id, Box::pin(run(context.clone(), outbox.clone(), request))));
        }
        let Some((id, running)) = &mut self.running else { return Poll::Pending };
        let id = *id;
        running.as_mut().poll(cx).map(|outcome| {
            self.running = None;
            (id, outcome)
        })
    }
}

async fn run(context: Arc<Context>, outbox: Arc<Outbox>, request: Request) -> Outcome {
    let rejection = match resume(&context, &outbox, &request).await {
        Ok(outcome) => {
            metrics().resumed.increment(1);
            return outcome;
        }
        Err(rejection) => rejection,
    };
    metrics().not_resumed(rejection.name());
    tracing::debug!(%rejection, "a client can't go on from where it was");
    match request.past {
        _ if rejection.passes() => Outcome::Unavailable,
        Some(past) => Outcome::Give(Gift { past, unless: None, answer: Some(Answer::Reject) }),
        None => Outcome::Refused,
    }
}

async fn resume(context: &Context, outbox: &Arc<Outbox>, request: &Request) -> Result<Outcome, Rejection> {
    let History { log, window, max_messages } = &context.history;
    // What is held by then is in the cut, and so in what is read. It stays until that is given: to who is
    // rejected it is due all the same.
    let held = Arc::new(AtomicUsize::new(0));
    let counts = {
        let (outbox, id, held) = (outbox.clone(), request.id, held.clone());
        move |_: &Cut| held.store(outbox.held_frames(id), Relaxed)
    };
    let cut = log.cut(counts).await?;
    let streams = vec![request.stream.clone()];
    let replay = match &request.from {
        From::Word(word) => {
            let resumed: Resumed = cut.accept(word, *window)?;
            if let Some(past @ Past::Latest) = request.past {
                return Ok(Outcome::Give(Gift {
                    past,
                    unless: Some(resumed),
                    answer: Some(Answer::Confirm),
                }));
            }
            log.missed(streams, resumed, cut, Most::OrNone(*max_messages)).await?
        }
        From::Since(since) => {
            cut.accept_since(*since, *window)?;
            // A newcomer to a state doesn't come here, but who asks again does.
            if request.past == Some(Past::Latest) {
                let (past, answer) = (Past::Latest, Some(Answer::Confirm));
                return Ok(Outcome::Give(Gift { past, unless: None, answer }));
            }
            let at_least = request.past.map_or(0, Past::count);
            log.since(streams, *since, at_least, cut, *max_messages).await?
        }
        From::Unreadable => return Err(Rejection::Malformed),
    };
    give(context, outbox, request, replay).await?;
    outbox.forget_held(request.id, held.load(Relaxed));
    outbox.push(Frame::confirm_history(&request.identifier), Of::Connection);
    outbox.release();
    Ok(Outcome::Given)
}

/// The next page, once the client has room for it: it is queued as a whole then, so that what waits for a slow client
/// is counted in its outbox, and nowhere else.
pub(super) async fn next_page(outbox: &Outbox, replay: &mut Replay) -> Result<Vec<Replayed>, Rejection> {
    poll_fn(|cx| {
        let room = outbox.poll_room(cx);
        if room.is_pending() {
            replay.let_go();
        }
        room
    })
    .await;
    let page = replay.page(outbox.room_for_page()).await?;
    metrics().replayed_messages.increment(page.len() as u64);
    Ok(page)
}

/// Queues it as fast as the client takes it.
async fn give(
    context: &Context,
    outbox: &Outbox,
    request: &Request,
    mut replay: Replay,
) -> Result<(), Rejection> {
    let head = request.dialect.head(&request.identifier);
    loop {
        let page = next_page(outbox, &mut replay).await?;
        if page.is_empty() {
            return Ok(());
        }
        let mut rest = &page[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |message: &&Replayed| {
                let fits = bytes < CHUNK_BYTES;
                bytes += message.payload.len();
                fits
            };
            let (chunk, later) = rest.split_at(rest.iter().take_while(fits).count());
            rest = later;
            let messages = chunk.iter().map(|message| (&*message.payload, Some(at_of(&message.token))));
            outbox.push(context.hub.encode(request.dialect, &head, messages), request.of);
        }
    }
}
