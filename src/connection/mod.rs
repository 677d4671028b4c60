//! One client: from its welcome to its last byte.
//!
//! # The pattern
//!
//! A connection is one task with two halves. The *reader* takes the client's frames apart
//! and hands each command to the [`Session`], one after the other: a command is finished
//! before the next begins, which is what Turbo's unsubscribe and subscribe of one identifier
//! rely on. The *writer* sends what waits in the connection's [`Outbox`], where it isn't the
//! hub's writers that do. Neither half waits for the other.
//!
//! # The end
//!
//! Whoever ends it, the outbox is closed once, with a reason; from then on nothing is
//! queued. What was queued goes out, then the Close, and the client has [`CLOSE_TIMEOUT`] to
//! answer it. Rails waits for that for ever; a client that is gone would hold its socket.

mod events;
mod live;
mod reader;
mod replay;
mod session;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tablecast_protocol::{DisconnectReason, Frame, Offer};
use tokio::time::{Instant, timeout, timeout_at};

pub use events::EventStream;
pub use live::Connections;
pub use replay::History;

use crate::channels::{Channels, Target};
use crate::hub::{Closing, Encoding, Hub, Manner, Outbox, Past, Socket};
use crate::identity::{Unidentified, Who};
use crate::telemetry::metrics;
use live::Live;
use reader::{End, Incoming, Reader};
use session::Session;

/// How long a connection may take over its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// For what a client has sent that is still on its way.
const LAST_COMMANDS: Duration = Duration::from_millis(100);
/// A client subscribes once it has its welcome, and where it is far away that takes a while. So much after its
/// welcome it has, or isn't there.
const FIRST_COMMANDS: Duration = Duration::from_secs(1);
const MAX_LAST_COMMANDS: usize = 1000;

/// What a client may take.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_subscriptions: usize,
    pub max_identifier_bytes: usize,
    pub max_command_bytes: usize,
    pub send_buffer_bytes: usize,
    /// How long a client's socket may take nothing of what waits.
    pub write_timeout: Duration,
    /// Commands a second, and how many at once.
    pub rate_limit: u32,
    pub rate_burst: u32,
    /// Connections of one name at once; none: as many as there may be.
    pub max_connections_per_user: Option<usize>,
}

/// What all connections share.
pub struct Context {
    pub hub: Arc<Hub>,
    pub channels: Arc<Channels>,
    pub connections: Arc<Connections>,
    pub history: History,
    pub limits: Limits,
}

/// What a handshake has settled.
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    pub offer: Offer,
    pub encoding: Encoding,
}

/// Serves a socket whose handshake is done until it is closed. `early` are bytes that the
/// client sent behind its handshake. Who isn't let in is told so, and gets no welcome.
///
/// The future is most of what an idle connection costs. So all that is needed once is made here, and not in it,
/// where it would keep its room; and the end, of which there are few at a time, has its own.
pub fn serve(
    socket: Box<dyn Socket>,
    early: Bytes,
    agreed: Agreed,
    who: Result<Who, Unidentified>,
    context: Arc<Context>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut connection = Connection::open(socket, early, agreed, who, context);
    async move {
        let end = connection.serve().await;
        Box::pin(connection.end(end)).await;
    }
}

struct Connection {
    outbox: Arc<Outbox>,
    reader: Reader,
    session: Session,
    welcomed: Instant,
    /// None of one that isn't let in.
    _live: Option<Live>,
}

impl Connection {
    fn open(
        socket: Box<dyn Socket>,
        early: Bytes,
        agreed: Agreed,
        who: Result<Who, Unidentified>,
        context: Arc<Context>,
    ) -> Self {
        let manner = if agreed.offer.is_extended() { Manner::Extended } else { Manner::Cable };
        let outbox = Arc::new(Outbox::new(socket, manner, context.limits.send_buffer_bytes));
        let welcomed = Instant::now();
        let max_per_user = context.limits.max_connections_per_user;
        let (who, live) = match who {
            Ok(who) => match context.connections.enter(&outbox, manner, &who, max_per_user) {
                Some(live) => (who, Some(live)),
                None => {
                    metrics().refused("max_connections_per_user");
                    outbox.close(Closing::Disconnect(DisconnectReason::TooManyConnections));
                    (None, None)
                }
            },
            Err(unidentified) => {
                outbox.close(Closing::Disconnect(unidentified.reason()));
                (None, None)
            }
        };
        let reader = Reader::new(early, agreed.encoding, context.limits.max_command_bytes, outbox.clone());
        let session = Session::new(context, agreed, who, outbox.clone());
        Self { outbox, reader, session, welcomed, _live: live }
    }

