use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::ready;

use bytes::{Buf, Bytes};
use tablecast_protocol::{CloseCode, Frame};
use tokio::io::ReadBuf;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::hub::{Of, Outbox};

/// Takes a client's bytes apart, by tungstenite's rules: masks, UTF-8, fragments, control
/// frames. Its answers (pongs, the echo of a Close) go into the outbox like all frames.
pub struct Reader {
    context: WebSocketContext,
    wire: Wire,
}

/// What a client sent.
#[derive(Debug)]
pub enum Incoming {
    Command(String),
    /// A ping, a pong, or a Close. It is answered already, and counts against the rate.
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
    /// The client broke the protocol and is to be told by this code.
    Violation(CloseCode),
}

/// A client's commands are a hundred bytes. tungstenite allots this for each connection,
/// and clears it at each read.
const READ_BUFFER: usize = 1024;
/// Taken from the socket at a time, on the stack.
const CHUNK: usize = 4096;

impl Reader {
    pub fn new(early: Bytes, max_command_bytes: usize, outbox: Arc<Outbox>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_command_bytes))
            .max_frame_size(Some(max_command_bytes));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { context, wire: Wire { unread: early, outbox } }
    }

    /// The next command's text, or that there was a control frame. Cancel-safe.
    ///
    /// A binary message that is UTF-8 counts as text: Rails takes one so, or not, depending
    /// on its websocket-driver.
    pub async fn next(&mut self) -> Result<Incoming, End> {
        loop {
            match self.context.read(&mut self.wire) {
                Ok(Message::Text(text)) => return Ok(Incoming::Command(text.as_str().to_owned())),
                Ok(Message::Binary(bytes)) => {
                    return Ok(Incoming::Command(String::from_utf8(bytes.into()).unwrap_or_default()));
                }
                // The answer to a ping or a Close goes out with the next read.
                Ok(_) => return Ok(Incoming::Control),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wire.unread = self.chunk().await.map_err(|_| End::Gone)?;
                    if self.wire.unread.is_empty() {
                        return Err(End::Gone);
                    }
                }
                Err(Error::ConnectionClosed) => return Err(End::Closed),
                Err(Error::Capacity(_)) => return Err(End::Violation(CloseCode::TooBig)),
                Err(Error::Utf8(_)) => return Err(End::Violation(CloseCode::InvalidData)),
                Err(Error::Protocol(_)) => return Err(End::Violation(CloseCode::Protocol)),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    /// Waits for the client's answer to a Close, and ignores what else comes.
    pub async fn until_closed(&mut self) {
        while self.next().await.is_ok() {}
    }

    /// Takes no more apart, and waits for the socket's end.
    pub async fn until_gone(&mut self) {
        while self.chunk().await.is_ok_and(|chunk| !chunk.is_empty()) {}
    }

    /// Bytes from the socket; none at its end.
    async fn chunk(&mut self) -> io::Result<Bytes> {
        poll_fn(|cx| {
            let mut chunk = [MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(self.wire.outbox.socket().poll_read(cx, &mut chunk))?;
            std::task::Poll::Ready(Ok(Bytes::copy_from_slice(chunk.filled())))
        })
        .await
    }
}

/// What tungstenite takes for the socket.
struct Wire {
    unread: Bytes,
    outbox: Arc<Outbox>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = into.len().min(self.unread.len());
        self.unread.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

impl Write for Wire {
    /// tungstenite writes whole frames, since its own buffer is set to none.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.outbox.push(Frame::from_wire(frame), Of::Connection);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For metrics.
pub fn violation_name(code: CloseCode) -> &'static str {
    match code {
        CloseCode::TooBig => "max_command_bytes",
        CloseCode::InvalidData => "not_utf8",
        CloseCode::Protocol | CloseCode::Normal => "protocol_violation",
    }
}
