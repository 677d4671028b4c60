//! A source without a database, for the tests of what stands above the bus.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::position::{Era, Steps};
use super::{Batch, Mark, Message, Messages, Source};
use crate::stream::Stream;

pub struct MemorySource(mpsc::UnboundedReceiver<Batch>);

#[derive(Clone)]
pub struct MemoryWriter(mpsc::UnboundedSender<Batch>);

pub fn memory() -> (MemoryWriter, MemorySource) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (MemoryWriter(sender), MemorySource(receiver))
}

impl MemoryWriter {
    /// One batch of messages of one stream.
    pub fn release(&self, stream: &Stream, payloads: &[&str]) {
        let message = |payload: &&str| message(stream, payload);
        self.send(Batch::Released(Messages::of(payloads.iter().map(message).collect())));
    }

    pub fn send(&self, batch: Batch) {
        self.0.send(batch).expect("the source is alive");
    }
}

impl Source for MemorySource {
    async fn next(&mut self) -> Batch {
        match self.0.recv().await {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }
}

pub fn message(stream: &Stream, payload: &str) -> Message {
    Message { stream: stream.clone(), payload: payload.into(), superseded: false, mark: Mark(0) }
}

impl Messages {
    /// Some that no database has released.
    pub fn of(messages: Vec<Message>) -> Self {
        let counts = vec![0; messages.len()];
        Self { messages, counts, steps: Steps::default(), era: Arc::new(Era::default()) }
    }
}
