use parking_lot::Mutex;
use tablecast_protocol::{Deflater, Frame, MessageHead};

/// How messages go to a client: where that differs, their frames do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Encoding {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Deflate];
}

impl Compressor {
    /// Messages that go together, compressed where that pays.
    pub fn messages<'a>(&self, head: &MessageHead, payloads: impl Iterator<Item = &'a str>) -> Frame {
        let mut deflater = self.0.lock();
        let deflater = deflater.get_or_insert_default();
        let frames: Vec<Frame> = payloads
            .map(|payload| {
                let frame = Frame::message(head, payload);
                let compressed = (frame.len() >= WORTHWHILE_BYTES).then(|| deflater.deflate(&frame));
                compressed.flatten().unwrap_or(frame)
            })
            .collect();
        Frame::join(&frames)
    }
}
