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
mod memory;
mod outbox;
mod recall;
mod socket;
mod writers;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use slab::Slab;
use tablecast_protocol::{At, Frame, MessageHead, RemoteDisconnect};
use tokio::time::{Instant, sleep};

pub use compression::{Dialect, Encoding, Format};
pub use memory::Past;
pub use outbox::{Backlog, Closing, Manner, Of, Offered, Outbox, SubscriptionId};
pub use recall::recall;
pub use socket::Socket;
pub use writers::Writers;

use compression::Compressor;
use memory::{Memory, Remembered};
use recall::{Recall, Recalls};

use crate::bus::{Batch, Mark, Message, Messages, Resumed, Source, Token, Tokens};
use crate::stream::Stream;
use crate::telemetry::metrics;

pub struct Hub {
    streams: DashMap<Stream, Arc<Mutex<Subscribers>>>,
    pub writers: Writers,
    compressor: Compressor,
    recalls: Recalls,
    generations: AtomicU64,
}

/// Who listens to one stream.
#[derive(Default)]
struct Subscribers {
    /// By identifier and dialect, for each of which a message is encoded once. Usually there is one, and a map has
    /// room for three at least: hence the box.
    groups: HashMap<Key, Box<Group>>,
    /// Its last messages, once a newcomer was to be given some.
    memory: Option<Box<Memory>>,
    /// Those who wait for it.
    waiting: Vec<Waiting>,
    /// The last one has left and the hub forgets this. Who got hold of it before
    /// has to look the stream up again.
    retired: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    identifier: Arc<str>,
    dialect: Dialect,
}

struct Group {
    head: MessageHead,
    is_state: bool,
    members: Slab<Member>,
}

struct Member {
    outbox: Arc<Outbox>,
    of: Of,
}

/// A subscriber whose messages are held until it has been given what comes before them.
struct Waiting {
    key: Key,
    slot: usize,
    gift: Gift,
}

/// What a subscriber is given of a stream's past.
#[derive(Debug)]
pub struct Gift {
    pub past: Past,
    /// Nothing of what a client has that goes on from here.
    pub unless: Option<Resumed>,
    /// What the client is told after it, if it has asked.
    pub answer: Option<Answer>,
}

/// To a client that wanted to go on from where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It can.
    Confirm,
    /// It can't.
    Reject,
}

/// Who comes to listen.
#[derive(Clone, Copy)]
pub struct Subscriber<'a> {
    pub identifier: &'a Arc<str>,
    /// What its messages are in the outbox.
    pub of: Of,
    pub dialect: Dialect,
    pub outbox: &'a Arc<Outbox>,
}

/// A place among a stream's subscribers. Dropping it leaves nothing behind only if it
/// was given back by [`Hub::unsubscribe`].
#[derive(Debug)]
#[must_use]
pub struct Subscription {
    stream: Stream,
    key: Key,
    slot: usize,
}

