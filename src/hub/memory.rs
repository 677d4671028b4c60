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
