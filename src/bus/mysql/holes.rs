//! Which of the ids that a table lacks at the start may yet be committed.
//!
//! A table that was rolled back and trimmed for years lacks as many ids as it likes. Were all of them
//! gaps, then a transaction that has been open for an hour, wherever it wrote, would keep them so, and
//! looks would ask for them all the while: each is a page of the primary key, which may have to come from
//! the disk. So it is found out once, for all but a few, that nobody can fill them.
//!
//! Let id g be missing in the start's snapshot S, below a row that S shows. It was drawn before S, by a
//! transaction T. Let a list of open transactions be begun [`SETTLED`](crate::bus::gaps::SETTLED) after
//! S, and let those that it shows within a statement be seen between two later on, or be gone. InnoDB
//! draws an id within the statement that writes its row. So by then T has
//!
//! 1. ended: its row is in the index, or will never be;
//! 2. or written the row, and holds a lock on it for as long as it runs; also on one that it has deleted
//!    again, and may bring back by a ROLLBACK TO SAVEPOINT;
//! 3. or taken it back: the id is not drawn again.
//!
//! A locking read that doesn't wait ([`Locks`](super::locks::Locks)) is done after that. Where it finds neither a row nor a lock, T is none
//! of the first two, and g never comes.

use std::time::Duration;

use crate::bus::gaps::{IdRange, SETTLED, Start, Transaction};

/// So long after the start's snapshot the first list of open transactions is begun, and each after the one before:
/// longer than one takes to be complete, and to be made anew.
pub const LIST_INTERVAL: Duration = SETTLED.saturating_add(Duration::from_millis(50));
/// So many are waited for.
pub const LISTS: usize = 20;

/// Whether all that drew an id before the snapshot have written its row, or never will.
#[derive(Debug, Default)]
pub struct Writing {
    /// Those that each list has shown within a statement.
    since: Option<Vec<Transaction>>,
}

/// Takes in what is missing, says what to ask, and takes the answers in.
#[derive(Debug)]
pub struct Sieve {
    all_have_written: bool,
    /// So many more refusals are looked into.
    refusals: usize,
    /// To be asked about, the next ones last.
    waiting: Vec<Vec<IdRange>>,
    kept: Vec<IdRange>,
    /// Nobody had written them, and somebody might yet.
    unwritten: Vec<IdRange>,
}

/// Whether a transaction has its hands on one of some ids.
#[derive(Debug)]
pub enum Answer {
    /// These rows are there.
    Rows(Vec<i64>),
    Locked,
}

/// So many ranges are asked about at a time: they lie in a page of the start, which was just read.
const RANGES: usize = 1000;
/// And so many ids: rows that were deleted lately are in the index still, and are passed one by one. A
/// longer hole is kept. No statement draws as many ids at once, so that they are few.
const IDS: i64 = 100_000;
/// A lock somewhere in a thousand ranges is found by some twenty statements.
const REFUSALS: usize = 2000;
/// If it can't be shown that nobody is about to write them, so many of the youngest are gaps all the same.
const YOUNGEST: usize = 1000;

impl Writing {
    /// A list shows these within a statement. Says whether nobody is left.
    pub fn ended(&mut self, mut now: Vec<Transaction>) -> bool {
        if let Some(since) = &self.since {
            now.retain(|transaction| since.contains(transaction));
        }
        self.since.insert(now).is_empty()
    }
}

impl Sieve {
    pub fn new(all_have_written: bool) -> Self {
        Self {
            all_have_written,
            refusals: REFUSALS,
            waiting: Vec::new(),
            kept: Vec::new(),
            unwritten: Vec::new(),
        }
    }

    /// More holes. They ascend, from call to call too.
    pub fn take_in(&mut self, holes: Vec<IdRange>) {
        let (long, short): (Vec<_>, Vec<_>) = holes.into_iter().partition(|hole| ids(hole) > IDS);
        self.kept.extend(long);
        self.waiting.extend(parts(&short).into_iter().rev().map(<[_]>::to_vec));
    }

