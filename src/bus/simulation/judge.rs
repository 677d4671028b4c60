//! The model: what each server and each client is owed.

use super::database::{Database, Row};
use super::stage::Moment;
use crate::bus::position::Ids;

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

/// Rows that a server has yet to release, or a client yet to get: committed, and not given.
#[derive(Default)]
pub struct Owed(Vec<usize>);

impl Owed {
    /// What is in the table and not in what somebody begins with.
    pub fn beyond(ids: &Ids, stream: usize, database: &Database) -> Self {
        let rows = database.table.values().copied();
        let is_owed = |row: &usize| {
            let row = &database.rows[*row];
            row.stream == Some(stream) && !ids.contains(row.id)
        };
        Self(rows.filter(is_owed).collect())
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
}
