//! Positions as somebody would forge them who has looked into one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What is in one.
#[derive(Debug, Clone)]
pub struct Parts {
    pub history: [u8; 8],
    pub time: u64,
    pub high: u64,
    /// Whatever follows.
    pub gaps: Vec<u64>,
}

impl Parts {
    pub fn of(word: &str) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(word.strip_prefix('a').unwrap()).unwrap();
        let (history, mut rest) = bytes.split_first_chunk().unwrap();
        let mut numbers = Vec::new();
        while !rest.is_empty() {
            let length = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let (number, later) = rest.split_at(length);
            rest = later;
            numbers.push(number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)));
        }
        Self { history: *history, time: numbers[0], high: numbers[1], gaps: numbers.split_off(2) }
    }

    pub fn word(&self) -> String {
        let mut bytes = self.history.to_vec();
        for number in [self.time, self.high].iter().chain(&self.gaps) {
            let mut rest = *number;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        format!("a{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// A position with another time, or another end.
pub fn forged(word: &str, change: impl FnOnce(&mut u64, &mut u64)) -> String {
    let mut parts = Parts::of(word);
    change(&mut parts.time, &mut parts.high);
    parts.word()
}
