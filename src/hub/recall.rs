//! Reading what newcomers are to be given, and forgetting it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::memory::{Memory, Past, Remembered};
use super::{Hub, Subscribers};
use crate::bus::{Log, Rejection, Replayed};
use crate::stream::Stream;
use crate::telemetry::metrics;

/// What is to be read from the table: once, however many wait for it.
#[derive(Debug, Clone)]
pub(super) struct Recall {
    pub stream: Stream,
    pub past: Past,
    pub generation: u64,
}

/// What the memories of all streams take, and what is to be read for them.
pub(super) struct Recalls {
    asked: mpsc::UnboundedSender<Recall>,
    /// Taken by [`recall`].
    to_read: Mutex<Option<mpsc::UnboundedReceiver<Recall>>>,
    /// Streams with a memory, in about the order in which they were used last.
    remembered: Mutex<VecDeque<Stream>>,
    bytes: AtomicUsize,
    max_bytes: usize,
}

/// Read in one go.
const STREAMS_AT_ONCE: usize = 256;
/// A stream that can't be read is given up after so many times.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

impl Recalls {
    pub fn new(max_bytes: usize) -> Self {
        let (asked, to_read) = mpsc::unbounded_channel();
        Self {
            asked,
            to_read: Mutex::new(Some(to_read)),
            remembered: Mutex::default(),
            bytes: AtomicUsize::new(0),
            max_bytes,
        }
    }

    pub fn ask(&self, recall: Recall) {
        // It fails where nobody reads, which is so when the server ends.
        let _ = self.asked.send(recall);
    }

    /// A stream has a memory now.
    pub fn remembers(&self, stream: &Stream, bytes: usize) {
        self.remembered.lock().push_back(stream.clone());
        self.grew(0, bytes);
    }

    pub fn grew(&self, before: usize, now: usize) {
        // Wrapping: what one thread adds another may take away first.
        self.bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    fn is_too_much(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.max_bytes
    }
}

/// Reads what is asked for, for ever: all that is asked for meanwhile goes together, so that a crowd that
/// returns at once costs few statements.
pub async fn recall(hub: Arc<Hub>, log: Log) {
    let Some(mut to_read) = hub.recalls.to_read.lock().take() else { return };
    let mut recalls = Vec::with_capacity(STREAMS_AT_ONCE);
    while to_read.recv_many(&mut recalls, STREAMS_AT_ONCE).await > 0 {
        let recalls = std::mem::take(&mut recalls);
        let mut pause = FIRST_PAUSE;
        let mut attempts = 1;
        loop {
            match read(&hub, &log, &recalls, attempts == 1).await {
                Ok(()) => break,
                Err(Rejection::ShuttingDown) => return,
                Err(reason) if attempts == ATTEMPTS => {
                    tracing::warn!(%reason, streams = recalls.len(), "newcomers are given nothing of the past");
                    metrics().replays_failed.increment(recalls.len() as u64);
                    recalls.iter().for_each(|recall| hub.give_up(recall));
                    break;
                }
                Err(_) => sleep(pause).await,
            }
            attempts += 1;
            pause *= 2;
        }
    }
}

/// `at_once`: not after a look, which waits for a database that is away.
async fn read(hub: &Arc<Hub>, log: &Log, recalls: &[Recall], at_once: bool) -> Result<(), Rejection> {
    let begins = {
        let (hub, recalls) = (hub.clone(), recalls.to_vec());
        // In the moment that the cut is of: what is published from then on is not read, and is kept instead.
        move |_: &_| recalls.iter().for_each(|recall| hub.begin(recall))
    };
    let cut = if at_once { log.next_cut(begins).await? } else { log.cut(begins).await? };
    let streams: Vec<(Stream, usize)> =
        recalls.iter().map(|recall| (recall.stream.clone(), recall.past.count())).collect();
    // One after the other, so that what all have together is in memory only as far as it stays there.
    let load = |of: usize, read: Vec<Replayed>| {
        hub.load(&recalls[of], read.into_iter().map(Remembered::from).collect());
    };
    log.latest_of(&streams, &cut, load).await
}

impl Hub {
    fn begin(&self, recall: &Recall) {
        self.with_memory(recall, |subscribers, past| {
            subscribers.memory_mut().begin(past);
        });
    }

