mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tablecast_protocol::{CloseCode, DisconnectReason, Frame};

use super::socket::Socket;
use crate::bus::Mark;
use queue::{BATCH_FRAMES, Lent, Queue};

pub use queue::{Manner, Of};

/// One connection's queue of frames, and the socket that takes them.
///
/// It is bounded in bytes. Where a push doesn't fit, of each state the latest message stays; what
/// doesn't fit then is the last: the client reads more slowly than its streams flow, and is
/// asked to come back. What waits is exactly what is in here; there is no second buffer before
/// the socket.
///
/// # Who writes
///
/// One at a time: the [`Writers`](super::Writers) what the hub has queued, the connection's own
/// task its own answers, the rest of what a socket did not take, and the end. Whose turn it is
/// stands beside the queue, and changes under the same lock: a frame is either seen by who is
/// writing, before the turn is given back, or by who takes the turn next.
pub struct Outbox {
    state: Mutex<State>,
    socket: Box<dyn Socket>,
    max_bytes: usize,
}

/// Tells one connection's subscriptions apart, so that a frame can be withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u32);

struct State {
    queue: Queue,
    turn: Turn,
    error: Option<io::Error>,
    /// The connection's task.
    task: Option<Waker>,
    /// The task waits until little waits.
    wants_room: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nobody's: all is written that was there.
    Free,
    /// It has been handed over to the writers.
    HandedOver,
    Writing,
    /// The task's, once the socket takes more. It has taken nothing since then.
    Blocked(Instant),
}

/// What became of what was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// The socket takes no more for now.
    Some,
    All,
    /// The outbox was closed, and nothing more will come.
    AllThereIs,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is queued. Much: more than half of what may waits.
    Queued { is_much: bool },
    /// The same, and it is the caller's to hand the outbox over to the [`Writers`](super::Writers).
    ToHandOver { is_much: bool },
    /// It was the last straw, or comes after the end.
    Refused,
}

/// Why no more is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The server ends it, and has said why.
    Disconnect(DisconnectReason),
    /// The client broke the WebSocket protocol.
    Violation(CloseCode),
    /// The client wants to go.
    Client,
    /// The client's socket has taken nothing for too long, and can't be told either.
    Stalled,
    /// The client's socket has ended.
    Gone,
}

/// Whether much waits, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    Little,
    /// More than half of what may, until the client reads.
    Client,
    /// The same, until this process writes.
    Server,
}

impl Outbox {
    pub fn new(socket: Box<dyn Socket>, manner: Manner, max_bytes: usize) -> Self {
        let queue = Queue::new(manner);
        let state = State { queue, turn: Turn::Free, error: None, task: None, wants_room: false };
        Self { state: Mutex::new(state), socket, max_bytes }
    }

    pub fn socket(&self) -> &dyn Socket {
        &*self.socket
    }

    /// Queues a frame that the connection's task is to write. Says whether it fit.
    pub fn push(&self, frame: Frame, of: Of) -> bool {
        self.change(|state| {
            let fits = state.queue.push(frame, of, self.max_bytes);
            (fits, state.turn == Turn::Free)
        })
    }

    /// Queues messages that the writers are to write. `marks` are theirs, and are asked for where they are held.
    pub fn offer(&self, frame: Frame, of: Of, marks: impl FnOnce() -> Box<[Mark]>) -> Offered {
        self.change(|state| {
            let was_closing = state.queue.closing().is_some();
            if !state.queue.push_live(frame, of, marks, self.max_bytes) {
                return (Offered::Refused, !was_closing);
            }
            let is_much = state.queue.waiting() > self.max_bytes / 2;
            if state.turn != Turn::Free || state.queue.is_empty() {
                return (Offered::Queued { is_much }, false);
            }
            state.turn = Turn::HandedOver;
            (Offered::ToHandOver { is_much }, false)
        })
    }

    /// Queues a heartbeat behind what waits: Rails' clients before 7.2 take no message for a sign of life. Where much
    /// waits there is none, so it is never the last straw.
    pub fn offer_ping(&self, frame: &Frame) -> Offered {
        self.offer_where(frame, |queue| queue.waiting() <= self.max_bytes / 2)
    }

    /// Queues a frame, unless others wait that show as well that the line is up.
    pub fn offer_if_idle(&self, frame: &Frame) -> Offered {
        self.offer_where(frame, Queue::is_empty)
    }

