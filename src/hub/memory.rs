use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::{Mark, Replayed, Token};

/// What a newcomer to a stream is given first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Past {
    /// The latest message: the stream is a state.
    Latest,
    /// The last so many.
    Last(usize),
}

/// A message that newcomers may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    pub payload: Arc<str>,
    pub token: Token,
    pub mark: Mark,
}

/// The last messages of one stream: read from the table once, and kept up by what is published.
#[derive(Debug)]
pub struct Memory {
    /// Tells it from one that was here before, and was forgotten: what is read for that is not for this.
    pub generation: u64,
    latest: Recent,
    last: Recent,
    /// It was asked for since the last time that somebody wanted to forget it.
    pub is_used: bool,
}

#[derive(Debug, Default)]
struct Recent {
    messages: VecDeque<Remembered>,
    /// So many are kept. None: nobody has asked yet.
    capacity: usize,
    is_loaded: bool,
    bytes: usize,
}

/// What a message takes beside its payload.
const OVERHEAD_BYTES: usize = 200;

impl Past {
    pub fn count(self) -> usize {
        match self {
            Self::Latest => 1,
            Self::Last(count) => count,
        }
    }

    /// Whether who knows this knows that.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Latest, Self::Latest) => true,
            (Self::Last(count), Self::Last(fewer)) => fewer <= count,
            (Self::Latest, Self::Last(_)) | (Self::Last(_), Self::Latest) => false,
        }
    }
}

impl Remembered {
    pub fn bytes(&self) -> usize {
        self.payload.len() + OVERHEAD_BYTES
    }
}

impl From<Replayed> for Remembered {
    fn from(Replayed { payload, token, mark, .. }: Replayed) -> Self {
        Self { payload: payload.into(), token, mark }
    }
}

impl Memory {
    pub fn new(generation: u64) -> Self {
        Self { generation, latest: Recent::default(), last: Recent::default(), is_used: true }
    }

    /// What a newcomer is to be given, oldest first. None: it isn't known yet.
    pub fn get(&self, past: Past) -> Option<impl DoubleEndedIterator<Item = &Remembered>> {
        let (recent, count) = (self.recent(past), past.count());
        let is_known = recent.is_loaded && recent.capacity >= count;
        is_known.then(|| recent.messages.range(recent.messages.len().saturating_sub(count)..))
    }

    /// Somebody asks for what isn't known: what is published is kept from now on. Says whether it has to be
    /// read as well, which is so once.
    pub fn expect(&mut self, past: Past) -> bool {
        let count = past.count();
        let recent = self.recent_mut(past);
        let is_new = recent.capacity < count;
        if is_new {
            *recent = Recent { capacity: count, ..Recent::default() };
        }
        is_new
    }

    /// What has been published so far will be read.
    pub fn begin(&mut self, past: Past) {
        let recent = self.recent_mut(past);
        if recent.awaits(past) {
            (recent.messages, recent.bytes) = Default::default();
        }
    }

    /// What was read: all that had been published when it was begun, and nothing later.
    pub fn load(&mut self, past: Past, read: Vec<Remembered>) {
        let recent = self.recent_mut(past);
        if recent.awaits(past) {
            recent.is_loaded = true;
            for message in read.into_iter().rev().take(recent.capacity - recent.messages.len()) {
                recent.bytes += message.bytes();
                recent.messages.push_front(message);
            }
        }
    }

    /// It can't be read: who asks next may try again.
    pub fn give_up(&mut self, past: Past) {
        let recent = self.recent_mut(past);
        if recent.awaits(past) {
            *recent = Recent::default();
        }
    }

    pub fn publish(&mut self, message: &Remembered, superseded: bool) {
        if self.last.capacity > 0 {
            self.last.push(message.clone());
        }
        if self.latest.capacity > 0 && !superseded {
            self.latest.push(message.clone());
            // Nothing in the table is newer.
            self.latest.is_loaded = true;
        }
    }

    pub fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.latest.bytes + self.last.bytes
    }

    fn recent(&self, past: Past) -> &Recent {
        match past {
            Past::Latest => &self.latest,
            Past::Last(_) => &self.last,
        }
    }

    fn recent_mut(&mut self, past: Past) -> &mut Recent {
        match past {
            Past::Latest => &mut self.latest,
            Past::Last(_) => &mut self.last,
        }
    }
}

impl Recent {
    /// Somebody may have asked for more meanwhile: then that is read, and what is read here is too little.
    fn awaits(&self, past: Past) -> bool {
        !self.is_loaded && self.capacity == past.count()
    }

