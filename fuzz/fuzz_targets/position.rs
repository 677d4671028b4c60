//! Whatever a client sends as its position: no panic, and what is taken for one is written again as it came.
//! Nobody goes on from beyond what the server has, nor from another life of the table.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tablecast::bus::gaps::IdRange;
use tablecast::bus::position::{Era, Ids, MAX_BYTES, Position};
use tablecast::bus::{Cut, Rejection};

const HISTORY: u64 = 7;
const BEFORE: u64 = 6;
const NOW: i64 = 1_795_000_000;
const HIGH: i64 = 1_000_000;

static CUT: LazyLock<Cut> = LazyLock::new(|| {
    let gaps = vec![IdRange { first: 3, last: 9 }, IdRange { first: 900_000, last: 900_000 }];
    let before = Ids { high: 500_000, gaps: vec![IdRange { first: 3, last: 9 }] };
    let before = vec![(BEFORE, Arc::new(before))];
    Cut::new(
        Ids { high: HIGH, gaps },
        Arc::new(Era { history: Some(HISTORY), before, time: NOW, ..Era::default() }),
    )
});

fuzz_target!(|word: &str| {
    let answer = CUT.accept(word, Some(Duration::from_secs(3600)));
    let Ok(position) = Position::decode(word) else {
        assert!(matches!(answer, Err(Rejection::Malformed | Rejection::TooManyGaps)));
        return;
    };
    assert!(word.len() <= MAX_BYTES);
    assert_eq!(position.encode().as_deref(), Some(word));
    let Position { history, time, ids } = position;
    assert!(ids.gaps.iter().all(|gap| 1 <= gap.first && gap.first <= gap.last && gap.last <= ids.high));
    assert!(ids.gaps.windows(2).all(|pair| pair[0].last < pair[1].first - 1));
    assert!(ids.missed(&ids).is_empty());
    if answer.is_ok() {
        assert!(history == HISTORY && ids.high <= HIGH || history == BEFORE && ids.high <= 500_000);
        assert!(NOW - time <= 3600);
    }
});