    fn load(&self, recall: &Recall, read: Vec<Remembered>) {
        self.with_memory(recall, |subscribers, past| {
            subscribers.memory_mut().load(past, read);
            subscribers.give_to_waiting(&self.compressor);
        });
        self.forget_what_is_too_much();
    }

    fn give_up(&self, recall: &Recall) {
        self.with_memory(recall, |subscribers, past| {
            subscribers.memory_mut().give_up(past);
            for waiting in std::mem::take(&mut subscribers.waiting) {
                // Who wants fewer waits for the same, if the memory was to hold more.
                if past.covers(waiting.gift.past) {
                    subscribers.disappoint(waiting);
                } else {
                    subscribers.waiting.push(waiting);
                }
            }
        });
    }

    /// Only if it is the memory for which it was asked.
    fn with_memory(&self, recall: &Recall, work: impl FnOnce(&mut Subscribers, Past)) {
        let Some(subscribers) = self.streams.get(&recall.stream).map(|entry| Arc::clone(&entry)) else {
            return;
        };
        let mut subscribers = subscribers.lock();
        if subscribers.memory.as_ref().is_some_and(|memory| memory.generation == recall.generation) {
            let before = subscribers.memory_mut().bytes();
            work(&mut subscribers, recall.past);
            self.recalls.grew(before, subscribers.memory_mut().bytes());
        }
    }

    /// What hasn't been asked for the longest goes first, by and by.
    pub(super) fn forget_what_is_too_much(&self) {
        const AT_ONCE: usize = 16;
        for _ in 0..AT_ONCE {
            if !self.recalls.is_too_much() {
                return;
            }
            let Some(stream) = self.recalls.remembered.lock().pop_front() else { return };
            let Some(subscribers) = self.streams.get(&stream).map(|entry| Arc::clone(&entry)) else {
                continue;
            };
            let is_of_no_use = {
                let mut subscribers = subscribers.lock();
                let is_awaited = !subscribers.waiting.is_empty();
                let Some(memory) = &mut subscribers.memory else { continue };
                if std::mem::take(&mut memory.is_used) || is_awaited {
                    self.recalls.remembered.lock().push_back(stream);
                    continue;
                }
                self.recalls.grew(memory.bytes(), 0);
                subscribers.memory = None;
                subscribers.is_of_no_use()
            };
            if is_of_no_use {
                self.retire(&stream);
            }
        }
    }

    /// What is remembered may never have happened.
    pub(super) fn forget_all(&self) {
        // First, or one that is remembered meanwhile would never be forgotten. And all streams, since somebody
        // may have one in hand to see whether it can be forgotten.
        self.recalls.remembered.lock().clear();
        let streams: Vec<Stream> = self.streams.iter().map(|entry| entry.key().clone()).collect();
        for stream in streams {
            let Some(subscribers) = self.streams.get(&stream).map(|entry| Arc::clone(&entry)) else {
                continue;
            };
            let is_of_no_use = {
                let mut subscribers = subscribers.lock();
                if let Some(memory) = subscribers.memory.take() {
                    self.recalls.grew(memory.bytes(), 0);
                }
                for waiting in std::mem::take(&mut subscribers.waiting) {
                    subscribers.disappoint(waiting);
                }
                subscribers.is_of_no_use()
            };
            if is_of_no_use {
                self.retire(&stream);
            }
        }
    }
}

impl Subscribers {
    fn memory_mut(&mut self) -> &mut Memory {
        self.memory.as_mut().expect("it was looked for")
    }
}

#[cfg(test)]
mod tests {
    use tablecast_protocol::{At, Frame, MessageHead};

