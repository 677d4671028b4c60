//! The model: what each server and each client is owed.

use super::database::{Database, Row};
use super::stage::{Moment, Stage};
use crate::bus::Rejection;
use crate::bus::position::{Ids, NO_POSITION, Position};

/// A promise that was broken, by ids.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    Lost(i64),
    Twice(i64),
    NeverCommitted(i64),
    /// The first came before the second, from which it may follow.
    Reordered(i64, i64),
    /// A position has what was not given.
    Claimed(i64),
    /// A position lacks what was given.
    Forgotten(i64),
    /// It was committed before a barrier was asked for, and not released by its answer.
    NotWaitedFor(i64),
    /// A client that keeps the latest message went from the second back to the first.
    WentBack(i64, i64),
    /// It was handed on after a failover had lost it.
    FromLostHistory(i64),
    /// Somebody was told of another history, and there is none.
    ToldWrongly,
    NotDrained(usize),
}

/// A cut is of a look that began so long ago at most.
const LATEST_LOOK_SECS: i64 = 10;

/// What somebody came with who is turned away.
pub enum Claim {
    Word(String),
    /// When its page was made.
    Since(i64),
    /// Nothing: it can't be turned away.
    None,
}

/// Who is told that something is missing is told so for a reason.
pub fn rejected(rejection: &Rejection, claim: &Claim, stage: &Stage) -> Result<(), Fault> {
    let window = stage.window().map_or(i64::MAX, |window| window.as_secs().cast_signed());
    let (now, position) = (stage.date(), Position::decode);
    let is_right = match (rejection, claim) {
        (Rejection::TooManyGaps, Claim::Word(word)) => word == NO_POSITION,
        (Rejection::AnotherHistory, Claim::Word(word)) => {
            position(word).is_ok_and(|position| position.history != stage.database.history)
        }
        // A server that has been started since knows no id above the rows that are left.
        (Rejection::Ahead, Claim::Word(word)) => {
            position(word).is_ok_and(|position| !stage.database.table.contains_key(&position.ids.high))
        }
        (Rejection::TooOld, Claim::Word(word)) => {
            // Or one was trimmed before it was read, which no position could have covered.
            let is_gone = |row: &Row| row.trimmed.is_some_and(|trimmed| trimmed.was_hidden);
            position(word).is_ok_and(|position| {
                let mut lacking = stage.database.rows.iter().filter(|row| !position.ids.contains(row.id));
                now - position.time > window || lacking.any(is_gone)
            })
        }
        (Rejection::TooOld, Claim::Since(since)) => now - since > window,
        (Rejection::SinceAhead, Claim::Since(since)) => since - now > 60 - LATEST_LOOK_SECS,
        (Rejection::TooMany(_), Claim::Word(_) | Claim::Since(_)) => true,
        _ => false,
    };
    if is_right { Ok(()) } else { Err(Fault::ToldWrongly) }
}

/// Rows that a server has yet to release, or a client yet to get: committed, and not given.
#[derive(Default)]
pub struct Owed(Vec<usize>);

impl Owed {
    /// What is in the table and not in what somebody begins with.
    pub fn beyond(ids: &Ids, stream: usize, database: &Database) -> Self {
        Self::of(stream, database, |row| row.trimmed.is_none() && !ids.contains(row.id))
    }

    /// And all that was written at `since` or later, also if it is there no more.
    pub fn since(since: i64, released: &Ids, stream: usize, database: &Database) -> Self {
        Self::of(stream, database, |row| {
            row.created >= since || (row.trimmed.is_none() && !released.contains(row.id))
        })
    }

    pub fn all_but(others: &Self, stream: usize, database: &Database) -> Self {
        let all = Self::of(stream, database, |_| true);
        Self(all.0.into_iter().filter(|row| !others.contains(*row)).collect())
    }

    fn of(stream: usize, database: &Database, is_owed: impl Fn(&Row) -> bool) -> Self {
        let rows = database.rows.iter().enumerate();
        let there =
            rows.filter(|(_, row)| row.committed.is_some() && !row.lost && row.stream == Some(stream));
        Self(there.filter(|(_, row)| is_owed(row)).map(|(at, _)| at).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was lost with a failover is owed to nobody.
    pub fn drop_lost(&mut self, database: &Database) {
        self.0.retain(|row| !database.rows[*row].lost);
    }

    pub fn add(&mut self, row: usize) {
        self.0.push(row);
    }

    /// It is given: now, once, and after all that it may follow from.
    pub fn give(&mut self, row: usize, database: &Database) -> Result<(), Fault> {
        let rows = &database.rows;
        let Some(at) = self.0.iter().position(|owed| *owed == row) else {
            return Err(Fault::Twice(rows[row].id));
        };
        self.0.swap_remove(at);
        let given = &rows[row];
        let comes_first = |owed: &&Row| {
            let was_seen = owed.committed < Some(given.drawn);
            let is_earlier_part = owed.transaction == given.transaction && owed.id < given.id;
            owed.orderly && (was_seen || is_earlier_part)
        };
        match self.0.iter().map(|owed| &rows[*owed]).find(comes_first) {
            Some(first) => Err(Fault::Reordered(given.id, first.id)),
            None => Ok(()),
        }
    }

    /// One that a position has although it wasn't given. Only of those whose order is promised: for
    /// the others a position doesn't wait.
    pub fn claimed_by(&self, ids: &Ids, database: &Database) -> Option<i64> {
        let rows = self.0.iter().map(|row| &database.rows[*row]);
        rows.filter(|row| row.orderly).map(|row| row.id).find(|id| ids.contains(*id))
    }

    /// One that somebody has passed and doesn't wait for, whoever wrote it.
    pub fn lost_by(&self, ids: &Ids, database: &Database) -> Option<i64> {
        self.0.iter().map(|row| database.rows[*row].id).find(|id| ids.contains(*id))
    }

    /// One that a barrier should have waited for.
    pub fn committed_before(&self, moment: Moment, database: &Database) -> Option<i64> {
        let rows = self.0.iter().map(|row| &database.rows[*row]);
        rows.filter(|row| row.orderly && row.committed < Some(moment)).map(|row| row.id).next()
    }

    pub fn first(&self, database: &Database) -> Option<i64> {
        self.0.iter().map(|row| database.rows[*row].id).min()
    }

    pub fn contains(&self, row: usize) -> bool {
        self.0.contains(&row)
    }

    pub fn remove(&mut self, row: usize) -> bool {
        let before = self.0.len();
        self.0.retain(|owed| *owed != row);
        self.0.len() < before
    }
}