    fn offer_where(&self, frame: &Frame, is_fit: impl FnOnce(&Queue) -> bool) -> Offered {
        if is_fit(&self.state.lock().queue) {
            self.offer(frame.clone(), Of::Connection, Box::default)
        } else {
            Offered::Queued { is_much: false }
        }
    }

    /// Withdraws what waits for a subscription, but for a message half of which is out.
    pub fn withdraw(&self, subscription: SubscriptionId) {
        self.state.lock().queue.withdraw(subscription);
    }

    /// What the hub offers from now on waits until the last hold is released: there is more to say before it.
    pub fn hold(&self) {
        self.state.lock().queue.hold();
    }

    /// Whether anything holds it.
    pub fn holds(&self) -> bool {
        self.state.lock().queue.holds()
    }

    /// Ends one hold.
    pub fn release(&self) {
        self.change(|state| {
            state.queue.release();
            ((), state.turn == Turn::Free)
        });
    }

    /// The messages of a subscription that are held.
    pub fn held(&self, subscription: SubscriptionId) -> HashSet<Mark> {
        self.state.lock().queue.held(subscription).collect()
    }

    /// How much of a subscription is held by now: see [`Self::forget_held`].
    pub fn held_frames(&self, subscription: SubscriptionId) -> usize {
        self.state.lock().queue.held_frames(subscription)
    }

    /// Removes the oldest that is held of a subscription, so much of it: it has been queued in another way.
    pub fn forget_held(&self, subscription: SubscriptionId, frames: usize) {
        self.state.lock().queue.forget_held(subscription, frames);
    }

    /// How many bytes a subscription may be given at once.
    pub fn room_for_past(&self) -> usize {
        self.max_bytes / 2
    }

    /// How many bytes of a long past may be queued where there is [room](Self::poll_room).
    pub fn room_for_page(&self) -> usize {
        self.max_bytes / 8
    }

