//! The hub: streams to subscribers.
//!
//! # The pattern
//!
//! One task [`follow`]s the source and publishes each batch; any number of connections
//! subscribe and unsubscribe meanwhile. A message is encoded once for each distinct
//! identifier and [`Encoding`] among its stream's subscribers, as a whole WebSocket frame; each subscriber's
//! [`Outbox`] gets a reference to it, and the [`Writers`] bring it to the sockets. The hub knows
//! no ids and no SQL.
//!
//! # Order, and why confirm means from here on
//!
//! A stream's subscribers stand behind one mutex. Publishing holds it while it puts the
//! frames into the outboxes, and [`Hub::subscribe`] holds it while it puts the confirm into
//! the subscriber's outbox and adds it. So of a message and a subscription either the message
//! was first, and this subscriber doesn't get it, or the confirm was, and then the message
//! stands behind it in the outbox. What commits after the confirm is released after it, and
//! so can't have been first.
//!
//! Messages are published one run of a stream at a time, in release order, so that a
//! connection that listens to two streams sees both in the order of the table.

mod compression;
mod outbox;
mod socket;
mod writers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use slab::Slab;
use tablecast_protocol::{Frame, MessageHead, RemoteDisconnect};
use tokio::time::{Instant, sleep};

pub use compression::Encoding;
pub use outbox::{Backlog, Closing, Of, Offered, Outbox, SubscriptionId};
pub use socket::Socket;
pub use writers::Writers;

use compression::Compressor;

use crate::bus::{Batch, Message, Source};
use crate::stream::Stream;
use crate::telemetry::metrics;

#[derive(Default)]
pub struct Hub {
    streams: DashMap<Stream, Arc<Mutex<Subscribers>>>,
    pub writers: Writers,
    compressor: Compressor,
}

/// Who listens to one stream.
#[derive(Default)]
struct Subscribers {
    /// By identifier, for each of which a message is encoded once. Usually there is one.
    groups: HashMap<Arc<str>, Group>,
    /// The last one has left and the hub forgets this. Who got hold of it before
    /// has to look the stream up again.
    retired: bool,
}

struct Group {
    head: MessageHead,
    is_state: bool,
    /// By [`Encoding`].
    members: [Slab<Member>; Encoding::ALL.len()],
}

struct Member {
    outbox: Arc<Outbox>,
    of: Of,
}

/// A place among a stream's subscribers. Dropping it leaves nothing behind only if it
/// was given back by [`Hub::unsubscribe`].
#[derive(Debug)]
#[must_use]
pub struct Subscription {
    stream: Stream,
    encoding: Encoding,
    key: usize,
}

impl Hub {
    /// Enters a subscriber, and confirms it. `of` is what its messages are in the outbox.
    pub fn subscribe(
        &self,
        stream: &Stream,
        identifier: &Arc<str>,
        of: Of,
        encoding: Encoding,
        outbox: &Arc<Outbox>,
    ) -> Subscription {
        loop {
            let subscribers = match self.streams.get(stream) {
                Some(subscribers) => Arc::clone(&subscribers),
                None => Arc::clone(&self.streams.entry(stream.clone()).or_default()),
            };
            let mut subscribers = subscribers.lock();
            if subscribers.retired {
                continue;
            }
            let group = subscribers.groups.entry(identifier.clone()).or_insert_with(|| Group {
                head: MessageHead::new(identifier),
                is_state: matches!(of, Of::State(_)),
                members: Default::default(),
            });
            // Not as the subscription's own: it answers a command, also one that is taken back.
            outbox.push(Frame::confirm_subscription(identifier), Of::Connection);
            let key = group.members[encoding as usize].insert(Member { outbox: outbox.clone(), of });
            metrics().subscriptions.increment(1);
            return Subscription { stream: stream.clone(), encoding, key };
        }
    }

    /// Takes a subscriber out. Nothing published from now on reaches it; what waits in
    /// its outbox is the caller's to withdraw.
    pub fn unsubscribe(&self, identifier: &str, subscription: Subscription) {
        let Subscription { stream, encoding, key } = subscription;
        let subscribers =
            self.streams.get(&stream).map(|entry| Arc::clone(&entry)).expect("it has a subscriber");
        let empty = {
            let mut subscribers = subscribers.lock();
            let group = subscribers.groups.get_mut(identifier).expect("it has a member");
            group.members[encoding as usize].remove(key);
            if group.members.iter().all(Slab::is_empty) {
                subscribers.groups.remove(identifier);
            }
            subscribers.groups.is_empty()
        };
        if empty {
            // Somebody may have come meanwhile; whoever comes later finds it retired.
            self.streams.remove_if(&stream, |_, subscribers| {
                let mut subscribers = subscribers.lock();
                subscribers.retired = subscribers.groups.is_empty();
                subscribers.retired
            });
        }
        metrics().subscriptions.decrement(1);
    }