impl Hub {
    /// `memory_bytes` is what streams' last messages may take, which newcomers are given.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            streams: DashMap::new(),
            writers: Writers::default(),
            compressor: Compressor::default(),
            recalls: Recalls::new(memory_bytes),
            generations: AtomicU64::new(0),
        }
    }

    /// Enters a subscriber, confirms it, and gives it what it is to be given, now or as soon as that is known:
    /// what is published meanwhile is held until then.
    pub fn subscribe(
        &self,
        stream: &Stream,
        subscriber: Subscriber<'_>,
        confirm: Option<Frame>,
        gift: Option<Gift>,
    ) -> Subscription {
        let Subscriber { identifier, of, dialect, outbox } = subscriber;
        let key = Key { identifier: identifier.clone(), dialect };
        let (slot, recall) = self.with(stream, |subscribers| {
            let group = subscribers.groups.entry(key.clone()).or_insert_with(|| {
                Box::new(Group {
                    head: dialect.head(identifier),
                    is_state: matches!(of, Of::State(_)),
                    // By itself it would begin with room for four.
                    members: Slab::with_capacity(1),
                })
            });
            // Not as the subscription's own: it answers a command, also one that is taken back.
            if let Some(confirm) = confirm {
                outbox.push(confirm, Of::Connection);
            }
            let slot = group.members.insert(Member { outbox: outbox.clone(), of });
            let recall = gift.and_then(|gift| {
                outbox.hold();
                self.give_now_or_later(subscribers, Waiting { key: key.clone(), slot, gift }, stream)
            });
            (slot, recall)
        });
        if let Some(recall) = recall {
            self.recalls.ask(recall);
        }
        metrics().subscriptions.increment(1);
        Subscription { stream: stream.clone(), key, slot }
    }

    /// Gives a subscriber whose outbox holds its messages what it is to be given, and releases them, now or as
    /// soon as that is known.
    pub fn give(&self, subscription: &Subscription, gift: Gift) {
        let Subscription { stream, key, slot } = subscription;
        let waiting = Waiting { key: key.clone(), slot: *slot, gift };
        let recall = self.with(stream, |subscribers| self.give_now_or_later(subscribers, waiting, stream));
        if let Some(recall) = recall {
            self.recalls.ask(recall);
        }
    }

    /// Says what has to be read for it, if nobody reads it yet.
    fn give_now_or_later(
        &self,
        subscribers: &mut Subscribers,
        waiting: Waiting,
        stream: &Stream,
    ) -> Option<Recall> {
        let past = waiting.gift.past;
        let memory = subscribers.memory.get_or_insert_with(|| {
            let memory = Memory::new(self.generations.fetch_add(1, Ordering::Relaxed));
            self.recalls.remembers(stream, memory.bytes());
            Box::new(memory)
        });
        memory.is_used = true;
        if memory.get(past).is_some() {
            subscribers.give(&self.compressor, waiting);
            return None;
        }
        subscribers.waiting.push(waiting);
        let generation = memory.generation;
        memory.expect(past).then(|| Recall { stream: stream.clone(), past, generation })
    }

    /// Takes a subscriber out. Nothing published from now on reaches it; what waits in
    /// its outbox is the caller's to withdraw.
    pub fn unsubscribe(&self, subscription: Subscription) {
        let Subscription { stream, key, slot } = subscription;
        let subscribers =
            self.streams.get(&stream).map(|entry| Arc::clone(&entry)).expect("it has a subscriber");
        let empty = {
            let mut subscribers = subscribers.lock();
            let group = subscribers.groups.get_mut(&key).expect("it has a member");
            let Member { outbox, of } = group.members.remove(slot);
            if group.members.is_empty() {
                subscribers.groups.remove(&key);
            }
            // It may wait more than once, if it has asked for its past again.
            subscribers.waiting.retain(|waiting| {
                let is_it = waiting.slot == slot && waiting.key == key;
                if is_it {
                    // First, or a writer takes what was held before it is withdrawn.
                    if let Some(id) = of.subscription() {
                        outbox.forget_held(id, usize::MAX);
                    }
                    outbox.release();
                }
                !is_it
            });
            subscribers.is_of_no_use()
        };
        if empty {
            self.retire(&stream);
        }
        metrics().subscriptions.decrement(1);
    }

    fn retire(&self, stream: &Stream) {
        // Somebody may have come meanwhile; whoever comes later finds it retired.
        self.streams.remove_if(stream, |_, subscribers| {
            let mut subscribers = subscribers.lock();
            subscribers.retired = subscribers.is_of_no_use();
            subscribers.retired
        });
    }

    /// Runs `work` with a stream's subscribers, who are entered if there are none.
    fn with<T>(&self, stream: &Stream, work: impl FnOnce(&mut Subscribers) -> T) -> T {
        loop {
            let subscribers = match self.streams.get(stream) {
                Some(subscribers) => Arc::clone(&subscribers),
                None => Arc::clone(&self.streams.entry(stream.clone()).or_default()),
            };
            let mut subscribers = subscribers.lock();
            if !subscribers.retired {
                return work(&mut subscribers);
            }
        }
    }

    /// Puts messages of a batch into the outboxes of all who listen, in their order, and has them written.
    /// `tokens` are the batch's, and haven't been asked for later ones. Gives back the outboxes in which much
    /// waits now.
    ///
    /// O(messages + identifiers + subscribers), and no allocation for each of these last.
    pub fn publish(
        &self,
        batch: &Messages,
        range: Range<usize>,
        tokens: &mut Tokens<'_>,
    ) -> Vec<Arc<Outbox>> {
        let mut deliveries = Deliveries::default();
        let mut index = range.start;
        for run in batch.messages[range].chunk_by(|a, b| a.stream == b.stream) {
            let first = index;
            index += run.len();
            let stream = &run[0].stream;
            let Some(subscribers) = self.streams.get(stream).map(|entry| Arc::clone(&entry)) else {
                continue;
            };
            let mut subscribers = subscribers.lock();
            let Subscribers { groups, memory, .. } = &mut *subscribers;
            let has_positions = |key: &Key| key.dialect.format.has_positions();
            let at: Vec<Token> = if memory.is_some() || groups.keys().any(has_positions) {
                (first..index).map(|index| tokens.after(index)).collect()
            } else {
                Vec::new()
            };
            if let Some(memory) = memory {
                let before = memory.bytes();
                for (message, token) in run.iter().zip(&at) {
                    let Message { payload, mark, superseded, .. } = message;
                    let remembered =
                        Remembered { payload: (**payload).into(), token: token.clone(), mark: *mark };
                    memory.publish(&remembered, *superseded);
                }
                self.recalls.grew(before, memory.bytes());
            }
            for (key, group) in groups {
                // Of a state nothing may come after what is newer.
                let counts = |(_, message): &(usize, &Message)| !(group.is_state && message.superseded);
                let messages = run.iter().enumerate().filter(counts);
                let count = messages.clone().count() as u64;
                if count == 0 {
                    continue;
                }
                let messages = messages.map(|(index, message)| (&*message.payload, at.get(index).map(at_of)));
                let frame = encode(&self.compressor, key.dialect, &group.head, messages);
                let marks =
                    || run.iter().enumerate().filter(counts).map(|(_, message)| message.mark).collect();
                for (_, member) in &group.members {
                    deliveries.offer(member, frame.clone(), count, marks);
                }
            }
            // A stream whose memory has just come may have somebody to give it to.
            if !subscribers.waiting.is_empty() {
                subscribers.give_to_waiting(&self.compressor);
            }
        }
        self.writers.hand_over(&mut deliveries.to_hand_over);
        metrics().deliveries_queued.increment(deliveries.queued);
        metrics().deliveries_slow.increment(deliveries.slow);
        self.forget_what_is_too_much();
        deliveries.behind
    }

    /// Messages as they go to clients of a dialect.
    pub fn encode<'a>(
        &self,
        dialect: Dialect,
        head: &MessageHead,
        messages: impl Iterator<Item = (&'a str, Option<At<'a>>)>,
    ) -> Frame {
        encode(&self.compressor, dialect, head, messages)
    }

    #[cfg(test)]
    pub fn has_subscribers(&self, stream: &Stream) -> bool {
        self.streams.get(stream).is_some_and(|subscribers| !subscribers.lock().groups.is_empty())
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }
}