    use super::*;
    use crate::bus::memory::{accepted, mark, marked, resumed, token};
    use crate::bus::{Message, Messages, Token};
    use crate::hub::{
        Answer, Dialect, Encoding, Format, Gift, Manner, Of, Outbox, Subscriber, Subscription, SubscriptionId,
    };
    use crate::stream::Prefix;

    const PLAIN: Dialect = Dialect { format: Format::Cable, encoding: Encoding::Plain };
    const EXTENDED: Dialect = Dialect { format: Format::Extended, encoding: Encoding::Plain };

    /// A hub, what it wants to have read, and a stream.
    struct Fixture {
        hub: Hub,
        asked: mpsc::UnboundedReceiver<Recall>,
        stream: Stream,
    }

    struct Client {
        identifier: Arc<str>,
        dialect: Dialect,
        outbox: Arc<Outbox>,
        subscription: Subscription,
        /// Together with its confirm.
        came: Mutex<Vec<Frame>>,
    }

    fn fixture() -> Fixture {
        with_room(1 << 20)
    }

    fn with_room(bytes: usize) -> Fixture {
        let hub = Hub::new(bytes);
        let asked = hub.recalls.to_read.lock().take().unwrap();
        Fixture { hub, asked, stream: Prefix::default().stream("s").unwrap() }
    }

    fn outbox() -> Arc<Outbox> {
        let (ours, _) = tokio::io::duplex(1);
        Arc::new(Outbox::new(Box::new(Mutex::new(ours)), Manner::Cable, 1 << 16))
    }

    fn gift(past: Past) -> Gift {
        Gift { past, unless: None, answer: None }
    }

    fn read(ids: impl IntoIterator<Item = i64>) -> Vec<Remembered> {
        let token = |id: i64| Token { word: format!("t{id}").into(), offset: id as u64 };
        ids.into_iter()
            .map(|id| Remembered { payload: id.to_string().into(), token: token(id), mark: mark(id) })
            .collect()
    }

    impl Fixture {
        fn come(&self, identifier: &str, gift: Option<Gift>) -> Client {
            let is_state = gift.as_ref().is_some_and(|gift| gift.past == Past::Latest);
            self.come_as(identifier, PLAIN, is_state, gift)
        }

        fn come_as(&self, identifier: &str, dialect: Dialect, is_state: bool, gift: Option<Gift>) -> Client {
            let (identifier, outbox): (Arc<str>, _) = (identifier.into(), outbox());
            let id = SubscriptionId(1);
            let of = if is_state { Of::State(id) } else { Of::Events(id) };
            let subscriber = Subscriber { identifier: &identifier, of, dialect, outbox: &outbox };
            let confirm = Frame::confirm_subscription(&identifier);
            let subscription = self.hub.subscribe(&self.stream, subscriber, Some(confirm.clone()), gift);
            let mut came = outbox.drain();
            assert_eq!(came.remove(0), confirm, "at once");
            Client { identifier, dialect, outbox, subscription, came: Mutex::new(came) }
        }

        fn publish(&self, ids: impl IntoIterator<Item = i64>) {
            let message = |id: i64| marked(&self.stream, &id.to_string(), id);
            let messages: Vec<Message> = ids.into_iter().map(message).collect();
            let count = messages.len();
            let batch = Messages::from(messages);
            self.hub.publish(&batch, 0..count, &mut batch.tokens());
        }

        fn asked(&mut self) -> Option<Recall> {
            self.asked.try_recv().ok()
        }

        /// What is in the table is read, all at once.
        fn answer(&mut self, ids: impl IntoIterator<Item = i64>) {
            let recall = self.asked().expect("it was asked for");
            self.hub.begin(&recall);
            self.hub.load(&recall, read(ids));
        }
    }

