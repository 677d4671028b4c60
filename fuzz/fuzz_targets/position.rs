//! Whatever a client sends as its position: no panic, and what is taken for one is written again as it came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tablecast::bus::position::{MAX_BYTES, Position};

fuzz_target!(|word: &str| {
    let Ok(position) = Position::decode(word) else { return };
    assert!(word.len() <= MAX_BYTES);
    assert_eq!(position.encode().as_deref(), Some(word));
    let Position { ids, .. } = position;
    assert!(ids.gaps.iter().all(|gap| 1 <= gap.first && gap.first <= gap.last && gap.last <= ids.high));
    assert!(ids.gaps.windows(2).all(|pair| pair[0].last < pair[1].first - 1));
    assert!(ids.missed(&ids).is_empty());
});
