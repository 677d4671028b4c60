//! One message of permessage-deflate (RFC 7692), inflated.
//!
//! `client_no_context_takeover` is always agreed on, so that a message stands for itself.
//! It is kept as it came until its end and inflated in one go: a client that leaves a
//! message half sent costs what it sent, and not an inflater's 40 KiB.

use flate2::{Decompress, FlushDecompress, Status};

#[derive(Debug, PartialEq, Eq)]
pub enum InflateError {
    TooBig,
    Garbage,
}

/// What every sender leaves off (RFC 7692, 7.2.2), and an empty last block behind it. Where
/// a message was cut, something else is read there, and no block ends with it.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
const FIRST_ALLOTMENT: usize = 512;

/// How large a message within the limit may be when compressed: by deflate's fixed codes
/// eight bits become nine.
pub fn max_compressed_bytes(max_message_bytes: usize) -> usize {
    max_message_bytes.saturating_add(max_message_bytes / 8).saturating_add(64)
}

/// Never holds more than a byte over the limit.
pub fn inflate(compressed: &[u8], max_bytes: usize) -> Result<Vec<u8>, InflateError> {
    let mut inflated = Vec::new();
    if compressed.is_empty() {
        // Some compressors have nothing to say about nothing; strictly it were one byte.
        return Ok(inflated);
    }
    let mut inflater = Decompress::new(false);
    let mut has_ended = false;
    for mut input in [compressed, &TAIL] {
        while !input.is_empty() {
            // RFC 7692, 7.2.3.4: a last block needn't be the message's last.
            if std::mem::take(&mut has_ended) {
                inflater.reset(false);
            }
            if inflated.len() == inflated.capacity() {
                let more = inflated.len().max(FIRST_ALLOTMENT);
                inflated.reserve_exact(more.min(max_bytes.saturating_add(1) - inflated.len()));
            }
            let before = (inflater.total_in(), inflater.total_out());
            let status = inflater.decompress_vec(input, &mut inflated, FlushDecompress::None);
            input = &input[(inflater.total_in() - before.0) as usize..];
            if inflated.len() > max_bytes {
                return Err(InflateError::TooBig);
            }
            let has_moved = before != (inflater.total_in(), inflater.total_out());
            match status {
                Ok(Status::Ok) if has_moved => {}
                Ok(Status::StreamEnd) if has_moved => has_ended = true,
                _ => return Err(InflateError::Garbage),
            }
        }
    }
    if has_ended { Ok(inflated) } else { Err(InflateError::Garbage) }
}
