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
use crate::bus::{Log, Rejection};
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
            match read(&hub, &log, &recalls).await {
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

async fn read(hub: &Arc<Hub>, log: &Log, recalls: &[Recall]) -> Result<(), Rejection> {
    let begins = {
        let (hub, recalls) = (hub.clone(), recalls.to_vec());
        // In the moment that the cut is of: what is published from then on is not read, and is kept instead.
        move |_: &_| recalls.iter().for_each(|recall| hub.begin(recall))
    };
    let cut = log.cut(begins).await?;
    let streams: Vec<(Stream, usize)> =
        recalls.iter().map(|recall| (recall.stream.clone(), recall.past.count())).collect();
    let read = log.latest_of(&streams, &cut).await?;
    for (recall, messages) in recalls.iter().zip(read) {
        hub.load(recall, messages.into_iter().map(Remembered::from).collect());
    }
    Ok(())
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
        let streams = std::mem::take(&mut *self.recalls.remembered.lock());
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
