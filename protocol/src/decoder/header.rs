use super::Violation;
use super::mask::Mask;

/// A frame's header, as far as it can be judged without those before it.
#[derive(Debug)]
pub struct Header {
    pub kind: Kind,
    pub is_final: bool,
    /// The one reserved bit that an extension of ours has a meaning for.
    pub rsv1: bool,
    pub mask: Mask,
    pub length: u64,
}

/// RFC 6455, 11.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// As much of a header as has come. It is kept here, so that it may come in any pieces.
#[derive(Debug, Default)]
pub struct PartialHeader {
    bytes: [u8; MAX_BYTES],
    count: u8,
}

const MAX_BYTES: usize = 14;
const MAX_CONTROL_BYTES: u8 = 125;

impl Kind {
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

impl PartialHeader {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes a header's bytes from the input; none where the input ends before.
    ///
    /// Lengths in a longer form than they need are taken, as all implementations do.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Violation> {
        if !self.fill(input, 2) {
            return Ok(None);
        }
        let [first, second] = [self.bytes[0], self.bytes[1]];
        let kind = match first & 0xf {
            0x0 => Kind::Continuation,
            0x1 => Kind::Text,
            0x2 => Kind::Binary,
            0x8 => Kind::Close,
            0x9 => Kind::Ping,
            0xa => Kind::Pong,
            _ => return Err(Violation::ReservedOpcode),
        };
        let is_final = first & 0x80 != 0;
        let short_length = second & 0x7f;
        if first & 0x30 != 0 {
            return Err(Violation::ReservedBits);
        }
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        if kind.is_control() && !is_final {
            return Err(Violation::FragmentedControl);
        }
        if kind.is_control() && short_length > MAX_CONTROL_BYTES {
            return Err(Violation::LongControl);
        }

        let length_bytes = match short_length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.fill(input, 2 + length_bytes + 4) {
            return Ok(None);
        }
        let (length, mask) = self.bytes[2..][..length_bytes + 4].split_at(length_bytes);
        let length = match length_bytes {
            0 => short_length.into(),
            _ => length.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let mask = Mask::new(mask.try_into().expect("four bytes"));
        Ok(Some(Header { kind, is_final, rsv1: first & 0x40 != 0, mask, length }))
    }

    /// Whether there are so many bytes now.
    fn fill(&mut self, input: &mut &[u8], needed: usize) -> bool {
        let count = usize::from(self.count);
        if count < needed {
            let taken = input.len().min(needed - count);
            let taken = input.split_off(..taken).expect("not more than there is");
            self.bytes[count..][..taken.len()].copy_from_slice(taken);
            self.count += taken.len() as u8;
        }
        usize::from(self.count) >= needed
    }
}