impl Subscribers {
    fn is_of_no_use(&self) -> bool {
        self.groups.is_empty() && self.memory.is_none()
    }

    /// Gives those who wait what is known by now.
    fn give_to_waiting(&mut self, compressor: &Compressor) {
        for waiting in std::mem::take(&mut self.waiting) {
            let past = waiting.gift.past;
            if self.memory.as_ref().is_some_and(|memory| memory.get(past).is_some()) {
                self.give(compressor, waiting);
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// All that has been published is in the memory or older than that, and what a subscriber's outbox holds was
    /// published after its confirm, under the lock that this holds too. So of a state the memory's message takes
    /// the place of what is held; of events what is held stays, each counts, and the memory's others come first.
    fn give(&self, compressor: &Compressor, waiting: Waiting) {
        let Waiting { key, slot, gift: Gift { past, unless, answer } } = waiting;
        let group = &self.groups[&key];
        let Member { outbox, of } = &group.members[slot];
        let held = match of {
            Of::State(id) => {
                outbox.forget_held(*id, usize::MAX);
                HashSet::new()
            }
            Of::Events(id) => outbox.held(*id),
            Of::Connection | Of::Nobody => HashSet::new(),
        };
        let is_new = |message: &&Remembered| {
            !held.contains(&message.mark) && !unless.as_ref().is_some_and(|resumed| resumed.has(message.mark))
        };
        let known = self.memory.as_ref().and_then(|memory| memory.get(past));
        let known: Vec<&Remembered> = known.into_iter().flatten().filter(is_new).collect();
        // As many of the last as may be given at once: more would be too much for a client that reads well.
        let mut room = outbox.room_for_past();
        let fits = |message: &&&Remembered| {
            let fits = message.bytes() <= room;
            room = room.saturating_sub(message.bytes());
            fits
        };
        let fitting = known.iter().rev().take_while(fits).count().max(1).min(known.len());
        let fitting = &known[known.len() - fitting..];
        // One that came late may be held, and a message above it be given first: which doesn't say more than is true.
        let tokens: Vec<Token> = fitting.iter().map(|message| message.token.lacking(&held)).collect();
        let messages =
            fitting.iter().zip(&tokens).map(|(message, token)| (&*message.payload, Some(at_of(token))));
        let frame = encode(compressor, key.dialect, &group.head, messages);
        if !frame.is_empty() {
            outbox.push(frame, *of);
        }
        if let Some(answer) = answer {
            outbox.push(answer.frame(&key.identifier), Of::Connection);
        }
        outbox.release();
    }

    /// What it was to be given can't be read.
    fn disappoint(&self, Waiting { key, slot, gift }: Waiting) {
        let outbox = &self.groups[&key].members[slot].outbox;
        if gift.answer.is_some() {
            outbox.push(Answer::Reject.frame(&key.identifier), Of::Connection);
        }
        outbox.release();
    }
}

impl Answer {
    pub fn frame(self, identifier: &str) -> Frame {
        match self {
            Self::Confirm => Frame::confirm_history(identifier),
            Self::Reject => Frame::reject_history(identifier),
        }
    }
}

/// Where a message stands, as the wire has it.
pub fn at_of(token: &Token) -> At<'_> {
    At { epoch: &token.word, offset: token.offset }
}

fn encode<'a>(
    compressor: &Compressor,
    dialect: Dialect,
    head: &MessageHead,
    messages: impl Iterator<Item = (&'a str, Option<At<'a>>)>,
) -> Frame {
    match dialect.encoding {
        Encoding::Plain => Frame::messages_at(head, messages),
        Encoding::Deflate => compressor.messages(head, messages),
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
    fn offer(&mut self, member: &Member, frame: Frame, count: u64, marks: impl FnOnce() -> Box<[Mark]>) {
        let offered = member.outbox.offer(frame, member.of, marks);
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
    let mut burst = Burst::new(piece_bytes);
    loop {
        match source.next().await {
            Batch::Released(released) => {
                for message in &released.messages {
                    notice_of(message).map(&notice);
                }
                let mut tokens = released.tokens();
                let mut first = 0;
                for piece in pieces(&released.messages, piece_bytes) {
                    let range = first..first + piece.len();
                    first = range.end;
                    let bytes = bytes(piece);
                    burst.give_time_before(bytes).await;
                    burst.published(bytes, hub.publish(&released, range, &mut tokens));
                }
            }
            Batch::NewHistory => {
                hub.forget_all();
                notice(Notice::NewHistory);
            }
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

/// Large pieces that follow one another: who is behind one of them has time before the next.
///
/// Before the next, and not at once: what comes in between is small and somebody else's, and would wait 20 ms for
/// each client that has stopped reading while its own messages are large.
struct Burst {
    /// More than this is large. An outbox has room for eight times as much.
    small_bytes: usize,
    /// When the last large piece was published, and who was behind then. Their sockets close without us.
    at: Instant,
    behind: Vec<Weak<Outbox>>,
    /// What was published since.
    bytes_since: usize,
}

impl Burst {
    fn new(piece_bytes: usize) -> Self {
        Self { small_bytes: piece_bytes / 2, at: Instant::now(), behind: Vec::new(), bytes_since: 0 }
    }

    /// Waits until the connections have written what they can, if a piece of so many bytes asks for that.
    async fn give_time_before(&mut self, bytes: usize) {
        if self.bytes_since + bytes <= self.small_bytes {
            return;
        }
        loop {
            let clients_time_is_over = self.at.elapsed() >= CLIENTS_TIME;
            self.behind.retain(|outbox| {
                outbox.upgrade().is_some_and(|outbox| match outbox.backlog() {
                    Backlog::Little => false,
                    Backlog::Client => !clients_time_is_over,
                    Backlog::Server => true,
                })
            });
            if self.behind.is_empty() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn published(&mut self, bytes: usize, behind: Vec<Arc<Outbox>>) {
        self.bytes_since += bytes;
        // A client that is behind a small piece is behind for other reasons.
        if bytes > self.small_bytes {
            self.at = Instant::now();
            self.behind = behind.iter().map(Arc::downgrade).collect();
            self.bytes_since = 0;
        }
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
    use crate::bus::memory::{memory, message};
    use crate::stream::Prefix;

    fn stream(name: &str) -> Stream {
        Prefix::default().stream(name).unwrap()
    }

    fn outbox() -> Arc<Outbox> {
        // A socket that takes nothing.
        let (ours, _) = tokio::io::duplex(1);
        Arc::new(Outbox::new(Box::new(Mutex::new(ours)), Manner::Cable, 1 << 20))
    }

    const PLAIN: Dialect = Dialect { format: Format::Cable, encoding: Encoding::Plain };

    fn subscribe(
        hub: &Hub,
        stream: &Stream,
        identifier: &str,
        id: u32,
        outbox: &Arc<Outbox>,
    ) -> Subscription {
        let identifier: Arc<str> = identifier.into();
        let of = Of::Events(SubscriptionId(id));
        let subscriber = Subscriber { identifier: &identifier, of, dialect: PLAIN, outbox };
        hub.subscribe(stream, subscriber, Some(confirm(&identifier)), None)
    }

    fn publish(hub: &Hub, messages: &[Message]) {
        let batch = Messages::from(messages.to_vec());
        hub.publish(&batch, 0..messages.len(), &mut batch.tokens());
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
        let (hub, s) = (Hub::new(1 << 20), stream("s"));
        let (one, two) = (outbox(), outbox());
        let _one = subscribe(&hub, &s, A, 0, &one);
        let _two = subscribe(&hub, &s, A, 0, &two);

        publish(&hub, &[message(&s, "1")]);

        let (one, two) = (one.drain(), two.drain());
        assert_eq!(one, [confirm(A), delivery(A, "1")]);
        assert_eq!(two, one);
        assert!(std::ptr::eq(one[1].as_bytes(), two[1].as_bytes()), "the same bytes");
    }

    #[test]
    fn a_connection_sees_two_streams_in_the_order_of_the_table() {
        let (hub, a, b) = (Hub::new(1 << 20), stream("a"), stream("b"));
        let outbox = outbox();
        let _a = subscribe(&hub, &a, "A", 0, &outbox);
        let _b = subscribe(&hub, &b, "B", 1, &outbox);
        outbox.drain();

        publish(&hub, &[message(&a, "1"), message(&b, "2"), message(&a, "3")]);

        assert_eq!(outbox.drain(), [delivery("A", "1"), delivery("B", "2"), delivery("A", "3")]);
    }

    #[test]
    fn who_has_left_gets_nothing_and_leaves_nothing() {
        let (hub, s, outbox) = (Hub::new(1 << 20), stream("s"), outbox());
        let subscription = subscribe(&hub, &s, A, 0, &outbox);
        outbox.drain();

        hub.unsubscribe(subscription);
        publish(&hub, &[message(&s, "1")]);

        assert!(outbox.drain().is_empty());
        assert!(hub.is_empty());
    }

    /// The race of the last to leave against the next to come: whoever is confirmed must be
    /// found by the next publish.
    #[test]
    fn who_comes_as_the_last_one_leaves_is_not_lost() {
        let (hub, s) = (Hub::new(1 << 20), stream("s"));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let outbox = outbox();
                while !stop.load(Ordering::Relaxed) {
                    let subscription = subscribe(&hub, &s, A, 0, &outbox);
                    hub.unsubscribe(subscription);
                    outbox.drain();
                }
            });
            for _ in 0..20_000 {
                let outbox = outbox();
                let subscription = subscribe(&hub, &s, A, 0, &outbox);
                publish(&hub, &[message(&s, "1")]);
                assert_eq!(outbox.drain(), [confirm(A), delivery(A, "1")]);
                hub.unsubscribe(subscription);
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
        let (hub, s, outbox) = (Arc::new(Hub::new(1 << 20)), stream("s"), outbox());
        let _subscription = subscribe(&hub, &s, A, 0, &outbox);
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

    /// Whoever is behind a large message is given time before the next one, and nobody else's messages wait for that.
    #[tokio::test(start_paused = true)]
    async fn a_small_message_waits_for_nobody_who_is_behind_a_large_one() {
        let (hub, large, small) = (Arc::new(Hub::new(1 << 20)), stream("large"), stream("small"));
        let (behind, quick) = (outbox(), outbox());
        let _behind = subscribe(&hub, &large, A, 0, &behind);
        let _quick = subscribe(&hub, &small, A, 0, &quick);
        quick.drain();
        let (writer, source) = memory();
        let payload = "1".repeat(600_000);
        tokio::spawn(follow(source, hub.clone(), 1 << 16, |_| {}));

        writer.release(&large, &[&payload]);
        writer.release(&small, &["1"]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(quick.drain(), [delivery(A, "1")]);

        writer.release(&large, &["2", &payload]);
        writer.release(&small, &["2"]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(quick.drain(), [], "it stands behind a large one, which waits");
        assert_eq!(behind.drain(), [confirm(A), delivery(A, &payload)]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(quick.drain(), [delivery(A, "2")]);
    }
}
