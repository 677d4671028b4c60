//! A client's bytes, taken apart: RFC 6455 as a server has to read it.
//!
//! [`Decoder`] does no I/O and keeps no input. Whatever a socket gave is handed to
//! [`Decoder::next`] until that is empty; what a frame's end is still awaited for is all
//! that stays, so that an idle connection owns no buffer.
//!
//! # Invariants
//!
//! - A violation is found as early as its bytes allow: a header's before its payload, a
//!   wrong UTF-8 sequence before the end of its frame.
//! - Memory grows with bytes that have come, never with a length that was announced.
//! - Nothing is yielded after a Close or a violation.

mod header;
mod inflate;
mod mask;
mod violation;

pub use violation::Violation;

use header::{Header, Kind, PartialHeader};
use inflate::{InflateError, inflate};
use mask::Mask;

/// Takes apart what one client sends.
///
/// ```
/// use tablecast_protocol::{Decoder, Event};
///
/// let mut decoder = Decoder::new(64 << 10);
/// let mut input = &[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2][..];
/// assert_eq!(decoder.next(&mut input), Ok(Some(Event::Text("hi".into()))));
/// assert_eq!(decoder.next(&mut input), Ok(None));
/// ```
#[derive(Debug)]
pub struct Decoder {
    max_message_bytes: usize,
    inflates: bool,
    state: State,
    /// The message whose last frame hasn't ended.
    message: Option<Message>,
    /// The payload of a control frame, which may come between a message's frames.
    control: Vec<u8>,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Text(String),
    Binary(Vec<u8>),
    /// To be answered by [`Frame::pong`](crate::Frame::pong) with its payload, at most 125 bytes.
    Ping(Vec<u8>),
    Pong,
    /// The client goes; to be answered by [`Frame::close_answer`](crate::Frame::close_answer).
    /// Code and reason were checked.
    Close {
        code: Option<u16>,
        reason: String,
    },
}

#[derive(Debug)]
enum State {
    Header(PartialHeader),
    Payload(Payload),
    Over,
}

/// A frame whose header is known.
#[derive(Debug)]
struct Payload {
    kind: Kind,
    is_final: bool,
    mask: Mask,
    /// Bytes that are still to come.
    rest: usize,
}

#[derive(Debug)]
struct Message {
    is_text: bool,
    is_compressed: bool,
    bytes: Vec<u8>,
    /// So many of them are known to be UTF-8.
    valid: usize,
}

impl Decoder {
    /// A decoder that takes messages up to this size, all their fragments together.
    pub fn new(max_message_bytes: usize) -> Self {
        let state = State::Header(PartialHeader::default());
        Self { max_message_bytes, inflates: false, state, message: None, control: Vec::new() }
    }

    /// Takes compressed messages too: permessage-deflate with `client_no_context_takeover`
    /// was agreed on (RFC 7692). The limit is for the message as it was before.
    pub fn inflating(mut self) -> Self {
        self.inflates = true;
        self
    }

    /// The next event in `input`, which is moved behind it; none where all was consumed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        let result = self.advance(input);
        if matches!(result, Err(_) | Ok(Some(Event::Close { .. }))) {
            (self.state, self.message, self.control) = (State::Over, None, Vec::new());
        }
        result
    }

    /// Whether the beginning of a frame or message waits for its rest.
    pub fn is_within_message(&self) -> bool {
        match &self.state {
            State::Header(header) => !header.is_empty() || self.message.is_some(),
            State::Payload(_) => true,
            State::Over => false,
        }
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            match &mut self.state {
                State::Over => *input = &[],
                State::Header(partial) => {
                    if let Some(header) = partial.read(input)? {
                        self.state = State::Payload(self.begin(header)?);
                        continue;
                    }
                }
                State::Payload(payload) => {
                    let count = payload.rest.min(input.len());
                    let chunk = input.split_off(..count).expect("not more than there is");
                    payload.rest -= count;
                    if payload.kind.is_control() {
                        payload.mask.append(&mut self.control, chunk);
                    } else {
                        let message = self.message.as_mut().expect("begun by its header");
                        payload.mask.append(&mut message.bytes, chunk);
                        let is_whole = payload.rest == 0 && payload.is_final;
                        // The end looks at all of it anyway.
                        if message.is_text && !message.is_compressed && !is_whole {
                            message.check_utf8()?;
                        }
                    }
                    if payload.rest == 0 {
                        if let Some(event) = self.end_of_frame()? {
                            return Ok(Some(event));
                        }
                        continue;
                    }
                }
            }
            return Ok(None);
        }
    }

    /// Checks a header against what came before it.
    fn begin(&mut self, header: Header) -> Result<Payload, Violation> {
        let Header { kind, is_final, rsv1, mask, length } = header;
        // RFC 7692, 6: set on a message's first frame, and nowhere else.
        if rsv1 && !(self.inflates && matches!(kind, Kind::Text | Kind::Binary)) {
            return Err(Violation::ReservedBits);
        }
        match (kind, &self.message) {
            (Kind::Continuation, None) => return Err(Violation::NothingToContinue),
            (Kind::Text | Kind::Binary, Some(_)) => return Err(Violation::Interrupted),
            (Kind::Text | Kind::Binary, None) => {
                let is_text = kind == Kind::Text;
                self.message = Some(Message { is_text, is_compressed: rsv1, bytes: Vec::new(), valid: 0 });
            }
            _ => {}
        }
        if let (false, Some(message)) = (kind.is_control(), &self.message) {
            let max = if message.is_compressed {
                inflate::max_compressed_bytes(self.max_message_bytes)
            } else {
                self.max_message_bytes
            };
            if length > (max - message.bytes.len()) as u64 {
                return Err(Violation::TooBig);
            }
        }
        Ok(Payload { kind, is_final, mask, rest: length as usize })
    }

    fn end_of_frame(&mut self) -> Result<Option<Event>, Violation> {
        let State::Payload(Payload { kind, is_final, .. }) = self.state else { unreachable!("called there") };
        self.state = State::Header(PartialHeader::default());
        let event = match kind {
            Kind::Ping => Event::Ping(std::mem::take(&mut self.control)),
            Kind::Pong => {
                self.control = Vec::new();
                Event::Pong
            }
            Kind::Close => close(&std::mem::take(&mut self.control))?,
            Kind::Text | Kind::Binary | Kind::Continuation if is_final => {
                let message = self.message.take().expect("begun by its header");
                message.complete(self.max_message_bytes)?
            }
            Kind::Text | Kind::Binary | Kind::Continuation => return Ok(None),
        };
        Ok(Some(event))
    }
}

