//! Messages by the thousand: each with its number within its stream.

use std::ops::Range;

use crate::harness::clients::{Publisher, request, runtime};
use crate::harness::process::Server;

const AT_ONCE: usize = 1000;
/// Of a message's data, about.
const PADDING: usize = 120;

/// To each stream the messages with these numbers, in turns.
pub fn publish(server: &Server, kind: &str, streams: usize, numbers: Range<usize>) {
    let padding = "x".repeat(PADDING);
    let all = numbers.flat_map(|number| (0..streams).map(move |stream| (number, stream)));
    let all: Vec<String> = all
        .map(|(number, stream)| {
            format!(r#"{{"stream":"{kind}:{stream}","data":{{"number":{number},"padding":"{padding}"}}}}"#)
        })
        .collect();
    runtime().block_on(async {
        let mut publisher = Publisher::connect(server.internal).await;
        for messages in all.chunks(AT_ONCE) {
            let body = format!("[{}]", messages.join(","));
            publisher.publish(&request(server.internal, &body)).await;
        }
    });
}

/// The number of a message, from its frame.
pub fn number(frame: &[u8]) -> usize {
    const NAME: &[u8] = br#""number":"#;
    let start = frame.windows(NAME.len()).position(|window| window == NAME);
    let digits =
        &frame[start.unwrap_or_else(|| panic!("no number: {}", frame.escape_ascii())) + NAME.len()..];
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
