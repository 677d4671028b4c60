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
//! A locking read that doesn't wait is done after that. Where it finds neither a row nor a lock, T is none
//! of the first two, and g never comes.

use super::Database;
use super::connect::{Purpose, Session, code};
use super::read::{required, within};
use crate::bus::gaps::{IdRange, Start};
use crate::bus::patience::in_time;

/// Asks about holes, by a connection beside the one that holds the start's snapshot: there locks would stay.
pub struct Sieve {
    session: Session,
    table: String,
    /// All that drew an id before the snapshot have written its row, or never will.
    all_have_written: bool,
    /// So many more refusals are looked into.
    refusals: usize,
    kept: Vec<IdRange>,
    /// Nobody had written them, and somebody might yet.
    unwritten: Vec<IdRange>,
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

/// Whether a transaction has its hands on one of some ids.
enum Answer {
    /// These rows are there.
    Rows(Vec<i64>),
    Locked,
}

impl Sieve {
    pub async fn open(database: &Database, all_have_written: bool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            session: Session::open(&database.0.options, Purpose::Tail).await?,
            table: database.0.table.clone(),
            all_have_written,
            refusals: REFUSALS,
            kept: Vec::new(),
            unwritten: Vec::new(),
        })
    }

    /// Takes more holes in. They ascend, from call to call too.
    pub async fn sift(&mut self, holes: Vec<IdRange>) -> Result<(), sqlx::Error> {
        let (long, short): (Vec<_>, Vec<_>) = holes.into_iter().partition(|hole| ids(hole) > IDS);
        self.kept.extend(long);
        // Those still to be asked about, the next ones last.
        let mut parts = parts(&short);
        parts.reverse();
        while let Some(part) = parts.pop() {
            match in_time(self.ask(part)).await? {
                Answer::Rows(rows) => {
                    let (found, free): (Vec<IdRange>, Vec<IdRange>) =
                        part.iter().partition(|hole| rows.iter().any(|id| hole.contains(*id)));
                    self.kept.extend(found);
                    if !self.all_have_written {
                        self.unwritten.extend(free);
                    }
                }
                Answer::Locked if part.len() == 1 || self.refusals == 0 => self.kept.extend(part),
                Answer::Locked => {
                    self.refusals -= 1;
                    let (below, above) = part.split_at(part.len() / 2);
                    parts.extend([above, below]);
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, holes: &[IdRange]) -> Result<Answer, sqlx::Error> {
        let lock = if self.session.server.is_mariadb { "LOCK IN SHARE MODE" } else { "FOR SHARE" };
        let (table, ids) = (&self.table, within(holes));
        let sql = format!("SELECT m.id FROM `{table}` AS m FORCE INDEX (PRIMARY) WHERE {ids} {lock} NOWAIT");
        match self.session.rows(sql).await {
            Ok(rows) => Ok(Answer::Rows(rows.iter().map(|row| required(row, 0)).collect::<Result<_, _>>()?)),
            // MariaDB's answer and MySQL's.
            Err(error) if matches!(code(&error), Some(1205 | 3572)) => Ok(Answer::Locked),
            Err(error) => Err(error),
        }
    }

    /// What is left of the holes.
    pub async fn finish(self, start: &mut Start) {
        self.session.close().await;
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
}
