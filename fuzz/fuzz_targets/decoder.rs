//! Whatever a client sends: no panic, nothing above the limit, and the same events and the
//! same end in whatever pieces it comes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tablecast_protocol::{Decoder, Event, Violation};

const MAX_BYTES: usize = 1 << 12;

fuzz_target!(|data: &[u8]| {
    let Some((&how, bytes)) = data.split_first() else { return };
    let decoder = || {
        let decoder = Decoder::new(MAX_BYTES);
        if how & 1 == 0 { decoder } else { decoder.inflating() }
    };
    let whole = read(decoder(), bytes, bytes.len().max(1));
    let pieces = read(decoder(), bytes, usize::from(how >> 1) + 1);
    assert_eq!(whole, pieces);
});

fn read(mut decoder: Decoder, bytes: &[u8], size: usize) -> (Vec<Event>, Option<Violation>) {
    let mut events = Vec::new();
    for mut piece in bytes.chunks(size) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => {
                    assert!(bytes_of(&event) <= MAX_BYTES);
                    events.push(event);
                }
                Ok(None) => break,
                Err(violation) => return (events, Some(violation)),
            }
        }
        assert!(piece.is_empty());
    }
    (events, None)
}

fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Text(text) => text.len(),
        Event::Binary(bytes) | Event::Ping(bytes) => bytes.len(),
        Event::Pong => 0,
        Event::Close { reason, .. } => reason.len(),
    }
}