    impl Client {
        /// The payloads that have come, and what was said beside them.
        fn got(&self) -> Vec<String> {
            let frames = [std::mem::take(&mut *self.came.lock()), self.outbox.drain()].concat();
            let frames = frames.iter().flat_map(Frame::each);
            frames.map(|frame| self.payload(&frame)).collect()
        }

        fn payload(&self, frame: &Frame) -> String {
            let text = String::from_utf8_lossy(frame.as_bytes()).into_owned();
            match text.split_once(r#""message":"#) {
                Some((_, rest)) => rest.split(['}', ',']).next().unwrap().to_owned(),
                None => text.split(r#""type":""#).nth(1).unwrap().trim_end_matches("\"}").to_owned(),
            }
        }
    }

    #[test]
    fn a_crowd_of_newcomers_waits_for_one_read() {
        let mut fixture = fixture();
        let crowd: Vec<Client> = (0..3).map(|_| fixture.come("A", Some(gift(Past::Last(2))))).collect();
        let recall = fixture.asked().expect("it was asked for");
        assert!(fixture.asked().is_none());

        fixture.hub.begin(&recall);
        let late = fixture.come("B", Some(gift(Past::Last(2))));
        fixture.publish([4]);
        for client in crowd.iter().chain([&late]) {
            assert!(client.got().is_empty(), "it is held");
        }
        fixture.hub.load(&recall, read(1..=3));

        for client in crowd.iter().chain([&late]) {
            assert_eq!(client.got(), ["3", "4"]);
        }
        fixture.publish([5]);
        let after = fixture.come("A", Some(gift(Past::Last(2))));
        assert_eq!(after.got(), ["4", "5"]);
        assert_eq!(late.got(), ["5"]);
        assert!(fixture.asked().is_none());
    }

    /// However few it is given of the past.
    #[test]
    fn all_that_is_published_after_the_confirm_comes_and_nothing_twice() {
        let mut fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Last(2))));
        fixture.publish([3, 4]);
        fixture.publish([5]);
        let recall = fixture.asked().unwrap();
        fixture.hub.begin(&recall);
        fixture.publish([6, 7]);
        let later = fixture.come("B", Some(gift(Past::Last(2))));
        fixture.publish([8]);

        fixture.hub.load(&recall, read(4..=5));

