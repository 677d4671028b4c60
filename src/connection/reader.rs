use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tablecast_protocol::{CloseCode, Decoder, Event, Frame, Violation};
use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::hub::{Encoding, Of, Outbox};

/// Takes a client's bytes apart. Its answers (pongs, the echo of a Close) go into the
/// outbox like all frames.
///
/// It reads into the stack, and keeps what came behind an event, or a message's first part;
/// so one that waits owns nothing.
pub struct Reader {
    decoder: Decoder,
    /// Came behind the last event.
    unread: Bytes,
    /// When the command began that hasn't ended.
    began: Option<Instant>,
    outbox: Arc<Outbox>,
}

/// What a client sent.
#[derive(Debug)]
pub enum Incoming {
    Command(String),
    /// A ping or a pong. It is answered already, and counts against the rate.
    Control,
}

/// Why there is no more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said so, and was answered.
    Closed,
    /// The socket ended.
    Gone,
    /// The socket has taken nothing for too long.
    Stalled,
    /// The client is to be told by this code. The reason is one word, for the metric.
    Violation { code: CloseCode, reason: &'static str },
}

/// Taken from the socket at a time, on the stack. A client's commands are a hundred bytes.
const CHUNK: usize = 4096;
/// How long a command may take from its first byte to its last. It is looked at when more
/// of it comes: one that has stopped costs no more than a connection that is idle.
const COMMAND_TIME: Duration = Duration::from_secs(30);

impl Reader {
    pub fn new(early: Bytes, encoding: Encoding, max_command_bytes: usize, outbox: Arc<Outbox>) -> Self {
        let decoder = Decoder::new(max_command_bytes);
        let decoder = match encoding {
            Encoding::Plain => decoder,
            Encoding::Deflate => decoder.inflating(),
        };
        Self { decoder, unread: early, began: None, outbox }
    }

    /// The next command's text, or that there was a control frame. Cancel-safe.
    ///
    /// A binary message that is UTF-8 counts as text: Rails takes one so, or not, depending
    /// on its websocket-driver.
    pub async fn next(&mut self) -> Result<Incoming, End> {
        match self.event().await? {
            Event::Text(text) => Ok(Incoming::Command(text)),
            Event::Binary(bytes) => Ok(Incoming::Command(String::from_utf8(bytes).unwrap_or_default())),
            Event::Ping(payload) => {
                self.outbox.push(Frame::pong(&payload), Of::Connection);
                Ok(Incoming::Control)
            }
            Event::Pong => Ok(Incoming::Control),
            Event::Close { code, reason } => {
                self.outbox.close_with(Frame::close_answer(code, &reason));
                Err(End::Closed)
            }
        }
    }

    /// Waits for the client's answer to a Close, and ignores what else comes.
    pub async fn until_closed(&mut self) {
        while self.next().await.is_ok() {}
    }

    /// Takes no more apart, and waits for the socket's end.
    pub async fn until_gone(&mut self) {
        while poll_fn(|cx| self.poll_chunk(cx, |_, chunk| !chunk.is_empty())).await.unwrap_or(false) {}
    }

    async fn event(&mut self) -> Result<Event, End> {
        let mut unread = std::mem::take(&mut self.unread);
        let mut input = &unread[..];
        if let Some(event) = self.decode(&mut input)? {
            let consumed = unread.len() - input.len();
            self.unread = unread.split_off(consumed);
            return Ok(event);
        }
        drop(unread);
        loop {
            let read = poll_fn(|cx| {
                self.poll_chunk(cx, |reader, mut chunk| {
                    if chunk.is_empty() {
                        return Err(End::Gone);
                    }
                    let event = reader.decode(&mut chunk)?;
                    reader.unread = Bytes::copy_from_slice(chunk);
                    Ok(event)
                })
            });
            if let Some(event) = read.await.unwrap_or(Err(End::Gone))? {
                return Ok(event);
            }
        }
    }

    fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Event>, End> {
        let event = self.decoder.next(input).map_err(End::from)?;
        if !self.decoder.is_within_message() {
            self.began = None;
        } else if self.began.get_or_insert_with(Instant::now).elapsed() > COMMAND_TIME {
            return Err(End::Violation { code: CloseCode::Policy, reason: "command_time" });
        }
        Ok(event)
    }

    /// Hands over bytes from the socket; none at its end.
    fn poll_chunk<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Self, &[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(self.outbox.socket().poll_read(cx, &mut chunk))?;
        Poll::Ready(Ok(take(self, chunk.filled())))
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        tracing::debug!(%violation, "a client broke the WebSocket protocol");
        // As the setting that says how large is named.
        let reason = if violation == Violation::TooBig { "max_command_bytes" } else { violation.name() };
        Self::Violation { code: violation.close_code(), reason }
    }
}