    /// Resolves once so little waits that a page more can be queued. For the connection's task alone.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.queue.waiting() <= self.max_bytes / 8 || state.queue.closing().is_some() {
            return Poll::Ready(());
        }
        state.register(cx);
        state.wants_room = true;
        Poll::Pending
    }

    /// How far behind the client is.
    pub fn backlog(&self) -> Backlog {
        let state = self.state.lock();
        if state.queue.closing().is_some() || state.queue.waiting() <= self.max_bytes / 2 {
            Backlog::Little
        } else if matches!(state.turn, Turn::Blocked(_)) {
            Backlog::Client
        } else {
            Backlog::Server
        }
    }

    /// Whether the socket has been taking nothing for so long of what waits.
    pub fn is_stalled(&self, time: Duration) -> bool {
        matches!(self.state.lock().turn, Turn::Blocked(since) if since.elapsed() >= time)
    }

    /// Accepts no more, and ends with what the reason says. The first reason stays.
    pub fn close(&self, closing: Closing) {
        self.change(|state| {
            state.queue.close(closing);
            ((), true)
        });
    }

    /// Accepts no more but this answer to a client that wants to go: nothing follows a Close.
    pub fn close_with(&self, answer: Frame) {
        self.change(|state| {
            if state.queue.closing().is_none() {
                state.queue.push(answer, Of::Connection, self.max_bytes);
                state.queue.close(Closing::Client);
            }
            ((), true)
        });
    }

    /// Whether [`Self::answer_last`] is awaited.
    pub fn owes_answers(&self) -> bool {
        self.state.lock().queue.owes_answers()
    }

    /// The last answers of a connection that was closed in [`Manner::Extended`], and why it is.
    pub fn answer_last(&self, answers: Vec<Frame>) {
        self.change(|state| {
            state.queue.answer(answers);
            ((), state.turn == Turn::Free)
        });
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().queue.closing().is_some()
    }

    /// Resolves once it was closed, whatever the socket does. Like [`Self::poll_flush`] for the
    /// connection's task alone.
    pub fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<Closing> {
        let mut state = self.state.lock();
        match state.queue.closing() {
            Some(closing) => Poll::Ready(closing),
            None => {
                state.register(cx);
                Poll::Pending
            }
        }
    }

    /// Writes what is nobody else's to write, and then waits for more; resolves when the outbox
    /// was closed and all is out, or with the socket's error.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        state.register(cx);
        if let Some(error) = state.error.take() {
            return Poll::Ready(Err(error));
        }
        if matches!(state.turn, Turn::HandedOver | Turn::Writing) {
            // A writer wakes the task where anything is left to it.
            return Poll::Pending;
        }
        match self.write_all(cx, state) {
            Ok(Written::AllThereIs) => Poll::Ready(Ok(())),
            Ok(Written::All | Written::Some) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes what has been handed over, once for each time. What the socket doesn't take is left to the
    /// connection's task.
    pub(super) fn write(&self) {
        let state = self.state.lock();
        let result = self.write_all(&mut Context::from_waker(Waker::noop()), state);
        let mut state = self.state.lock();
        let wants_room = std::mem::take(&mut state.wants_room);
        if matches!(result, Ok(Written::All)) && state.queue.closing().is_none() && !wants_room {
            return;
        }
        state.error = result.err().or(state.error.take());
        if let Some(task) = state.task.take() {
            drop(state);
            task.wake();
        }
    }

    /// The turn is the caller's.
    fn write_all<'a>(
        &'a self,
        cx: &mut Context<'_>,
        mut state: MutexGuard<'a, State>,
    ) -> io::Result<Written> {
        let mut lent: Lent = [const { None }; BATCH_FRAMES];
        let mut blocked_since = match state.turn {
            Turn::Blocked(since) => Some(since),
            Turn::Free | Turn::HandedOver | Turn::Writing => None,
        };
        // A socket that was blocked may keep what it has taken.
        while !state.queue.is_empty() || blocked_since.is_some() {
            state.turn = Turn::Writing;
            let (count, written) = state.queue.lend(&mut lent);
            drop(state);
            let (taken, result) = self.write_once(cx, &lent[..count], written);
            state = self.state.lock();
            state.queue.give_back(&mut lent, taken, self.max_bytes);
            match result {
                Poll::Ready(Ok(())) => blocked_since = None,
                Poll::Ready(Err(error)) => {
                    state.turn = Turn::Free;
                    return Err(error);
                }
                Poll::Pending => {
                    let since = blocked_since.filter(|_| taken == 0).unwrap_or_else(Instant::now);
                    state.turn = Turn::Blocked(since);
                    return Ok(Written::Some);
                }
            }
        }
        state.turn = Turn::Free;
        // Asked under the lock under which nothing was left: it may be closed a moment later, with more in it.
        Ok(if state.queue.is_complete() { Written::AllThereIs } else { Written::All })
    }

    /// Says how much the socket has taken, and whether it takes more.
    fn write_once(
        &self,
        cx: &mut Context<'_>,
        frames: &[Option<Frame>],
        written: usize,
    ) -> (usize, Poll<io::Result<()>>) {
        let result = match frames {
            [] => return (0, self.socket.poll_flush(cx)),
            [Some(frame)] => self.socket.poll_write(cx, &[IoSlice::new(&frame.as_bytes()[written..])]),
            frames => {
                let mut slices = [IoSlice::new(&[]); BATCH_FRAMES];
                for (slice, frame) in slices.iter_mut().zip(frames.iter().flatten()) {
                    *slice = IoSlice::new(frame.as_bytes());
                }
                let mut unwritten = &mut slices[..frames.len()];
                IoSlice::advance_slices(&mut unwritten, written);
                self.socket.poll_write(cx, unwritten)
            }
        };
        match result {
            Poll::Ready(Ok(0)) => (0, Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
            Poll::Ready(Ok(taken)) => (taken, self.socket.poll_flush(cx)),
            Poll::Ready(Err(error)) => (0, Poll::Ready(Err(error))),
            Poll::Pending => (0, Poll::Pending),
        }
    }

    /// Changes the state, and wakes the task, without the lock, if the change says so.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> (T, bool)) -> T {
        let mut state = self.state.lock();
        let (result, wakes) = change(&mut state);
        let task = if wakes { state.task.take() } else { None };
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        result
    }

    #[cfg(test)]
    pub fn drain(&self) -> Vec<Frame> {
        let mut state = self.state.lock();
        state.turn = Turn::Free;
        state.queue.drain()
    }
}

impl State {
    fn register(&mut self, cx: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
    }
}