    /// Puts messages into the outboxes of all who listen, in their order, and has them written.
    /// Gives back the outboxes in which much waits now.
    ///
    /// O(messages + identifiers + subscribers), and no allocation for each of these last.
    pub fn publish(&self, messages: &[Message]) -> Vec<Arc<Outbox>> {
        let mut deliveries = Deliveries::default();
        for run in messages.chunk_by(|a, b| a.stream == b.stream) {
            let Some(subscribers) = self.streams.get(&run[0].stream).map(|entry| Arc::clone(&entry)) else {
                continue;
            };
            for group in subscribers.lock().groups.values() {
                // Of a state nothing may come after what is newer.
                let counts = |message: &&Message| !(group.is_state && message.superseded);
                let payloads = run.iter().filter(counts).map(|message| &*message.payload);
                let count = payloads.clone().count() as u64;
                for (encoding, members) in Encoding::ALL.into_iter().zip(&group.members) {
                    if count == 0 || members.is_empty() {
                        continue;
                    }
                    let frame = match encoding {
                        Encoding::Plain => Frame::messages(&group.head, payloads.clone()),
                        Encoding::Deflate => self.compressor.messages(&group.head, payloads.clone()),
                    };
                    for (_, member) in members {
                        deliveries.offer(member, frame.clone(), count);
                    }
                }
            }
        }
        self.writers.hand_over(&mut deliveries.to_hand_over);
        metrics().deliveries_queued.increment(deliveries.queued);
        metrics().deliveries_slow.increment(deliveries.slow);
        deliveries.behind
    }

