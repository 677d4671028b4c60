//! The decoder against tungstenite: the same events and the same verdicts, however the
//! bytes are split; and compressed messages, which tungstenite doesn't read.
//!
//! Where the two differ on purpose stands in [`is_deliberate`].

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, FlushCompress};
use proptest::collection::vec;
use proptest::prelude::*;
use tablecast_protocol::{CloseCode, Decoder, Deflater, Event, Frame as Sent, MessageHead, Violation};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

const MAX_BYTES: usize = 400;

/// What a client's bytes came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    events: Vec<Event>,
    end: Option<End>,
}

/// How they ended, if they did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Closed(Option<u16>, String),
    Violation(u16),
}

fn ours(mut decoder: Decoder, bytes: &[u8], splits: &[usize]) -> (Outcome, Option<Violation>) {
    let mut events = Vec::new();
    for mut piece in pieces(bytes, splits) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(Event::Close { code, reason })) => {
                    assert_eq!(decoder.next(&mut piece), Ok(None), "nothing follows a Close");
                    return (Outcome { events, end: Some(End::Closed(code, reason)) }, None);
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(decoder.next(&mut piece), Ok(None), "nothing follows a violation");
                    let end = End::Violation(violation.close_code() as u16);
                    return (Outcome { events, end: Some(end) }, Some(violation));
                }
            }
        }
        assert!(piece.is_empty(), "all is consumed");
    }
    (Outcome { events, end: None }, None)
}

fn pieces<'a>(mut bytes: &'a [u8], splits: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = splits.iter().cycle();
    std::iter::from_fn(move || {
        let size = (*sizes.next().unwrap()).min(bytes.len());
        (size > 0).then(|| bytes.split_off(..size).unwrap())
    })
}

/// tungstenite, as a server.
struct Theirs(WebSocket<Wire>);

struct Wire(Vec<u8>);

