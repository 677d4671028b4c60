use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use parking_lot::Mutex;
use tablecast_protocol::{CloseCode, DisconnectReason, Frame};
use tokio::io::AsyncWrite;

/// One connection's queue of frames: the hub and the connection push, its socket takes.
///
/// It is bounded in bytes. A push that doesn't fit is the last: the client reads more
/// slowly than its streams flow, and is asked to come back. What waits is exactly what is
/// in here; there is no second buffer before the socket. Where less than half of the bound
/// waits one message of any size fits, or the largest could never be delivered.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    max_bytes: usize,
}

/// Tells one connection's subscriptions apart, so that a frame can be withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u32);

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Queued>,
    /// Bytes of these frames, without those of the first that were written.
    bytes: usize,
    /// How much of the first frame was written.
    written: usize,
    /// Bytes that are out for a system call; `written` is about the first of those then.
    out: usize,
    /// The queue was given up while those were out: they don't come back.
    out_given_up: bool,
    /// The socket took less than it was offered.
    blocked: bool,
    closing: Option<Closing>,
    /// Waits for something to write.
    writer: Option<Waker>,
    /// Waits for the end, also while the socket takes nothing.
    closer: Option<Waker>,
}

#[derive(Debug)]
struct Queued {
    frame: Frame,
    subscription: Option<SubscriptionId>,
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

/// What writing came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All that was there to write before the end has been written.
    Closed(Closing),
}

/// One system call takes so many frames, and about so many bytes.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