impl Message {
    /// Fails at the first byte that no text can continue with.
    fn check_utf8(&mut self) -> Result<(), Violation> {
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    fn complete(self, max_message_bytes: usize) -> Result<Event, Violation> {
        let bytes = if self.is_compressed {
            inflate(&self.bytes, max_message_bytes).map_err(|error| match error {
                InflateError::TooBig => Violation::TooBig,
                InflateError::Garbage => Violation::NotDeflate,
            })?
        } else {
            self.bytes
        };
        if self.is_text {
            String::from_utf8(bytes).map(Event::Text).map_err(|_| Violation::NotUtf8)
        } else {
            Ok(Event::Binary(bytes))
        }
    }
}

/// RFC 6455, 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Result<Event, Violation> {
    match payload {
        [] => Ok(Event::Close { code: None, reason: String::new() }),
        [_] => Err(Violation::ClosePayload),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let reason = std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            // What the RFC and IANA's registry under it name, but for the codes that are
            // never sent; and what is left to libraries and applications.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::CloseCode);
            }
            Ok(Event::Close { code: Some(code), reason: reason.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Decoder {
        /// Bytes on the heap.
        fn held(&self) -> usize {
            self.control.capacity() + self.message.as_ref().map_or(0, |message| message.bytes.capacity())
        }
    }

    #[test]
    fn memory_grows_with_what_came_and_is_given_back() {
        let mut decoder = Decoder::new(64 << 10);
        let header = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];

        assert_eq!(decoder.next(&mut &header[..]), Ok(None));
        assert_eq!(decoder.held(), 0, "an announcement is no byte");
        for came in 1..64 << 10 {
            assert_eq!(decoder.next(&mut &b"x"[..]), Ok(None));
            assert!(decoder.held() <= 2 * came + 8, "{} for {came}", decoder.held());
        }
        assert!(matches!(decoder.next(&mut &b"x"[..]), Ok(Some(Event::Binary(_)))));
        assert_eq!(decoder.held(), 0);

        for (frame, what) in [
            (&[0x89, 0x81, 0, 0, 0, 0, b'x'][..], "a ping"),
            (&[0x8a, 0x81, 0, 0, 0, 0, b'x'], "a pong"),
            (&[0x81, 0x82, 0, 0, 0, 0, 0xff, b'x'], "a violation"),
        ] {
            assert!(!matches!(decoder.next(&mut &frame[..]), Ok(None)));
            assert_eq!(decoder.held(), 0, "{what}");
        }
    }

    #[test]
    fn an_idle_decoder_is_small() {
        assert!(size_of::<Decoder>() <= 104, "{}", size_of::<Decoder>());
    }

    #[test]
    fn unmasking_is_the_same_in_any_pieces() {
        let masked: Vec<u8> = (0..=255).collect();
        let key = [0x12, 0x34, 0x56, 0x78];
        let plain: Vec<u8> = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();

        for size in 1..masked.len() {
            let (mut mask, mut unmasked) = (Mask::new(key), Vec::new());
            masked.chunks(size).for_each(|chunk| mask.append(&mut unmasked, chunk));
            assert_eq!(unmasked, plain, "{size}");
        }
    }
}