    fn push(&mut self, message: Remembered) {
        if self.messages.len() == self.capacity
            && let Some(oldest) = self.messages.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
        self.bytes += message.bytes();
        self.messages.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::memory::mark;

    fn message(id: i64) -> Remembered {
        let payload: Arc<str> = id.to_string().into();
        Remembered { payload, token: Token { word: "".into(), offset: id as u64 }, mark: mark(id) }
    }

    fn read(ids: impl IntoIterator<Item = i64>) -> Vec<Remembered> {
        ids.into_iter().map(message).collect()
    }

    /// None where it isn't known.
    fn known(memory: &Memory, past: Past) -> Option<Vec<i64>> {
        memory.get(past).map(|known| known.map(|message| message.token.offset as i64).collect())
    }

    #[test]
    fn what_is_published_while_it_is_read_stands_behind_what_was_read() {
        let mut memory = Memory::new(0);
        let past = Past::Last(3);
        assert!(memory.expect(past));
        memory.publish(&message(3), false);
        memory.begin(past);
        memory.publish(&message(4), false);
        assert_eq!(known(&memory, past), None);

        memory.load(past, read(1..=3));

        assert_eq!(known(&memory, past), Some(vec![2, 3, 4]));
        assert!(!memory.expect(past));
        memory.publish(&message(5), false);
        assert_eq!(known(&memory, past), Some(vec![3, 4, 5]));
        assert_eq!(known(&memory, Past::Last(2)), Some(vec![4, 5]));
    }

    #[test]
    fn what_was_read_before_more_was_asked_for_is_too_little() {
        let mut memory = Memory::new(0);
        assert!(memory.expect(Past::Last(2)));
        memory.begin(Past::Last(2));
        assert!(memory.expect(Past::Last(4)));
        memory.publish(&message(5), false);

        memory.load(Past::Last(2), read([3, 4]));
        assert_eq!(known(&memory, Past::Last(2)), None, "4 could be on it twice");

        memory.begin(Past::Last(4));
        memory.load(Past::Last(4), read(2..=5));
        assert_eq!(known(&memory, Past::Last(4)), Some(vec![2, 3, 4, 5]));
        assert_eq!(known(&memory, Past::Last(2)), Some(vec![4, 5]));
        // Somebody was slow.
        memory.load(Past::Last(2), read([3, 4]));
        memory.load(Past::Last(4), read([3, 4]));
        assert_eq!(known(&memory, Past::Last(4)), Some(vec![2, 3, 4, 5]));
    }

    #[test]
    fn the_latest_is_known_once_a_newer_one_is_published() {
        let mut memory = Memory::new(0);
        assert!(memory.expect(Past::Latest));
        // A late one is none.
        memory.publish(&message(2), true);
        assert_eq!(known(&memory, Past::Latest), None);
        memory.publish(&message(4), false);
        assert_eq!(known(&memory, Past::Latest), Some(vec![4]));

        memory.begin(Past::Latest);
        memory.load(Past::Latest, read([3]));
        memory.publish(&message(1), true);

        assert_eq!(known(&memory, Past::Latest), Some(vec![4]));
    }

    #[test]
    fn what_was_given_up_is_asked_for_again() {
        let mut memory = Memory::new(0);
        assert!(memory.expect(Past::Last(2)));
        memory.publish(&message(7), false);
        memory.give_up(Past::Last(1));
        assert!(!memory.expect(Past::Last(2)), "that was another question");
        memory.give_up(Past::Last(2));

        assert_eq!(memory.bytes(), OVERHEAD_BYTES);
        assert!(memory.expect(Past::Last(2)));
        memory.begin(Past::Last(2));
        memory.load(Past::Last(2), read([7]));
        assert_eq!(known(&memory, Past::Last(2)), Some(vec![7]));
        // It is known, and can't be given up.
        memory.give_up(Past::Last(2));
        assert_eq!(known(&memory, Past::Last(2)), Some(vec![7]));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Publish,
        Ask(usize),
        /// Of what has been asked for, the first that isn't.
        Begin,
        Load,
        GiveUp,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => Just(Act::Publish),
            2 => (1..6usize).prop_map(Act::Ask),
            2 => Just(Act::Begin),
            2 => Just(Act::Load),
            1 => Just(Act::GiveUp),
        ];
        proptest::collection::vec(act, 1..80)
    }

    proptest! {
        /// However it comes: what is known are the last ones, and its bytes are counted.
        #[test]
        fn what_is_known_are_the_last_ones(acts in acts(), before in 0..8i64) {
            let mut memory = Memory::new(0);
            let mut high = before;
            let mut asked: VecDeque<usize> = VecDeque::new();
            // What was asked for, and up to where the table is read for it.
            let mut begun: VecDeque<(usize, i64)> = VecDeque::new();
            for act in acts {
                match act {
                    Act::Publish => {
                        high += 1;
                        memory.publish(&message(high), false);
                    }
                    Act::Ask(count) => {
                        if known(&memory, Past::Last(count)).is_none() && memory.expect(Past::Last(count)) {
                            asked.push_back(count);
                        }
                    }
                    Act::Begin => {
                        if let Some(count) = asked.pop_front() {
                            memory.begin(Past::Last(count));
                            begun.push_back((count, high));
                        }
                    }
                    Act::Load => {
                        if let Some((count, cut)) = begun.pop_front() {
                            let first = (cut - count as i64 + 1).max(1);
                            memory.load(Past::Last(count), read(first..=cut));
                        }
                    }
                    Act::GiveUp => {
                        if let Some((count, _)) = begun.pop_front() {
                            memory.give_up(Past::Last(count));
                        }
                    }
                }
                for count in 1..6 {
                    if let Some(known) = known(&memory, Past::Last(count)) {
                        let first = (high - count as i64 + 1).max(1);
                        prop_assert_eq!(known, (first..=high).collect::<Vec<_>>());
                    }
                }
                let held = memory.last.messages.iter().map(Remembered::bytes).sum::<usize>();
                prop_assert_eq!(memory.bytes(), OVERHEAD_BYTES + held);
            }
            // Whoever waits is served in the end.
            while let Some(count) = asked.pop_front() {
                memory.begin(Past::Last(count));
                begun.push_back((count, high));
            }
            let mut is_given_up = true;
            while let Some((count, cut)) = begun.pop_front() {
                let first = (cut - count as i64 + 1).max(1);
                memory.load(Past::Last(count), read(first..=cut));
                is_given_up = false;
            }
            if !is_given_up {
                let capacity = memory.last.capacity;
                prop_assert!(capacity == 0 || known(&memory, Past::Last(capacity)).is_some());
            }
        }
    }
}