impl Theirs {
    fn new() -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(1 << 10)
            .max_message_size(Some(MAX_BYTES))
            .max_frame_size(Some(MAX_BYTES));
        Self(WebSocket::from_raw_socket(Wire(Vec::new()), Role::Server, Some(config)))
    }

    fn read(&mut self, bytes: &[u8]) -> Outcome {
        self.0.get_mut().0.extend_from_slice(bytes);
        let mut events = Vec::new();
        let end = loop {
            break match self.0.read() {
                Ok(Message::Text(text)) => {
                    events.push(Event::Text(text.as_str().to_owned()));
                    continue;
                }
                Ok(Message::Binary(bytes)) => {
                    events.push(Event::Binary(bytes.to_vec()));
                    continue;
                }
                Ok(Message::Ping(payload)) => {
                    events.push(Event::Ping(payload.to_vec()));
                    continue;
                }
                Ok(Message::Pong(_)) => {
                    events.push(Event::Pong);
                    continue;
                }
                Ok(Message::Close(None)) => Some(End::Closed(None, String::new())),
                // How it tells that the code was none that is ever sent.
                Ok(Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                    Some(End::Violation(1002))
                }
                Ok(Message::Close(Some(close))) => {
                    Some(End::Closed(Some(close.code.into()), close.reason.as_str().to_owned()))
                }
                Ok(Message::Frame(_)) => unreachable!("never read"),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(Error::Capacity(_)) => Some(End::Violation(1009)),
                Err(Error::Utf8(_)) => Some(End::Violation(1007)),
                Err(Error::Protocol(_)) => Some(End::Violation(1002)),
                Err(error) => panic!("{error}"),
            };
        };
        Outcome { events, end }
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = into.len().min(self.0.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// tungstenite reads a frame to its end before it judges it; we don't wait for that.
fn agree(bytes: &[u8], splits: &[usize]) -> Result<(), TestCaseError> {
    let (mine, violation) = ours(Decoder::new(MAX_BYTES), bytes, splits);
    let mut theirs = Theirs::new();
    let mut other = theirs.read(bytes);
    if other.end.is_none() && violation.is_some() {
        let rest = theirs.read(&[0; MAX_BYTES + 14]);
        other.events.extend(rest.events);
        other.end = rest.end;
    }
    if mine != other {
        prop_assert!(is_deliberate(&mine, violation, &other), "{mine:?} ({violation:?}) and not {other:?}");
    }
    Ok(())
}

fn is_deliberate(mine: &Outcome, violation: Option<Violation>, theirs: &Outcome) -> bool {
    let common = mine.events.len();
    match (violation, &mine.end) {
        // What a header's first bytes show we find before its length; there the size comes first.
        (Some(_), Some(End::Violation(1002)))
            if theirs.events == mine.events && theirs.end == Some(End::Violation(1009)) =>
        {
            true
        }
        // A control frame's length stands in its second byte (RFC 6455, 5.5): one of the long
        // forms is too long, whatever is in it.
        (Some(Violation::LongControl), _) => theirs.events.starts_with(&mine.events[..common]),
        // Bad Gateway, registered with IANA since.
        (None, Some(End::Closed(Some(1014), _))) => theirs.end == Some(End::Violation(1002)),
        _ => false,
    }
}

#[derive(Debug, Clone)]
struct Frame {
    first: u8,
    is_masked: bool,
    mask: [u8; 4],
    length: LengthForm,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum LengthForm {
    Shortest,
    Two,
    Eight,
}

impl Frame {
    fn write(&self, to: &mut Vec<u8>) {
        let mask_bit = if self.is_masked { 0x80 } else { 0 };
        to.push(self.first);
        let length = self.payload.len();
        match self.length {
            LengthForm::Shortest if length < 126 => to.push(mask_bit | length as u8),
            LengthForm::Shortest | LengthForm::Two if length < 1 << 16 => {
                to.push(mask_bit | 126);
                to.extend((length as u16).to_be_bytes());
            }
            _ => {
                to.push(mask_bit | 127);
                to.extend((length as u64).to_be_bytes());
            }
        }
        if self.is_masked {
            to.extend(self.mask);
            to.extend(self.payload.iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            to.extend(&self.payload);
        }
    }
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut bytes));
    bytes
}

fn frame(first: u8, payload: impl Into<Vec<u8>>) -> Frame {
    let mask = [0x12, 0x34, 0x56, 0x78];
    Frame { first, is_masked: true, mask, length: LengthForm::Shortest, payload: payload.into() }
}

/// Any frame, mostly of a kind that exists.
fn any_frame() -> impl Strategy<Value = Frame> {
    let first = prop_oneof![
        10 => (any::<bool>(), prop_oneof![Just(0u8), Just(1), Just(2), Just(8), Just(9), Just(10)])
            .prop_map(|(is_final, opcode)| if is_final { 0x80 | opcode } else { opcode }),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => ".{0,20}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 0..12),
        1 => vec(Just(b'x'), 100..MAX_BYTES + 20),
        1 => close_payload(),
    ];
    let length = prop_oneof![8 => Just(LengthForm::Shortest), 1 => Just(LengthForm::Two), 1 => Just(LengthForm::Eight)];
    (first, prop::bool::weighted(0.95), any::<[u8; 4]>(), length, payload).prop_map(
        |(first, is_masked, mask, length, payload)| Frame { first, is_masked, mask, length, payload },
    )
}

fn close_payload() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![990..1020u16, any::<u16>(), 2990..5010u16];
    (code, prop_oneof![".{0,10}".prop_map(String::into_bytes), vec(any::<u8>(), 0..4)])
        .prop_map(|(code, reason)| [&code.to_be_bytes()[..], &reason].concat())
}

/// A message in fragments, with control frames between them.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let payload = prop_oneof![
        4 => ".{0,60}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..40),
        1 => "[é🦀\u{7ff}\u{800}\u{ffff}\u{10ffff}]{0,90}".prop_map(String::into_bytes),
    ];
    (payload, 1..3u8, 1..40usize, vec(prop::option::weighted(0.2, 9..11u8), 1..8), any::<[u8; 4]>()).prop_map(
        |(payload, opcode, size, controls, mask)| fragments(opcode, &payload, size, &controls, mask),
    )
}