    #[cfg(test)]
    pub fn has_subscribers(&self, stream: &Stream) -> bool {
        self.streams.contains_key(stream)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

/// What one publish comes to.
#[derive(Default)]
struct Deliveries {
    queued: u64,
    slow: u64,
    /// Once all is queued, so that each socket gets it in one piece.
    to_hand_over: Vec<Arc<Outbox>>,
    behind: Vec<Arc<Outbox>>,
}

impl Deliveries {
    fn offer(&mut self, member: &Member, frame: Frame, count: u64) {
        let offered = member.outbox.offer(frame, member.of);
        if let Offered::ToHandOver { .. } = offered {
            self.to_hand_over.push(member.outbox.clone());
        }
        match offered {
            Offered::Queued { is_much } | Offered::ToHandOver { is_much } => {
                self.queued += count;
                if is_much {
                    self.behind.push(member.outbox.clone());
                }
            }
            Offered::Refused => self.slow += count,
        }
    }
}

/// What a source yields that is for no subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice<'a> {
    /// Clients hold what may never have happened.
    NewHistory,
    /// The application ends the connections of this name.
    Disconnect { name: &'a str, reconnect: bool },
}

/// Publishes what a source yields, for ever, and passes on what isn't for subscribers.
///
/// A large batch is published in pieces, each of which the connections get the time to write.
/// Otherwise a burst would fill the outbox of a client that reads as fast as it can.
pub async fn follow(mut source: impl Source, hub: Arc<Hub>, piece_bytes: usize, notice: impl Fn(Notice<'_>)) {
    loop {
        match source.next().await {
            Batch::Released(released) => {
                for message in &released.messages {
                    notice_of(message).map(&notice);
                }
                for piece in pieces(&released.messages, piece_bytes) {
                    let behind = hub.publish(piece);
                    // A client that is behind a small piece is behind for other reasons.
                    if bytes(piece) > piece_bytes / 2 {
                        give_time(behind).await;
                    }
                }
            }
            Batch::NewHistory => notice(Notice::NewHistory),
        }
    }
}

/// Rails ignores what it doesn't know on these streams.
fn notice_of(message: &Message) -> Option<Notice<'_>> {
    let name = message.stream.disconnects()?;
    let RemoteDisconnect { reconnect } = RemoteDisconnect::parse(&message.payload)?;
    Some(Notice::Disconnect { name, reconnect })
}

/// For clients' sockets to take what they were offered. A slow client is out of the queue's
/// room after a few pieces, so it can't keep the others waiting for longer than those.
const CLIENTS_TIME: Duration = Duration::from_millis(20);

/// Waits until the connections have written what they can.
async fn give_time(mut behind: Vec<Arc<Outbox>>) {
    let started = Instant::now();
    loop {
        let clients_time_is_over = started.elapsed() >= CLIENTS_TIME;
        behind.retain(|outbox| match outbox.backlog() {
            Backlog::Little => false,
            Backlog::Client => !clients_time_is_over,
            Backlog::Server => true,
        });
        if behind.is_empty() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs of messages of about so many bytes.
fn pieces(messages: &[Message], piece_bytes: usize) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let count = rest.iter().take_while(|message| {
            let fits = sum < piece_bytes;
            sum += size(message);
            fits
        });
        let (piece, later) = rest.split_at(count.count());
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(size).sum()
}

/// What a message takes in an outbox, with about what its identifier and its place do.
fn size(message: &Message) -> usize {
    message.payload.len() + 256
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::bus::memory::memory;
    use crate::stream::Prefix;

    fn stream(name: &str) -> Stream {
        Prefix::default().stream(name).unwrap()
    }

    fn outbox() -> Arc<Outbox> {
        // A socket that takes nothing.
        let (ours, _) = tokio::io::duplex(1);
        Arc::new(Outbox::new(Mutex::new(ours), 1 << 20))
    }

    fn message(stream: &Stream, payload: &str) -> Message {
        Message { stream: stream.clone(), payload: payload.into(), superseded: false }
    }

    fn confirm(identifier: &str) -> Frame {
        Frame::confirm_subscription(identifier)
    }

    fn delivery(identifier: &str, payload: &str) -> Frame {
        Frame::message(&MessageHead::new(identifier), payload)
    }

    const A: &str = r#"{"channel":"A"}"#;

    #[test]
    fn a_message_is_encoded_once_for_all_who_share_an_identifier() {
        let (hub, s) = (Hub::default(), stream("s"));
        let (one, two) = (outbox(), outbox());
        let identifier: Arc<str> = A.into();
        let _one = hub.subscribe(&s, &identifier, Of::Events(SubscriptionId(0)), Encoding::Plain, &one);
        let _two = hub.subscribe(&s, &identifier, Of::Events(SubscriptionId(0)), Encoding::Plain, &two);

        hub.publish(&[message(&s, "1")]);

        let (one, two) = (one.drain(), two.drain());
        assert_eq!(one, [confirm(A), delivery(A, "1")]);
        assert_eq!(two, one);
        assert!(std::ptr::eq(one[1].as_bytes(), two[1].as_bytes()), "the same bytes");
    }

    #[test]
    fn a_connection_sees_two_streams_in_the_order_of_the_table() {
        let (hub, a, b) = (Hub::default(), stream("a"), stream("b"));
        let outbox = outbox();
        let _a = hub.subscribe(&a, &"A".into(), Of::Events(SubscriptionId(0)), Encoding::Plain, &outbox);
        let _b = hub.subscribe(&b, &"B".into(), Of::Events(SubscriptionId(1)), Encoding::Plain, &outbox);
        outbox.drain();

        hub.publish(&[message(&a, "1"), message(&b, "2"), message(&a, "3")]);

        assert_eq!(outbox.drain(), [delivery("A", "1"), delivery("B", "2"), delivery("A", "3")]);
    }

    #[test]
    fn who_has_left_gets_nothing_and_leaves_nothing() {
        let (hub, s, outbox) = (Hub::default(), stream("s"), outbox());
        let subscription =
            hub.subscribe(&s, &A.into(), Of::Events(SubscriptionId(0)), Encoding::Plain, &outbox);
        outbox.drain();

        hub.unsubscribe(A, subscription);
        hub.publish(&[message(&s, "1")]);

        assert!(outbox.drain().is_empty());
        assert!(hub.is_empty());
    }

    /// The race of the last to leave against the next to come: whoever is confirmed must be
    /// found by the next publish.
    #[test]
    fn who_comes_as_the_last_one_leaves_is_not_lost() {
        let (hub, s) = (Hub::default(), stream("s"));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let outbox = outbox();
                while !stop.load(Ordering::Relaxed) {
                    let subscription =
                        hub.subscribe(&s, &A.into(), Of::Events(SubscriptionId(0)), Encoding::Plain, &outbox);
                    hub.unsubscribe(A, subscription);
                    outbox.drain();
                }
            });
            for _ in 0..20_000 {
                let outbox = outbox();
                let subscription =
                    hub.subscribe(&s, &A.into(), Of::Events(SubscriptionId(0)), Encoding::Plain, &outbox);
                hub.publish(&[message(&s, "1")]);
                assert_eq!(outbox.drain(), [confirm(A), delivery(A, "1")]);
                hub.unsubscribe(A, subscription);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn pieces_are_all_messages_in_their_order() {
        let s = stream("s");
        let messages: Vec<Message> =
            [10, 2000, 1, 1, 5000, 700, 700, 700].map(|length| message(&s, &"1".repeat(length))).into();

        let pieces: Vec<&[Message]> = pieces(&messages, 1000).collect();

        assert_eq!(pieces.concat(), messages);
        assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [2, 3, 2, 1]);
        assert_eq!(super::pieces(&[], 1000).count(), 0);
    }

    #[tokio::test]
    async fn following_a_source_delivers_its_batches_in_order() {
        let (hub, s, outbox) = (Arc::new(Hub::default()), stream("s"), outbox());
        let _subscription =
            hub.subscribe(&s, &A.into(), Of::Events(SubscriptionId(0)), Encoding::Plain, &outbox);
        let (writer, source) = memory();

        tokio::spawn(follow(source, hub.clone(), 1 << 16, |_| {}));
        writer.release(&s, &["1", "2"]);
        writer.release(&s, &["3"]);

        let mut frames = Vec::new();
        while frames.len() < 4 {
            frames.extend(outbox.drain().iter().flat_map(Frame::each));
            tokio::task::yield_now().await;
        }
        assert_eq!(frames, [confirm(A), delivery(A, "1"), delivery(A, "2"), delivery(A, "3")]);
    }
}
