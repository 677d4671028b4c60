//! What a message costs before it reaches a socket: time and allocations.
//!
//!     cargo bench --bench micro

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use tablecast::bus::Message;
use tablecast::hub::{Hub, Outbox, Subscription, SubscriptionId};
use tablecast::stream::{Prefix, Stream};
use tablecast_protocol::{Frame, MessageHead};
use tokio::io::AsyncWrite;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const IDENTIFIER: &str = r#"{"channel":"$pubsub","stream_name":"bench"}"#;
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
    let messages = [message(&audience.stream)];
    bencher
        .counter(ItemsCount::new(subscribers))
        .with_inputs(|| audience.flush())
        .bench_local_values(|()| audience.hub.publish(black_box(&messages)));
}

/// The same for 64 messages that were released together.
#[divan::bench(args = [1, 100, 10_000], sample_size = 1, sample_count = 200)]
fn publish_64(bencher: Bencher, subscribers: usize) {
    let audience = Audience::new(subscribers);
    let messages: Vec<Message> = (0..64).map(|_| message(&audience.stream)).collect();
    bencher
        .counter(ItemsCount::new(64 * subscribers))
        .with_inputs(|| audience.flush())
        .bench_local_values(|()| audience.hub.publish(black_box(&messages)));
}

/// What a connection's task does when it was woken.
#[divan::bench(args = [1, 64])]
fn flush(bencher: Bencher, frames: usize) {
    let outbox = Outbox::new(SEND_BUFFER_BYTES);
    let frame = Frame::message(&MessageHead::new(IDENTIFIER), &payload(200));
    bencher.counter(ItemsCount::new(frames)).bench_local(|| {
        for _ in 0..frames {
            outbox.push(frame.clone(), Some(SubscriptionId(0)));
        }
        flush_into_nothing(&outbox);
    });
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
        let hub = Hub::default();
        let stream = Prefix::default().stream("bench").expect("it is a name");
        let outboxes: Vec<Arc<Outbox>> =
            (0..subscribers).map(|_| Arc::new(Outbox::new(SEND_BUFFER_BYTES))).collect();
        let subscribe = |outbox| hub.subscribe(&stream, &IDENTIFIER.into(), SubscriptionId(0), outbox);
        let subscriptions = outboxes.iter().map(subscribe).collect();
        Self { hub, stream, outboxes, _subscriptions: subscriptions }
    }

    fn flush(&self) {
        self.outboxes.iter().for_each(|outbox| flush_into_nothing(outbox));
    }
}

fn message(stream: &Stream) -> Message {
    Message { stream: stream.clone(), payload: payload(200).into(), superseded: false }
}

fn flush_into_nothing(outbox: &Outbox) {
    let written = outbox.poll_flush(&mut Nothing, &mut Context::from_waker(Waker::noop()));
    assert!(written.is_pending(), "it waits for more");
}

/// A socket that takes all.
struct Nothing;

impl AsyncWrite for Nothing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
