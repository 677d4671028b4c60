//! A source without a database, for the tests of what stands above the bus.

use tokio::sync::mpsc;

use super::position::Steps;
use super::{Batch, Message, Messages, Source};
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
        let message = |payload: &&str| Message {
            stream: stream.clone(),
            payload: (*payload).into(),
            superseded: false,
        };
        let messages: Vec<Message> = payloads.iter().map(message).collect();
        let counts = vec![0; messages.len()];
        self.send(Batch::Released(Messages { messages, counts, steps: Steps::default() }));
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