    /// What to ask about next; none once all is known.
    pub fn asks(&self) -> Option<&[IdRange]> {
        self.waiting.last().map(Vec::as_slice)
    }

    /// To what it asks.
    pub fn answered(&mut self, answer: Answer) {
        let Some(mut part) = self.waiting.pop() else { return };
        match answer {
            Answer::Rows(rows) => {
                let (found, free): (Vec<IdRange>, Vec<IdRange>) =
                    part.into_iter().partition(|hole| rows.iter().any(|id| hole.contains(*id)));
                self.kept.extend(found);
                if !self.all_have_written {
                    self.unwritten.extend(free);
                }
            }
            Answer::Locked if part.len() == 1 || self.refusals == 0 => self.kept.extend(part),
            Answer::Locked => {
                self.refusals -= 1;
                let above = part.split_off(part.len() / 2);
                self.waiting.extend([above, part]);
            }
        }
    }

    /// What is left of the holes.
    pub fn finish(self, start: &mut Start) {
        let mut unwritten = self.unwritten;
        start.holes = self.kept;
        start.holes.extend(unwritten.split_off(unwritten.len().saturating_sub(YOUNGEST)));
        start.holes.sort_unstable_by_key(|hole| hole.first);
        start.unlikely = unwritten;
    }
}

fn ids(hole: &IdRange) -> i64 {
    hole.last - hole.first + 1
}

/// As many as are asked about at a time.
fn parts(mut holes: &[IdRange]) -> Vec<&[IdRange]> {
    let mut parts = Vec::new();
    while !holes.is_empty() {
        let mut sum = 0;
        let fits = |hole: &&IdRange| {
            sum += ids(hole);
            sum <= IDS
        };
        let count = holes.iter().take(RANGES).take_while(fits).count();
        let (part, rest) = holes.split_at(count.max(1));
        parts.push(part);
        holes = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(holes: &[IdRange]) -> Vec<usize> {
        parts(holes).iter().map(|part| part.len()).collect()
    }

    #[test]
    fn neither_ranges_nor_ids_are_too_many_for_a_statement() {
        let single = |id| IdRange { first: id, last: id };
        let singles: Vec<IdRange> = (0..2 * RANGES as i64 + 1).map(|n| single(2 * n)).collect();
        assert_eq!(lengths(&singles), [RANGES, RANGES, 1]);

        let (half, whole) = (IdRange { first: 1, last: IDS / 2 }, IdRange { first: 1, last: IDS });
        assert_eq!(lengths(&[half, half, half, whole, single(1)]), [2, 1, 1, 1]);
        assert_eq!(lengths(&[]), [0; 0]);
    }

    #[test]
    fn a_hole_is_dropped_if_it_is_free_and_nobody_may_be_about_to_fill_it() {
        let holes: Vec<IdRange> = (1..=9).map(|n| IdRange { first: 10 * n, last: 10 * n + 4 }).collect();
        let sifted = |all_have_written| {
            let mut sieve = Sieve::new(all_have_written);
            sieve.take_in(holes.clone());
            while let Some(asked) = sieve.asks() {
                // One has been filled meanwhile, and one is locked.
                let is_locked = asked.iter().any(|hole| hole.contains(72));
                let rows = if asked.iter().any(|hole| hole.contains(33)) { vec![33] } else { Vec::new() };
                sieve.answered(if is_locked { Answer::Locked } else { Answer::Rows(rows) });
            }
            let mut start = Start::default();
            sieve.finish(&mut start);
            start.holes
        };
        assert_eq!(sifted(true), [holes[2], holes[6]]);
        assert_eq!(sifted(false), holes);
    }

    #[test]
    fn who_is_within_a_statement_is_waited_for_until_it_was_seen_between_two() {
        let list = |names: &[u64]| names.iter().map(|name| Transaction(*name)).collect();
        let mut writing = Writing::default();
        assert!(!writing.ended(list(&[1, 2])));
        assert!(!writing.ended(list(&[2, 3])));
        assert!(writing.ended(list(&[1, 3])), "they have begun another statement since");
        assert!(Writing::default().ended(list(&[])));
    }
}