    /// Says how the client ended it, unless the connection's end came first.
    async fn serve(&mut self) -> Option<End> {
        let Self { outbox, reader, session, .. } = self;
        tokio::select! {
            biased;
            closing = poll_fn(|cx| outbox.poll_closing(cx)) => match closing {
                Closing::Stalled => Some(End::Stalled),
                _ => None,
            },
            // Writing first: a client that never stops sending would use up the task's turn.
            flushed = poll_fn(|cx| outbox.poll_flush(cx)) => flushed.is_err().then_some(End::Gone),
            end = async {
                loop {
                    let next = tokio::select! {
                        next = reader.next() => next,
                        never = poll_fn(|cx| session.poll_replays(cx)) => match never {},
                    };
                    match next {
                        Ok(Incoming::Command(text)) => session.command(&text),
                        Ok(Incoming::Control) => session.control(),
                        Err(end) => break Some(end),
                    }
                    // Whoever has just ended it, this client included: nothing more is carried out.
                    if outbox.is_closing() {
                        break None;
                    }
                }
            } => end,
        }
    }

    async fn end(self, end: Option<End>) {
        let Self { outbox, mut reader, mut session, welcomed, _live } = self;
        // Nothing is delivered to who is leaving.
        session.leave();
        if outbox.owes_answers() {
            let until = (Instant::now() + LAST_COMMANDS).max(welcomed + FIRST_COMMANDS);
            outbox.answer_last(last_answers(&mut reader, &mut session, &outbox, until).await);
        }
        drop(session);

        let reason = match end {
            Some(End::Gone) => "gone",
            Some(End::Stalled) => "write_timeout",
            Some(End::Closed) => "client",
            Some(End::Violation { code, reason }) => {
                outbox.close(Closing::Violation(code));
                reason
            }
            None => "disconnected",
        };
        metrics().closed(reason);
        if matches!(end, Some(End::Gone | End::Stalled)) {
            // Nobody waits any more for what waits.
            outbox.close(Closing::Gone);
            return;
        }
        let _ = timeout(CLOSE_TIMEOUT, async {
            poll_fn(|cx| outbox.poll_flush(cx)).await?;
            let shutdown = || poll_fn(|cx| outbox.socket().poll_shutdown(cx));
            if end == Some(End::Closed) {
                return shutdown().await;
            }
            if end.is_none() {
                reader.until_closed().await;
            }
            // Closing a socket with unread bytes would take back what was just sent.
            shutdown().await?;
            reader.until_gone().await;
            Ok(())
        })
        .await;
    }
}

/// What a newcomer is given.
fn past(target: &Target) -> Option<Past> {
    match target {
        Target { is_state: true, .. } => Some(Past::Latest),
        Target { replay: 0, .. } => None,
        Target { replay, .. } => Some(Past::Last(*replay)),
    }
}

/// To commands that the client sent before it could know that this is the end.
async fn last_answers(
    reader: &mut Reader,
    session: &mut Session,
    outbox: &Outbox,
    until: Instant,
) -> Vec<Frame> {
    let mut answers = Vec::new();
    let reading = async {
        for _ in 0..MAX_LAST_COMMANDS {
            match reader.next().await {
                Ok(Incoming::Command(text)) => answers.extend(session.answer_last(&text)),
                Ok(Incoming::Control) => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        // It resolves if the client is gone.
        _ = poll_fn(|cx| outbox.poll_flush(cx)) => {}
        _ = timeout_at(until, reading) => {}
    }
    answers
}

#[cfg(test)]
mod tests;
