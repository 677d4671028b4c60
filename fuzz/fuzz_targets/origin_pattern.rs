//! A pattern of origins or hosts matches what its definition says, and nothing else: a star is
//! one character or more of one label.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tablecast::http::matches_by_label;

const BETWEEN_LABELS: [char; 3] = ['.', ':', '/'];

fuzz_target!(|text: &str| {
    let Some((pattern, origin)) = text.split_once('\n') else { return };
    assert_eq!(matches_by_label(pattern, origin), by_the_book(pattern, origin), "{pattern:?} {origin:?}");
});

/// For each beginning of the pattern: with which beginnings of the origin it agrees.
fn by_the_book(pattern: &str, origin: &str) -> bool {
    let origin: Vec<char> = origin.chars().collect();
    let mut agrees = vec![false; origin.len() + 1];
    agrees[0] = true;
    for expected in pattern.chars() {
        let mut next = vec![false; origin.len() + 1];
        for (at, found) in origin.iter().enumerate() {
            next[at + 1] = match expected {
                // The first character that it takes, or one more.
                '*' => !BETWEEN_LABELS.contains(found) && (agrees[at] || next[at]),
                _ => expected.eq_ignore_ascii_case(found) && agrees[at],
            };
        }
        agrees = next;
    }
    agrees[origin.len()]
}
