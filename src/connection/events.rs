//! One client of an event stream (Server-Sent Events): the same hub, outbox and limits, and another wire.
//!
//! The response's body is read from a pipe that the outbox writes into as it would into a socket: a client that
//! reads slowly fills the pipe, then the outbox, and is asked to come back where its streams don't conflate.
//!
//! A client of several streams has one position for all of them, and so nothing may be put out of order between
//! them. It is entered in the moment of one cut: what was published before is in the table to be read, and what is
//! published later is held until what was missed, of all of its streams, has been given. Only then does the
//! response begin: who has seen that misses nothing.

use std::collections::HashSet;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use parking_lot::Mutex;
use tablecast_protocol::{Frame, MessageHead};
use tokio::io::{DuplexStream, ReadBuf};

use super::live::Live;
use super::replay::{History, next_page};
use super::{Context, past};
use crate::bus::{Cut, Rejection, Replay, Replayed};
use crate::channels::Target;
use crate::hub::{
    Closing, Dialect, Encoding, Format, Hub, Manner, Of, Outbox, Subscriber, Subscription, SubscriptionId,
    at_of,
};
use crate::identity::Who;
use crate::stream::Stream;
use crate::telemetry::metrics;

/// A client's subscriptions.
pub struct EventStream {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    targets: Arc<[Target]>,
    entered: Arc<Mutex<Entered>>,
    /// The last position that the client has seen, by its own word.
    last_event_id: Option<String>,
    _live: Live,
}

/// Its place among the subscribers of its streams.
enum Entered {
    Not,
    With(Vec<Subscription>),
    /// It has left, perhaps before its moment has come.
    Left,
}

/// What fits into the pipe: little, since what waits is counted in the outbox.
const PIPE_BYTES: usize = 16 << 10;
const DIALECT: Dialect = Dialect { format: Format::EventStream, encoding: Encoding::Plain };