fn fragments(first: u8, payload: &[u8], size: usize, controls: &[Option<u8>], mask: [u8; 4]) -> Vec<Frame> {
    let mut parts: Vec<&[u8]> = payload.chunks(size).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let mut controls = controls.iter().cycle();
    let mut frames = Vec::new();
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        if let (Some(opcode), true) = (controls.next().unwrap(), index > 0) {
            frames.push(Frame { mask, ..frame(0x80 | opcode, "control") });
        }
        let opcode = if index == 0 { first } else { 0 };
        let is_final = if index == last { 0x80 } else { 0 };
        frames.push(Frame { mask, ..frame(is_final | opcode, part) });
    }
    frames
}

fn splits() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), vec(1..8usize, 1..6), vec(1..200usize, 1..6),]
}

/// Compresses as permessage-deflate does, by any settings.
fn deflate(payload: &[u8], level: u32) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut compressed = Vec::with_capacity(payload.len() * 2 + 1000);
    compress.compress_vec(payload, &mut compressed, FlushCompress::Sync).unwrap();
    assert_eq!(compress.total_in() as usize, payload.len());
    compressed.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

fn inflater(max_bytes: usize) -> Decoder {
    Decoder::new(max_bytes).inflating()
}

/// The only event of a message that was compressed into these bytes.
fn inflated(first: u8, compressed: &[u8], max_bytes: usize) -> Result<Event, Violation> {
    let bytes = wire(&[frame(first, compressed)]);
    let mut input = &bytes[..];
    inflater(max_bytes).next(&mut input).map(|event| event.expect("a whole message"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2000), ..ProptestConfig::default() })]

    #[test]
    fn valid_messages_arrive_as_tungstenite_reads_them(messages in vec(message(), 1..6), splits in splits()) {
        agree(&wire(&messages.concat()), &splits)?;
    }

    #[test]
    fn any_sequence_of_frames_has_tungstenites_verdict(
        before in vec(message(), 0..3),
        frames in vec(any_frame(), 1..6),
        splits in splits(),
    ) {
        agree(&wire(&[before.concat(), frames].concat()), &splits)?;
    }

    #[test]
    fn bytes_that_were_changed_or_cut_have_tungstenites_verdict(
        messages in vec(message(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        splits in splits(),
    ) {
        let mut bytes = wire(&messages.concat());
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        agree(&bytes, &splits)?;
    }

    #[test]
    fn any_bytes_have_tungstenites_verdict(bytes in vec(any::<u8>(), 0..600), splits in splits()) {
        agree(&bytes, &splits)?;
        ours(inflater(MAX_BYTES), &bytes, &splits);
    }

    #[test]
    fn a_closes_code_and_reason_have_tungstenites_verdict(payload in close_payload(), splits in splits()) {
        agree(&wire(&[frame(0x88, payload)]), &splits)?;
    }

    #[test]
    fn compressed_messages_arrive(
        payloads in vec((prop_oneof![".{0,200}", "[ab]{0,4000}", "\\PC{0,900}"], 0..10u32, 1..400usize), 1..4),
        controls in vec(prop::option::weighted(0.2, 9..11u8), 1..8),
        mask in any::<[u8; 4]>(),
        splits in splits(),
    ) {
        let mut frames = Vec::new();
        for (text, level, size) in &payloads {
            frames.extend(fragments(0x41, &deflate(text.as_bytes(), *level), *size, &controls, mask));
            // Not all messages need be compressed.
            frames.push(frame(0x82, "plain"));
        }

        let (outcome, _) = ours(inflater(4000), &wire(&frames), &splits);

        let messages: Vec<_> = outcome.events.into_iter().filter(|event| !matches!(event, Event::Ping(_) | Event::Pong)).collect();
        let sent: Vec<_> = payloads
            .iter()
            .flat_map(|(text, ..)| [Event::Text(text.clone()), Event::Binary(b"plain".into())])
            .collect();
        prop_assert_eq!(messages, sent);
    }

    #[test]
    fn what_a_deflater_compressed_is_inflated(texts in vec(prop_oneof![".{0,400}", "[ab]{0,3000}", "\\PC{0,900}"], 1..4)) {
        // Its state is used again.
        let mut deflater = Deflater::default();
        for text in &texts {
            let payload = format!("{text:?}");
            let plain = Sent::message(&MessageHead::new("id"), &payload);
            let Some(compressed) = deflater.deflate(&plain) else { continue };
            prop_assert!(compressed.as_bytes().len() < plain.as_bytes().len());

            let (first, rest) = (compressed.as_bytes()[0], payload_of(&compressed));
            prop_assert_eq!(first, 0xc1);
            let text = String::from_utf8(payload_of(&plain).to_vec()).unwrap();
            prop_assert_eq!(inflated(first, rest, 1 << 20), Ok(Event::Text(text)));
        }
    }

    #[test]
    fn compressed_garbage_is_refused_or_read_within_the_limit(bytes in vec(any::<u8>(), 0..300)) {
        match inflated(0xc2, &bytes, 100) {
            Ok(Event::Binary(payload)) => prop_assert!(payload.len() <= 100),
            other => prop_assert!(matches!(other, Err(Violation::NotDeflate | Violation::TooBig)), "{other:?}"),
        }
    }
}

/// Of a server's frame.
fn payload_of(frame: &Sent) -> &[u8] {
    let bytes = frame.as_bytes();
    let header = match bytes[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    &bytes[header..]
}

fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

#[test]
fn the_examples_of_rfc_7692_are_read() {
    // 7.2.3.1, .2, .3, .4, .5 and .6.
    let hello =
        |compressed: &[u8]| assert_eq!(inflated(0xc1, compressed, 100), Ok(Event::Text("Hello".into())));
    hello(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    hello(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00]);
    hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]);
    hello(&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00]);
    assert_eq!(inflated(0xc1, &[0x00], 100), Ok(Event::Text(String::new())));
    assert_eq!(inflated(0xc1, &[], 100), Ok(Event::Text(String::new())));
}

