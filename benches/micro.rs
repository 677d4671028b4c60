//! What a message costs before it reaches a socket: time and allocations.
//!
//!     cargo bench --bench micro

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use tablecast::bus::{Message, Messages};
use tablecast::hub::{
    Dialect, Encoding, Format, Hub, Manner, Of, Outbox, Socket, Subscriber, Subscription, SubscriptionId,
};
use tablecast::stream::{Prefix, Stream};
use tablecast_protocol::{Frame, MessageHead};
use tokio::io::ReadBuf;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const IDENTIFIER: &str = r#"{"channel":"$pubsub","stream_name":"bench"}"#;
const OF: Of = Of::Events(SubscriptionId(0));
const SEND_BUFFER_BYTES: usize = 1 << 20;

fn main() {
    divan::main();
}

fn payload(bytes: usize) -> String {
    format!(r#"{{"padding":"{}"}}"#, "x".repeat(bytes - 14))
}

#[divan::bench(args = [200, 4 << 10, 64 << 10])]
fn encode(bencher: Bencher, bytes: usize) {
    let (head, payload) = (MessageHead::new(IDENTIFIER), payload(bytes));
    bencher.bench(|| Frame::message(black_box(&head), black_box(&payload)));
}

/// One message to so many subscribers, whose outboxes are empty. An iteration's allocations,
/// divided by them, are what a delivery takes.
#[divan::bench(args = [1, 100, 10_000], sample_size = 1, sample_count = 200)]
fn publish(bencher: Bencher, subscribers: usize) {
    let audience = Audience::new(subscribers);
    let batch = Messages::from(vec![message(&audience.stream)]);
    bencher.counter(ItemsCount::new(subscribers)).with_inputs(|| audience.flush()).bench_local_values(|()| {
        audience.hub.publish(black_box(&batch), 0..batch.messages.len(), &mut batch.tokens())
    });
}

/// The same for 64 messages that were released together.
#[divan::bench(args = [1, 100, 10_000], sample_size = 1, sample_count = 200)]
fn publish_64(bencher: Bencher, subscribers: usize) {
    let audience = Audience::new(subscribers);
    let batch = Messages::from((0..64).map(|_| message(&audience.stream)).collect::<Vec<Message>>());
    bencher.counter(ItemsCount::new(64 * subscribers)).with_inputs(|| audience.flush()).bench_local_values(
        |()| audience.hub.publish(black_box(&batch), 0..batch.messages.len(), &mut batch.tokens()),
    );
}

/// What a connection's task does when it was woken.
#[divan::bench(args = [1, 64])]
fn flush(bencher: Bencher, frames: usize) {
    let outbox = outbox(false);
    let frame = Frame::message(&MessageHead::new(IDENTIFIER), &payload(200));
    bencher.counter(ItemsCount::new(frames)).bench_local(|| {
        for _ in 0..frames {
            outbox.push(frame.clone(), OF);
        }
        let written = outbox.poll_flush(&mut Context::from_waker(Waker::noop()));
        assert!(written.is_pending(), "it waits for more");
    });
}

/// A message of one of so many states, for a client that reads nothing.
#[divan::bench(args = [1, 100])]
fn conflate(bencher: Bencher, states: u32) {
    let outbox = outbox(true);
    let frame = Frame::message(&MessageHead::new(IDENTIFIER), &payload(4 << 10));
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        assert!(outbox.push(frame.clone(), Of::State(SubscriptionId(number % states))));
    });
}

fn outbox(is_full: bool) -> Outbox {
    Outbox::new(Box::new(Nothing { is_full }), Manner::Cable, SEND_BUFFER_BYTES)
}

/// A stream and those who listen to it.
struct Audience {
    hub: Hub,
    stream: Stream,
    outboxes: Vec<Arc<Outbox>>,
    _subscriptions: Vec<Subscription>,
}

impl Audience {
    fn new(subscribers: usize) -> Self {
        let hub = Hub::new(1 << 20);
        let stream = Prefix::default().stream("bench").expect("it is a name");
        let outboxes: Vec<Arc<Outbox>> = (0..subscribers).map(|_| Arc::new(outbox(false))).collect();
        let identifier = IDENTIFIER.into();
        let dialect = Dialect { format: Format::Cable, encoding: Encoding::Plain };
        let subscribe = |outbox| {
            let subscriber = Subscriber { identifier: &identifier, of: OF, dialect, outbox };
            hub.subscribe(&stream, subscriber, None, None)
        };
        let subscriptions = outboxes.iter().map(subscribe).collect();
        for outbox in &outboxes {
            let _ = outbox.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
        Self { hub, stream, outboxes, _subscriptions: subscriptions }
    }

    /// As a writer does.
    fn flush(&self) {
        let mut writing = pin!(self.hub.writers.write());
        for _ in 0..=self.outboxes.len() {
            let _ = writing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

fn message(stream: &Stream) -> Message {
    Message::new(stream.clone(), &payload(200))
}

/// A socket that takes all, or nothing.
struct Nothing {
    is_full: bool,
}

impl Socket for Nothing {
    fn poll_read(&self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_write(&self, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_full {
            return Poll::Pending;
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