        assert_eq!(client.got(), ["3", "4", "5", "6", "7", "8"]);
        assert_eq!(later.got(), ["7", "8"]);
    }

    /// One with a low id may be the last that was published: it stands among those that are read.
    #[test]
    fn a_late_message_that_is_read_too_comes_once() {
        let mut fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Last(3))));
        fixture.publish([2]);

        fixture.answer([1, 2, 3]);

        assert_eq!(client.got(), ["1", "3", "2"]);
    }

    #[test]
    fn a_state_is_given_once_whichever_comes_first() {
        let mut fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Latest)));
        let recall = fixture.asked().unwrap();
        fixture.publish([4, 5]);
        assert_eq!(client.got(), ["5"], "nothing in the table is newer");

        fixture.hub.begin(&recall);
        fixture.hub.load(&recall, read([3]));
        assert!(client.got().is_empty());
        fixture.publish([6]);
        assert_eq!(client.got(), ["6"]);
        assert_eq!(fixture.come("A", Some(gift(Past::Latest))).got(), ["6"]);
    }

    #[test]
    fn who_has_the_latest_is_only_told_that_it_has() {
        let mut fixture = fixture();
        let returning =
            |has| Gift { past: Past::Latest, unless: Some(resumed(has)), answer: Some(Answer::Confirm) };
        let current = fixture.come_as("A", EXTENDED, true, Some(returning(5)));
        let behind = fixture.come_as("A", EXTENDED, true, Some(returning(4)));
        fixture.answer([5]);

        assert_eq!(current.got(), ["confirm_history"]);
        let head = MessageHead::extended("A");
        let at = At { epoch: "t5", offset: 5 };
        let expected = Frame::messages_at(&head, [("5", Some(at))]);
        assert_eq!(behind.outbox.drain(), [expected, Frame::confirm_history("A")]);
        assert_eq!(behind.dialect, EXTENDED);
        assert_eq!(&*behind.identifier, "A");
    }

    #[test]
    fn more_that_is_asked_for_meanwhile_is_read_and_given_to_all() {
        let mut fixture = fixture();
        let few = fixture.come("A", Some(gift(Past::Last(1))));
        let first = fixture.asked().unwrap();
        fixture.hub.begin(&first);
        let more = fixture.come("B", Some(gift(Past::Last(3))));
        let second = fixture.asked().unwrap();
        fixture.hub.load(&first, read([4]));
        assert!(few.got().is_empty() && more.got().is_empty());
        fixture.publish([5]);

        fixture.hub.begin(&second);
        fixture.hub.load(&second, read(3..=5));

        assert_eq!(few.got(), ["5"]);
        assert_eq!(more.got(), ["3", "4", "5"]);
    }

    #[test]
    fn what_cannot_be_read_is_given_up_for_all_who_wait_and_asked_for_again() {
        let mut fixture = fixture();
        let few = fixture.come("A", Some(gift(Past::Last(1))));
        let first = fixture.asked().unwrap();
        let more = Gift { past: Past::Last(3), unless: None, answer: Some(Answer::Confirm) };
        let more = fixture.come_as("B", EXTENDED, false, Some(more));
        let second = fixture.asked().unwrap();
        let state = fixture.come("C", Some(gift(Past::Latest)));
        fixture.publish([5]);
        fixture.hub.begin(&first);
        fixture.hub.load(&first, read([4]));

        fixture.hub.give_up(&second);

        assert_eq!(few.got(), ["5"], "what is new comes all the same");
        assert_eq!(more.got(), ["reject_history", "5"]);
        assert_eq!(state.got(), ["5"]);
        let again = fixture.come("A", Some(gift(Past::Last(1))));
        assert!(fixture.asked().is_some_and(|recall| recall.past == Past::Latest));
        fixture.answer([5]);
        assert_eq!(again.got(), ["5"]);
    }

    #[test]
    fn who_leaves_while_it_waits_leaves_nothing_behind() {
        let mut fixture = fixture();
        let stays = fixture.come("A", Some(gift(Past::Last(2))));
        let leaves = fixture.come("A", Some(gift(Past::Last(2))));
        let alone = fixture.come("B", Some(gift(Past::Last(2))));
        // It asks once more while it waits.
        leaves.outbox.hold();
        fixture.hub.give(&leaves.subscription, gift(Past::Last(2)));
        let Client { outbox, subscription, .. } = leaves;
        fixture.hub.unsubscribe(subscription);
        fixture.hub.unsubscribe(alone.subscription);
        assert!(!outbox.holds());

        fixture.answer(1..=2);

        assert_eq!(stays.got(), ["1", "2"]);
        assert!(outbox.drain().is_empty());
        // Somebody else may have its place.
        assert_eq!(fixture.come("A", Some(gift(Past::Last(2)))).got(), ["1", "2"]);
    }

    /// It is the caller's to withdraw what waits, and a writer may be quicker.
    #[test]
    fn what_is_held_of_who_leaves_while_it_waits_goes_with_it() {
        let fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Last(2))));
        fixture.publish([3]);
        fixture.hub.unsubscribe(client.subscription);
        assert!(client.outbox.drain().is_empty());
    }

    /// Else a client that is cut off between the two would never get it.
    #[test]
    fn a_message_that_is_given_says_nothing_of_one_that_is_held() {
        let mut fixture = fixture();
        let client = fixture.come_as("A", EXTENDED, false, Some(gift(Past::Last(2))));
        fixture.publish([5]);
        let recall = fixture.asked().unwrap();
        fixture.hub.begin(&recall);
        let given = read([7]).into_iter().map(|message| Remembered { token: token(9), ..message });
        fixture.hub.load(&recall, given.collect());

        let text = String::from_utf8_lossy(client.outbox.drain()[0].as_bytes()).into_owned();
        let word = text.split(r#""epoch":""#).nth(1).unwrap().split('"').next().unwrap();
        let has: Vec<i64> = (1..=9).filter(|id| accepted(9, word).has(mark(*id))).collect();
        assert_eq!(has, [1, 2, 3, 4, 6, 7, 8, 9]);
    }

    #[test]
    fn what_somebody_waits_for_is_not_forgotten_and_what_nobody_does_is() {
        let mut fixture = with_room(0);
        let client = fixture.come("A", Some(gift(Past::Last(2))));
        for _ in 0..3 {
            fixture.hub.forget_what_is_too_much();
        }
        let recall = fixture.asked().unwrap();
        fixture.hub.begin(&recall);
        fixture.publish([3]);
        fixture.hub.load(&recall, read(1..=2));
        assert_eq!(client.got(), ["2", "3"]);

        for _ in 0..3 {
            fixture.hub.forget_what_is_too_much();
        }
        assert_eq!(fixture.hub.recalls.bytes.load(Ordering::Relaxed), 0);
        let next = fixture.come("A", Some(gift(Past::Last(2))));
        assert!(next.got().is_empty());
        // A read for what was forgotten is not for this.
        fixture.hub.load(&recall, read(7..=8));
        assert!(next.got().is_empty());
        fixture.answer(2..=3);
        assert_eq!(next.got(), ["2", "3"]);
    }

    #[test]
    fn streams_that_nobody_listens_to_any_more_are_forgotten_whole() {
        let mut fixture = with_room(0);
        let client = fixture.come("A", Some(gift(Past::Last(2))));
        fixture.answer(1..=2);
        fixture.hub.unsubscribe(client.subscription);
        for _ in 0..3 {
            fixture.hub.forget_what_is_too_much();
        }
        assert!(fixture.hub.streams.is_empty());
        assert!(fixture.hub.recalls.remembered.lock().is_empty());
    }

    #[test]
    fn a_new_history_ends_all_waiting_and_all_that_is_remembered() {
        let mut fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Last(2))));
        let recall = fixture.asked().unwrap();
        fixture.hub.begin(&recall);
        fixture.publish([3]);

        fixture.hub.forget_all();

        assert_eq!(client.got(), ["3"]);
        assert_eq!(fixture.hub.recalls.bytes.load(Ordering::Relaxed), 0);
        let next = fixture.come("A", Some(gift(Past::Last(2))));
        fixture.hub.load(&recall, read(1..=2));
        assert!(next.got().is_empty(), "that was of the old one");
        fixture.answer([1]);
        assert_eq!(next.got(), ["1"]);

        // Also what somebody else has in hand, to see whether it can be forgotten.
        let in_hand = fixture.hub.recalls.remembered.lock().pop_front().unwrap();
        fixture.hub.forget_all();
        fixture.hub.recalls.remembered.lock().push_back(in_hand);
        let last = fixture.come("A", Some(gift(Past::Last(2))));
        assert!(last.got().is_empty());
        assert!(fixture.asked().is_some());
    }

    #[test]
    fn of_a_long_past_as_much_is_given_as_a_client_can_take_at_once() {
        let mut fixture = fixture();
        let client = fixture.come("A", Some(gift(Past::Last(10))));
        let large = "7".repeat(10_000);
        let mut messages = read(1..=10);
        for message in &mut messages {
            message.payload = large.as_str().into();
        }
        let recall = fixture.asked().unwrap();
        fixture.hub.begin(&recall);
        fixture.hub.load(&recall, messages);
        assert_eq!(client.got().len(), 3, "half of 64 KiB");
        assert!(!client.outbox.is_closing());
    }
}