/// Nothing in the format tells for certain; but what is left of these ends within a code.
#[test]
fn a_compressed_message_that_was_cut_is_refused() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    for cut in 1..5 {
        assert_eq!(inflated(0xc1, &hello[..cut], 100), Err(Violation::NotDeflate), "{cut} bytes");
    }
    let stored = [0x00, 0x0a, 0x00, 0xf5, 0xff, b'H', b'e', b'l', b'l', b'o'];
    assert_eq!(inflated(0xc1, &stored, 100), Err(Violation::NotDeflate));
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let bomb = deflate(&vec![0; 10 << 20], 9);
    assert!(bomb.len() < 11 << 10);

    assert_eq!(inflated(0xc2, &bomb, 64 << 10), Err(Violation::TooBig));
    assert_eq!(inflated(0xc2, &deflate(&[7; 1000], 9), 1000), Ok(Event::Binary(vec![7; 1000])));
    assert_eq!(inflated(0xc2, &deflate(&[7; 1001], 9), 1000), Err(Violation::TooBig));
}

/// Bytes that don't compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let noise = std::iter::from_fn(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        Some((state >> 56) as u8)
    });
    noise.take(count).collect()
}

#[test]
fn what_does_not_compress_may_be_as_large_as_the_limit() {
    let noise = noise(64 << 10);

    for level in 0..10 {
        let read = inflated(0xc2, &deflate(&noise, level), 64 << 10);
        assert!(read == Ok(Event::Binary(noise.clone())), "level {level}: {:?}", read.err());
    }
}

