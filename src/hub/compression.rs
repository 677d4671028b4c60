use parking_lot::Mutex;
use tablecast_protocol::{At, Deflater, Frame, MessageHead};

/// How messages go to a client: where that differs, their frames do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialect {
    pub format: Format,
    pub encoding: Encoding,
}

/// What a message looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `actioncable-v1-json`.
    Cable,
    /// `actioncable-v1-ext-json`: with where it stands.
    Extended,
    /// Server-Sent Events, with the same.
    EventStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    Plain,
    /// permessage-deflate, each message for itself.
    Deflate,
}

/// Compresses for all clients that take it: a message is compressed once.
#[derive(Debug, Default)]
pub(super) struct Compressor(Mutex<Option<Deflater>>);

/// What is smaller is sent as it is: it fits into a packet anyway, and each recipient would
/// have to inflate it.
const WORTHWHILE_BYTES: usize = 1024;

impl Dialect {
    pub fn head(self, identifier: &str) -> MessageHead {
        match self.format {
            Format::Cable => MessageHead::new(identifier),
            Format::Extended => MessageHead::extended(identifier),
            Format::EventStream => MessageHead::EventStream,
        }
    }
}

impl Format {
    /// Whether its clients are told where they stand.
    pub fn has_positions(self) -> bool {
        self != Self::Cable
    }
}

impl Compressor {
    /// Messages that go together, compressed where that pays.
    pub fn messages<'a>(
        &self,
        head: &MessageHead,
        messages: impl Iterator<Item = (&'a str, Option<At<'a>>)>,
    ) -> Frame {
        let mut deflater = self.0.lock();
        let deflater = deflater.get_or_insert_default();
        let frames: Vec<Frame> = messages
            .map(|message| {
                let frame = Frame::messages_at(head, [message]);
                let compressed = (frame.len() >= WORTHWHILE_BYTES).then(|| deflater.deflate(&frame));
                compressed.flatten().unwrap_or(frame)
            })
            .collect();
        Frame::join(&frames)
    }
}