impl EventStream {
    /// Enters a client, and gives what its response is read from. None where its name has as many connections
    /// as it may.
    pub fn enter(
        context: &Arc<Context>,
        who: &Who,
        targets: Vec<Target>,
        last_event_id: Option<String>,
    ) -> Option<(Self, DuplexStream)> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let limits = &context.limits;
        let outbox = Outbox::new(Box::new(Mutex::new(ours)), Manner::EventStream, limits.send_buffer_bytes);
        let outbox = Arc::new(outbox);
        let live =
            context.connections.enter(&outbox, Manner::EventStream, who, limits.max_connections_per_user)?;
        // Two identifiers may lead to one stream, whose messages don't come twice.
        let mut seen = HashSet::new();
        let targets = targets.into_iter().filter(|target| seen.insert(target.stream.clone())).collect();
        let entered = Arc::new(Mutex::new(Entered::Not));
        let context = context.clone();
        Some((Self { context, outbox, targets, entered, last_event_id, _live: live }, theirs))
    }

    /// Begins to listen. It waits for a database that is away.
    pub async fn listen(&self) -> Result<Cut, Rejection> {
        let enters = {
            let (hub, outbox) = (self.context.hub.clone(), self.outbox.clone());
            let (targets, entered) = (self.targets.clone(), self.entered.clone());
            move |_: &Cut| {
                let mut entered = entered.lock();
                if let Entered::Not = *entered {
                    outbox.hold();
                    *entered = Entered::With(subscribe(&hub, &targets, &outbox));
                }
            }
        };
        self.context.history.log.cut(enters).await
    }

    /// Serves the client until it, or the server, has had enough. It has listened since `cut`.
    pub async fn serve(self, cut: Cut) {
        let mut is_given = false;
        let outbox = self.outbox.clone();
        let mut giving = std::pin::pin!(self.give_past(cut));
        let reason = loop {
            tokio::select! {
                biased;
                closing = poll_fn(|cx| outbox.poll_closing(cx)) => break match closing {
                    Closing::Stalled => "write_timeout",
                    _ => "disconnected",
                },
                flushed = poll_fn(|cx| outbox.poll_flush(cx)) => break match flushed {
                    Ok(()) => "disconnected",
                    Err(_) => "gone",
                },
                () = poll_fn(|cx| poll_gone(&outbox, cx)) => break "gone",
                given = &mut giving, if !is_given => match given {
                    Ok(()) => is_given = true,
                    // The client keeps its position, and comes back with it.
                    Err(reason) => {
                        tracing::debug!(%reason, "an event stream can't be given what it missed");
                        break "history_unavailable";
                    }
                },
            }
        };
        metrics().closed(reason);
        // The response ends, or waits no longer for who doesn't read it.
        outbox.close(Closing::Client);
        let _ = tokio::time::timeout(super::CLOSE_TIMEOUT, async {
            poll_fn(|cx| outbox.poll_flush(cx)).await?;
            poll_fn(|cx| outbox.socket().poll_shutdown(cx)).await
        })
        .await;
    }

    /// What the client missed, or what a newcomer is given; then what was published meanwhile.
    async fn give_past(&self, cut: Cut) -> Result<(), Rejection> {
        let rejection = match &self.last_event_id {
            None => None,
            Some(word) => match self.give_missed(word, &cut).await {
                Ok(()) => None,
                Err(rejection) if rejection.passes() => return Err(rejection),
                Err(rejection) => Some(rejection),
            },
        };
        if let Some(rejection) = &rejection {
            metrics().not_resumed(rejection.name());
            tracing::debug!(%rejection, "a client can't go on from where it was");
        } else if self.last_event_id.is_some() {
            metrics().resumed.increment(1);
        }
        if self.last_event_id.is_none() || rejection.is_some() {
            self.give_latest(&cut, rejection).await?;
        }
        // Also where there was nothing: who has a position can come back with it.
        self.outbox.push(Frame::position(&cut.token().word), Of::Connection);
        self.outbox.release();
        Ok(())
    }

    async fn give_missed(&self, word: &str, cut: &Cut) -> Result<(), Rejection> {
        let history = &self.context.history;
        let resumed = cut.accept(word, history.window)?;
        let (states, events): (Vec<&Target>, Vec<&Target>) =
            self.targets.iter().partition(|target| target.is_state);
        let streams =
            |targets: Vec<&Target>| targets.into_iter().map(|target| target.stream.clone()).collect();
        let (events, states) = (streams(events), streams(states));
        let missed = history.log.missed_together(events, states, resumed, cut, history.max_messages).await?;
        self.give(missed).await
    }

    async fn give_latest(&self, cut: &Cut, rejection: Option<Rejection>) -> Result<(), Rejection> {
        let asked = |target: &Target| Some((target.stream.clone(), past(target)?.count()));
        let streams: Vec<(Stream, usize)> = self.targets.iter().filter_map(asked).collect();
        let History { log, max_messages, .. } = &self.context.history;
        let (before, latest) = log.latest_together(&streams, cut, *max_messages).await?;
        if let Some(rejection) = rejection {
            let data = format!(r#"{{"reason":"{}"}}"#, rejection.name());
            self.outbox.push(Frame::event("reset", &data, Some(&before.word)), Of::Connection);
        }
        self.give(latest).await
    }

    /// As fast as the client takes it.
    async fn give(&self, mut replay: Replay) -> Result<(), Rejection> {
        loop {
            let page = next_page(&self.outbox, &mut replay).await?;
            if page.is_empty() {
                return Ok(());
            }
            for Replayed { payload, token, .. } in &page {
                let frame = Frame::messages_at(&MessageHead::EventStream, [(&**payload, Some(at_of(token)))]);
                self.outbox.push(frame, Of::Connection);
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let entered = std::mem::replace(&mut *self.entered.lock(), Entered::Left);
        if let Entered::With(subscriptions) = entered {
            subscriptions.into_iter().for_each(|subscription| self.context.hub.unsubscribe(subscription));
        }
    }
}

fn subscribe(hub: &Hub, targets: &[Target], outbox: &Arc<Outbox>) -> Vec<Subscription> {
    let subscribe = |(number, target): (u32, &Target)| {
        let id = SubscriptionId(number);
        let of = Of::messages(id, target.is_state);
        // Its messages don't say what they belong to, and are the same for all who take a stream alike.
        let identifier = Arc::from(if target.is_state { "state" } else { "events" });
        let subscriber = Subscriber { identifier: &identifier, of, dialect: DIALECT, outbox };
        hub.subscribe(&target.stream, subscriber, None, None)
    };
    (0..).zip(targets).map(subscribe).collect()
}

/// Resolves once nobody reads the response any more.
fn poll_gone(outbox: &Outbox, cx: &mut Task<'_>) -> Poll<()> {
    // Nobody writes into the other end: it has something to read when it is gone.
    let mut byte = [MaybeUninit::uninit()];
    outbox.socket().poll_read(cx, &mut ReadBuf::uninit(&mut byte)).map(|_| ())
}