#[test]
fn a_reserved_bit_is_a_violation_but_where_a_compressed_message_begins() {
    let end = |frames: &[Frame]| ours(inflater(100), &wire(frames), &[usize::MAX]).1;
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

    assert_eq!(end(&[frame(0xc1, hello)]), None);
    assert_eq!(end(&[frame(0x41, &hello[..3]), frame(0x80, &hello[3..])]), None);
    assert_eq!(end(&[frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])]), Some(Violation::ReservedBits));
    assert_eq!(end(&[frame(0xc9, "")]), Some(Violation::ReservedBits));
    assert_eq!(end(&[frame(0xe1, hello)]), Some(Violation::ReservedBits));
    assert_eq!(end(&[frame(0xc1, [0xff; 7])]), Some(Violation::NotDeflate));
    assert_eq!(end(&[frame(0xc1, deflate(&[0xff], 6))]), Some(Violation::NotUtf8));
}

#[test]
fn a_violation_is_found_before_its_frame_has_ended() {
    let end = |bytes: &[u8]| {
        let (outcome, violation) = ours(Decoder::new(100), bytes, &[usize::MAX]);
        assert_eq!(outcome.events, []);
        violation
    };
    // A payload of 100 bytes that can't go on as text after its third.
    let mask = [0; 4];
    let text = |start: &[u8]| [&[0x81, 0x80 | 100], &mask[..], start].concat();
    assert_eq!(end(&text(b"ab\xf0")), None);
    assert_eq!(end(&text(b"ab\xf0\x9f")), None);
    assert_eq!(end(&text(b"ab\xf0\x80")), Some(Violation::NotUtf8));
    assert_eq!(end(&text(b"ab\xff")), Some(Violation::NotUtf8));
    // By two bytes of a header, or when its length is known.
    assert_eq!(end(&[0x81, 100]), Some(Violation::Unmasked));
    assert_eq!(end(&[0x83, 0x80]), Some(Violation::ReservedOpcode));
    assert_eq!(end(&[0x89, 0xfe]), Some(Violation::LongControl));
    assert_eq!(end(&[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4]), Some(Violation::TooBig));
    assert_eq!(end(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), Some(Violation::TooBig));
}

#[test]
fn only_a_message_that_gets_smaller_is_compressed() {
    let mut deflater = Deflater::default();
    let message = |payload: &str| Sent::message(&MessageHead::new("x"), payload);
    let long = message(&format!("{:?}", "abc".repeat(1000)));

    assert!(deflater.deflate(&long).unwrap().as_bytes().len() < 100);
    assert_eq!(deflater.deflate(&message("1")), None);
    assert_eq!(deflater.deflate(&Sent::close(CloseCode::Normal, &"x".repeat(100))), None);
    assert_eq!(deflater.deflate(&Sent::pong(&[b'x'; 100])), None);
}

/// zlib-rs 0.6.8 panics here, or writes a block without its header: its reset forgets less
/// than there was (Autobahn 12.2.3).
#[test]
fn a_message_that_was_given_up_leaves_nothing_behind() {
    let mut deflater = Deflater::default();
    let noise = noise(200_000);
    let given_up = [&[0x82, 127, 0, 0, 0, 0, 0, 3, 0x0d, 0x40], &noise[..]].concat();
    let digits: String = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    let long = Sent::message(&MessageHead::new("x"), &format!("{digits:?}"));
    let compressed = Deflater::default().deflate(&long);

    for _ in 0..3 {
        assert_eq!(deflater.deflate(&Sent::from_wire(&given_up)), None);
        assert_eq!(deflater.deflate(&long), compressed);
    }
}

#[test]
fn each_violation_has_a_name_and_a_code_of_its_own_kind() {
    assert_eq!(Violation::Unmasked.close_code(), CloseCode::Protocol);
    assert_eq!(Violation::NotUtf8.close_code(), CloseCode::InvalidData);
    assert_eq!(Violation::NotDeflate.close_code(), CloseCode::InvalidData);
    assert_eq!(Violation::TooBig.close_code(), CloseCode::TooBig);
}