impl Outbox {
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes }
    }

    /// Queues a frame, of a subscription or of the connection itself. Says whether it fit.
    pub fn push(&self, frame: Frame, subscription: Option<SubscriptionId>) -> bool {
        self.change(|state, max_bytes| {
            let fits = state.admit(frame.as_bytes().len(), max_bytes);
            if fits {
                state.frames.push_back(Queued { frame, subscription });
            }
            fits
        })
    }

    /// Queues frames of a subscription, all or none: the client's loss is whole, and it
    /// is told. Says how much waits then; none if they didn't fit.
    pub fn push_all(&self, frames: &[Frame], subscription: SubscriptionId) -> Option<Backlog> {
        let bytes = frames.iter().map(|frame| frame.as_bytes().len()).sum();
        self.change(|state, max_bytes| {
            let fits = state.admit(bytes, max_bytes);
            if fits {
                let queued =
                    |frame: &Frame| Queued { frame: frame.clone(), subscription: Some(subscription) };
                state.frames.extend(frames.iter().map(queued));
            }
            fits.then(|| state.backlog(max_bytes))
        })
    }

    /// Queues a heartbeat, unless other frames wait that say as much.
    pub fn push_ping(&self, frame: &Frame) {
        self.change(|state, max_bytes| {
            if state.frames.is_empty() && state.admit(frame.as_bytes().len(), max_bytes) {
                state.frames.push_back(Queued { frame: frame.clone(), subscription: None });
            }
        });
    }

    /// Withdraws what waits for a subscription, but for a frame half of which is out.
    pub fn withdraw(&self, subscription: SubscriptionId) {
        let mut state = self.state.lock();
        let State { frames, bytes, written, .. } = &mut *state;
        let mut half_written = *written > 0;
        frames.retain(|queued| {
            let keep = std::mem::take(&mut half_written) || queued.subscription != Some(subscription);
            if !keep {
                *bytes -= queued.frame.as_bytes().len();
            }
            keep
        });
    }

    /// How far behind the client is.
    pub fn backlog(&self) -> Backlog {
        self.state.lock().backlog(self.max_bytes)
    }

    /// Accepts no more, and ends with what the reason says. The first reason stays.
    pub fn close(&self, closing: Closing) {
        self.change(|state, _| state.close(closing));
    }

    pub fn is_closing(&self) -> bool {
        self.state.lock().closing.is_some()
    }

    /// Resolves once it was closed, whatever the socket does.
    pub fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<Closing> {
        let mut state = self.state.lock();
        match state.closing {
            Some(closing) => Poll::Ready(closing),
            None => {
                register(&mut state.closer, cx);
                Poll::Pending
            }
        }
    }

    /// Writes all that waits, and then waits for more; resolves when the outbox was closed
    /// and all is out, or with the socket's error.
    ///
    /// Frames are moved out for the system call and what it didn't take is moved back, so
    /// the lock is never held while writing. Only one task may call this.
    pub fn poll_flush<W: AsyncWrite + Unpin>(
        &self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Flushed>> {
        let mut batch: [Option<Queued>; BATCH_FRAMES] = [const { None }; BATCH_FRAMES];
        loop {
            let (count, written) = {
                let mut state = self.state.lock();
                if state.frames.is_empty() {
                    // Given back: an idle connection owns no buffer.
                    state.frames = VecDeque::new();
                    if let Some(closing) = state.closing {
                        return Poll::Ready(Ok(Flushed::Closed(closing)));
                    }
                    register(&mut state.writer, cx);
                    return Poll::Pending;
                }
                (state.take(&mut batch), state.written)
            };
            let mut slices = [IoSlice::new(&[]); BATCH_FRAMES];
            for (slice, queued) in slices.iter_mut().zip(batch.iter().flatten()) {
                *slice = IoSlice::new(queued.frame.as_bytes());
            }
            let mut unwritten = &mut slices[..count];
            IoSlice::advance_slices(&mut unwritten, written);
            let result = Pin::new(&mut *io).poll_write_vectored(cx, unwritten);

            let mut state = self.state.lock();
            let taken = match &result {
                Poll::Ready(Ok(taken)) => *taken,
                _ => 0,
            };
            state.restore(&mut batch[..count], taken);
            state.blocked = result.is_pending();
            drop(state);
            if ready!(result)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    /// Changes the queue, and wakes who waits for that, without the lock.
    fn change<T>(&self, change: impl FnOnce(&mut State, usize) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state, self.max_bytes);
        let writer =
            if state.frames.is_empty() && state.closing.is_none() { None } else { state.writer.take() };
        let closer = if state.closing.is_some() { state.closer.take() } else { None };
        drop(state);
        for waker in [writer, closer].into_iter().flatten() {
            waker.wake();
        }
        result
    }

    #[cfg(test)]
    pub fn drain(&self) -> Vec<Frame> {
        let mut state = self.state.lock();
        (state.bytes, state.written) = (0, 0);
        state.frames.drain(..).map(|queued| queued.frame).collect()
    }
}

impl State {
    fn backlog(&self, max_bytes: usize) -> Backlog {
        if self.closing.is_some() || self.waiting() <= max_bytes / 2 {
            Backlog::Little
        } else if self.blocked {
            Backlog::Client
        } else {
            Backlog::Server
        }
    }

    fn waiting(&self) -> usize {
        self.bytes + self.out
    }

    /// Accounts for what is to be queued; what doesn't fit closes.
    fn admit(&mut self, bytes: usize, max_bytes: usize) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let waiting = self.waiting();
        if waiting + bytes > max_bytes && waiting > max_bytes / 2 {
            self.close(Closing::Disconnect(DisconnectReason::SlowConsumer));
            return false;
        }
        self.bytes += bytes;
        true
    }

    fn close(&mut self, closing: Closing) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(closing);
        if closing == Closing::Disconnect(DisconnectReason::SlowConsumer) {
            // What waits is lost to a client that must start anew, and would stand between
            // it and being told so. Only a frame half of which is out must be finished.
            let half_written = self.written > 0 && self.out == 0;
            self.frames.truncate(usize::from(half_written));
            let left: usize = self.frames.iter().map(|queued| queued.frame.as_bytes().len()).sum();
            self.bytes = if half_written { left - self.written } else { left };
            self.out_given_up = self.out > 0;
        }
        let mut last = |frame: Frame| {
            self.bytes += frame.as_bytes().len();
            self.frames.push_back(Queued { frame, subscription: None });
        };
        match closing {
            Closing::Disconnect(reason) => {
                last(Frame::disconnect(reason));
                last(Frame::close(CloseCode::Normal, ""));
            }
            Closing::Violation(code) => last(Frame::close(code, "")),
            Closing::Client => {}
        }
    }

    /// Moves out what one system call should write.
    fn take(&mut self, batch: &mut [Option<Queued>; BATCH_FRAMES]) -> usize {
        let mut bytes = 0;
        let mut count = 0;
        while count < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(queued) = self.frames.pop_front() else { break };
            bytes += queued.frame.as_bytes().len();
            batch[count] = Some(queued);
            count += 1;
        }
        self.out = bytes - self.written;
        self.bytes -= self.out;
        count
    }

    /// Moves back what it didn't, unless the queue was given up meanwhile: then only the
    /// rest of a frame that was begun.
    fn restore(&mut self, batch: &mut [Option<Queued>], taken: usize) {
        let given_up = std::mem::take(&mut self.out_given_up);
        let mut written = self.written + taken;
        (self.out, self.written) = (0, 0);
        let mut left = VecDeque::new();
        for queued in batch.iter_mut().filter_map(Option::take) {
            let length = queued.frame.as_bytes().len();
            if left.is_empty() && written >= length {
                written -= length;
                continue;
            }
            if left.is_empty() {
                self.written = std::mem::take(&mut written);
            }
            if !given_up || (left.is_empty() && self.written > 0) {
                left.push_back(queued);
            } else {
                break;
            }
        }
        batch.fill_with(|| None);
        self.bytes += left.iter().map(|queued| queued.frame.as_bytes().len()).sum::<usize>() - self.written;
        while let Some(queued) = left.pop_back() {
            self.frames.push_front(queued);
        }
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(text: &str) -> Frame {
        Frame::from_wire(text.as_bytes())
    }

    fn waiting(outbox: &Outbox) -> usize {
        outbox.state.lock().waiting()
    }

    /// A socket that takes `room` bytes and then nothing until they are read.
    fn socket(room: usize) -> (tokio::io::DuplexStream, tokio::io::DuplexStream) {
        tokio::io::duplex(room)
    }

    #[tokio::test]
    async fn frames_arrive_in_order_through_a_socket_that_takes_a_few_bytes_at_a_time() {
        let outbox = Outbox::new(1 << 20);
        let (mut ours, mut theirs) = socket(7);
        let expected: String = (0..500).map(|n| format!("frame {n};")).collect();
        for n in 0..500 {
            outbox.push(frame(&format!("frame {n};")), None);
        }
        outbox.close(Closing::Client);

        let reading = tokio::spawn(async move {
            let mut text = String::new();
            theirs.read_to_string(&mut text).await.unwrap();
            text
        });
        let flushed = poll_fn(|cx| outbox.poll_flush(&mut ours, cx)).await.unwrap();
        drop(ours);

        assert_eq!(flushed, Flushed::Closed(Closing::Client));
        assert_eq!(reading.await.unwrap(), expected);
        assert_eq!(waiting(&outbox), 0);
    }

    #[tokio::test]
    async fn what_waits_is_counted_to_the_byte() {
        let outbox = Outbox::new(100);
        let (mut ours, _theirs) = socket(4);
        outbox.push(frame("123456"), None);
        outbox.push(frame("7890"), None);
        assert_eq!(waiting(&outbox), 10);

        let pending = futures_util::poll!(poll_fn(|cx| outbox.poll_flush(&mut ours, cx)));

        assert!(pending.is_pending());
        assert_eq!(waiting(&outbox), 6);
    }

    #[tokio::test]
    async fn a_full_queue_gives_way_to_the_word_that_it_was() {
        let outbox = Outbox::new(10);
        let (mut ours, mut theirs) = socket(4);
        outbox.push(frame("123456"), Some(SubscriptionId(1)));
        outbox.push(frame("7890"), Some(SubscriptionId(1)));
        let _ = futures_util::poll!(poll_fn(|cx| outbox.poll_flush(&mut ours, cx)));

        assert!(!outbox.push(frame("12345"), Some(SubscriptionId(1))), "more than fits");

        let closing = poll_fn(|cx| outbox.poll_closing(cx)).await;
        assert_eq!(closing, Closing::Disconnect(DisconnectReason::SlowConsumer));
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            theirs.read_to_end(&mut bytes).await.unwrap();
            bytes
        });
        poll_fn(|cx| outbox.poll_flush(&mut ours, cx)).await.unwrap();
        drop(ours);
        let mut expected = b"123456".to_vec(); // half of it was out
        expected.extend_from_slice(Frame::disconnect(DisconnectReason::SlowConsumer).as_bytes());
        expected.extend_from_slice(Frame::close(CloseCode::Normal, "").as_bytes());
        assert_eq!(reading.await.unwrap(), expected);
    }

    /// Takes a few bytes at a time, and while it does the hub pushes, some times.
    struct Interrupted<'a> {
        outbox: &'a Outbox,
        takes: usize,
        pushes: usize,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Interrupted<'_> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.pushes {
                0 => self.outbox.close(Closing::Client),
                _ => drop(self.outbox.push(frame("pushed"), Some(SubscriptionId(1)))),
            }
            self.pushes = self.pushes.saturating_sub(1);
            let count = self.takes.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_queue_that_fills_while_it_is_written_ends_with_whole_frames() {
        let mut slow = 0;
        for (takes, max_bytes) in (1..40).flat_map(|takes| [12, 20, 30, 50, 100].map(|max| (takes, max))) {
            let outbox = Outbox::new(max_bytes);
            let mut socket = Interrupted { outbox: &outbox, takes, pushes: 20, taken: Vec::new() };
            for text in ["first", "second", "third"] {
                outbox.push(frame(text), Some(SubscriptionId(1)));
            }

            let Flushed::Closed(closing) = poll_fn(|cx| outbox.poll_flush(&mut socket, cx)).await.unwrap();

            assert_eq!(waiting(&outbox), 0);
            let mut text = socket.taken.as_slice();
            if closing == Closing::Disconnect(DisconnectReason::SlowConsumer) {
                let mut end = Frame::disconnect(DisconnectReason::SlowConsumer).as_bytes().to_vec();
                end.extend_from_slice(Frame::close(CloseCode::Normal, "").as_bytes());
                text = text.strip_suffix(end.as_slice()).expect("the word at the end");
                slow += 1;
            }
            let mut rest = std::str::from_utf8(text).unwrap();
            while !rest.is_empty() {
                let whole =
                    ["first", "second", "third", "pushed"].iter().find_map(|it| rest.strip_prefix(it));
                rest = whole.unwrap_or_else(|| panic!("{rest:?} is no whole frame"));
            }
        }
        assert!(slow > 20, "both ends were reached: {slow}");
    }

    #[tokio::test]
    async fn one_message_of_any_size_fits_where_little_waits() {
        let outbox = Outbox::new(10);
        assert!(outbox.push(frame("123"), None));
        assert!(outbox.push(frame("a large message"), Some(SubscriptionId(1))));
        assert!(!outbox.push(frame("1"), Some(SubscriptionId(1))));
    }

    #[tokio::test]
    async fn withdrawing_spares_other_subscriptions_and_half_written_frames() {
        let outbox = Outbox::new(100);
        let (mut ours, _theirs) = socket(2);
        for (text, id) in [("half", 1), ("gone", 1), ("kept", 2)] {
            outbox.push(frame(text), Some(SubscriptionId(id)));
        }
        let _ = futures_util::poll!(poll_fn(|cx| outbox.poll_flush(&mut ours, cx)));

        outbox.withdraw(SubscriptionId(1));

        assert_eq!(waiting(&outbox), 2 + 4);
        assert_eq!(outbox.drain(), [frame("half"), frame("kept")]);
    }
}
