//! What must hold of a table and of what connections saw of it.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::journal::Journal;
use super::reader::MARKER;
use super::session::RawRow;
use super::{Name, PREFIX, SHARED_STREAMS, STREAMS, Time, stream_name};

/// A message's own words.
#[derive(Debug, Deserialize)]
pub struct Payload {
    pub w: u16,
    pub n: u32,
    pub t: u32,
    pub after: Option<Name>,
}

/// A row of the served prefix.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: i64,
    pub stream: u16,
    pub writer: u16,
    pub number: u32,
    /// The writer's transaction; one begins after the one before was committed.
    pub transaction: u32,
    /// What its writer had seen before its transaction began.
    pub after: Option<Name>,
    /// When its commit was sent.
    pub committing: Time,
}

impl Row {
    /// None for another prefix's row, and for the last of a stream.
    pub fn new(row: RawRow, journal: &Journal) -> Option<Self> {
        let stream = stream_of(&row.channel)?;
        let Payload { w, n, t, after } = serde_json::from_slice(&row.payload).unwrap();
        let committing = journal.of((w, n)).and_then(|transaction| transaction.committing);
        let committing = committing.unwrap_or_default();
        let row = Self { id: row.id, stream, writer: w, number: n, transaction: t, after, committing };
        (w != MARKER).then_some(row)
    }

    pub fn name(&self) -> Name {
        (self.writer, self.number)
    }
}

/// Which served stream a channel is.
pub fn stream_of(channel: &[u8]) -> Option<u16> {
    let name = std::str::from_utf8(channel).unwrap().strip_prefix(PREFIX)?.strip_prefix(':')?;
    let (kind, number) = name.split_once(':')?;
    let number: u16 = number.parse().ok()?;
    Some(if kind == "own" { SHARED_STREAMS + number } else { number })
}

/// All rows, by id.
pub struct Table {
    pub rows: Vec<Row>,
    places: HashMap<Name, usize>,
}

impl Table {
    pub fn new(mut rows: Vec<Row>) -> Self {
        rows.sort_by_key(|row| row.id);
        let places: HashMap<Name, usize> =
            rows.iter().enumerate().map(|(place, row)| (row.name(), place)).collect();
        assert_eq!(places.len(), rows.len(), "no message is written twice");
        Self { rows, places }
    }

    pub fn find(&self, name: Name) -> Option<usize> {
        self.places.get(&name).copied()
    }
}

/// What one connection saw, in the order of arrival.
pub struct Log {
    pub server: usize,
    pub name: String,
    /// It listened to its streams from the first message to the last.
    pub whole: bool,
    /// The streams that it asked for, and when each was confirmed.
    pub confirmed: HashMap<u16, Option<Time>>,
    pub deliveries: Vec<Delivery>,
    /// Why it ended before it wanted to.
    pub ended: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    pub writer: u16,
    pub number: u32,
    pub stream: u16,
    pub at: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In the table, and not delivered.
    Lost,
    Doubled,
    /// Before something that it follows.
    Reordered,
    /// Delivered, and not in the table or of another stream.
    Phantom,
    /// Two connections of one server saw a stream in different orders.
    Disagreement,
    /// A connection was ended by its server.
    Ended,
    /// The table isn't what the writers were told.
    Table,
}

#[derive(Debug)]
pub struct Violation {
    pub kind: Kind,
    /// The connection.
    pub log: String,
    pub message: Name,
    /// Another message that has to do with it.
    pub other: Option<Name>,
    pub detail: String,
}

impl Violation {
    pub fn new(kind: Kind, log: &str, message: Name, detail: impl Into<String>) -> Self {
        Self { kind, log: log.to_owned(), message, other: None, detail: detail.into() }
    }
}

pub fn counts(violations: &[Violation]) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    for violation in violations {
        *counts.entry(violation.kind).or_default() += 1;
    }
    counts
}

/// Compares each log with the table, and the logs of each server with one another.
pub fn check(table: &Table, logs: &[Log]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut references: HashMap<usize, Reference> = HashMap::new();
    for log in logs {
        let mut check =
            Check { table, log, seen: Vec::new(), positions: HashMap::new(), violations: Vec::new() };
        check.deliveries();
        if log.whole {
            check.lost();
        }
        check.order();
        match references.get(&log.server) {
            Some(reference) => check.agreement(reference),
            None => {
                references.insert(log.server, Reference::new(table, log));
            }
        }
        if let Some(reason) = &log.ended {
            check.note(Kind::Ended, (MARKER, 0), None, reason.clone());
        }
        violations.append(&mut check.violations);
    }
    violations
}

/// How one connection of a server saw each stream.
struct Reference {
    streams: HashMap<u16, Vec<usize>>,
    /// Each row's place in its stream.
    ranks: HashMap<usize, usize>,
}

impl Reference {
    fn new(table: &Table, log: &Log) -> Self {
        let mut streams: HashMap<u16, Vec<usize>> = HashMap::new();
        let mut ranks = HashMap::new();
        for delivery in &log.deliveries {
            let Some(place) = table.find((delivery.writer, delivery.number)) else { continue };
            let stream = streams.entry(delivery.stream).or_default();
            ranks.entry(place).or_insert_with(|| {
                stream.push(place);
                stream.len() - 1
            });
        }
        Self { streams, ranks }
    }
}

struct Check<'a> {
    table: &'a Table,
    log: &'a Log,
    /// Places of the rows in the table, in the order in which they came first,
    seen: Vec<usize>,
    /// and where in this each is.
    positions: HashMap<usize, usize>,
    violations: Vec<Violation>,
}

impl Check<'_> {
    fn note(&mut self, kind: Kind, message: Name, other: Option<Name>, detail: impl Into<String>) {
        let log = self.log.name.clone();
        self.violations.push(Violation { kind, log, message, other, detail: detail.into() });
    }

    /// Each delivery by itself.
    fn deliveries(&mut self) {
        let mut marked = vec![false; STREAMS as usize];
        for (position, delivery) in self.log.deliveries.iter().enumerate() {
            let Delivery { writer, number, stream, .. } = *delivery;
            let name = (writer, number);
            let marked = &mut marked[stream as usize];
            if writer == MARKER {
                if *marked || number != u32::from(stream) {
                    self.note(Kind::Doubled, name, None, "the stream's last message");
                }
                *marked = true;
                continue;
            }
            if *marked {
                self.note(Kind::Reordered, name, None, "after the stream's last message");
            }
            let Some(place) = self.table.find(name) else {
                self.note(Kind::Phantom, name, None, "not in the table under this prefix");
                continue;
            };
            if self.table.rows[place].stream != stream {
                self.note(Kind::Phantom, name, None, format!("as one of stream {}", stream_name(stream)));
            } else if self.positions.contains_key(&place) {
                self.note(Kind::Doubled, name, None, format!("at position {position} again"));
            } else {
                self.positions.insert(place, self.seen.len());
                self.seen.push(place);
            }
        }
        for stream in (0..STREAMS).filter(|stream| self.log.whole && self.log.confirmed.contains_key(stream))
        {
            if !marked[stream as usize] {
                self.note(Kind::Lost, (MARKER, stream.into()), None, "the stream's last message");
            }
        }
    }

    fn lost(&mut self) {
        for (place, row) in self.table.rows.iter().enumerate() {
            if !self.positions.contains_key(&place) && self.log.confirmed.contains_key(&row.stream) {
                self.note(Kind::Lost, row.name(), None, "never delivered");
            }
        }
    }

    fn order(&mut self) {
        let table = self.table;
        // The last one of each writer, in the order in which it wrote them.
        let mut last: HashMap<u16, &Row> = HashMap::new();
        for (position, place) in self.seen.clone().into_iter().enumerate() {
            let row = &table.rows[place];
            match last.get(&row.writer) {
                Some(other) if (row.transaction, row.id) < (other.transaction, other.id) => {
                    self.note(
                        Kind::Reordered,
                        row.name(),
                        Some(other.name()),
                        "its writer wrote the other later",
                    );
                }
                _ => {
                    last.insert(row.writer, row);
                }
            }
            let after = row.after.and_then(|after| table.find(after));
            let came = after.and_then(|after| self.positions.get(&after));
            if came.is_some_and(|came| *came > position) {
                self.note(Kind::Reordered, row.name(), row.after, "its writer had seen the other");
            }
        }
    }

    /// Against another connection of the same server, that had all streams from the beginning.
    fn agreement(&mut self, reference: &Reference) {
        let mut last: HashMap<u16, usize> = HashMap::new();
        for place in self.seen.clone() {
            let row = &self.table.rows[place];
            // What that one lost is told of that one.
            let Some(rank) = reference.ranks.get(&place).copied() else { continue };
            let order = &reference.streams[&row.stream];
            let name = |rank: usize| self.table.rows[order[rank]].name();
            match last.get(&row.stream).copied() {
                Some(before) if rank < before => {
                    let other = name(before);
                    self.note(Kind::Disagreement, row.name(), Some(other), "the other came first here");
                    continue;
                }
                Some(before) if !self.log.whole => {
                    for missed in before + 1..rank {
                        let missed = name(missed);
                        self.note(Kind::Lost, missed, Some(row.name()), "it lies between two that came");
                    }
                }
                Some(_) => {}
                None => self.since_confirm(order, rank),
            }
            last.insert(row.stream, rank);
        }
    }

    /// Whether a visit missed something at its beginning, before the message of this rank in its
    /// stream's order.
    fn since_confirm(&mut self, order: &[usize], rank: usize) {
        for place in order[..rank].iter().rev().take(LOOK_BACK) {
            let row = &self.table.rows[*place];
            let confirmed = self.log.confirmed.get(&row.stream).copied().flatten();
            if !self.log.whole && confirmed.is_some_and(|confirmed| row.committing > confirmed) {
                let detail = format!("confirmed at {} ms", confirmed.unwrap_or_default());
                self.note(Kind::Lost, row.name(), None, detail);
            }
        }
    }
}

/// So far before a visit's first message is looked for one that it should have got.
const LOOK_BACK: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows on stream 0 by (id, writer, number, transaction).
    fn table(rows: &[(i64, u16, u32, u32)]) -> Table {
        let row = |(id, writer, number, transaction)| Row {
            id,
            stream: 0,
            writer,
            number,
            transaction,
            after: None,
            committing: 100,
        };
        Table::new(rows.iter().copied().map(row).collect())
    }

    fn log(name: &str, seen: &[Name]) -> Log {
        let delivery = |(writer, number)| Delivery { writer, number, stream: 0, at: 0 };
        Log {
            server: 0,
            name: name.into(),
            whole: true,
            confirmed: HashMap::from([(0, Some(0))]),
            deliveries: seen.iter().copied().chain([(MARKER, 0)]).map(delivery).collect(),
            ended: None,
        }
    }

    fn found(table: &Table, logs: &[Log]) -> Vec<(Kind, Name)> {
        check(table, logs).iter().map(|violation| (violation.kind, violation.message)).collect()
    }

    const ROWS: [(i64, u16, u32, u32); 3] = [(1, 1, 0, 0), (2, 2, 0, 0), (3, 1, 1, 1)];

    #[test]
    fn a_late_message_of_another_writer_is_no_violation() {
        let logs = [log("a", &[(1, 0), (1, 1), (2, 0)]), log("b", &[(1, 0), (1, 1), (2, 0)])];
        assert_eq!(found(&table(&ROWS), &logs), []);
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        let table = table(&ROWS);
        let seen = |seen: &[Name]| found(&table, &[log("a", seen)]);
        assert_eq!(seen(&[(1, 0), (1, 1)]), [(Kind::Lost, (2, 0))]);
        assert_eq!(seen(&[(1, 0), (2, 0), (1, 1), (2, 0)]), [(Kind::Doubled, (2, 0))]);
        assert_eq!(seen(&[(1, 1), (2, 0), (1, 0)]), [(Kind::Reordered, (1, 0))]);
        assert_eq!(seen(&[(1, 0), (2, 0), (1, 1), (2, 7)]), [(Kind::Phantom, (2, 7))]);

        let logs = [log("a", &[(1, 0), (2, 0), (1, 1)]), log("b", &[(2, 0), (1, 0), (1, 1)])];
        assert_eq!(found(&table, &logs), [(Kind::Disagreement, (1, 0))]);
        let ended = Log { ended: Some("End".into()), ..log("a", &[(1, 0), (2, 0), (1, 1)]) };
        assert_eq!(found(&table, &[ended]), [(Kind::Ended, (MARKER, 0))]);
    }

    #[test]
    fn a_message_before_the_one_that_its_writer_had_seen_is_out_of_order() {
        let mut table = table(&ROWS);
        table.rows[2].after = Some((2, 0));
        assert_eq!(found(&table, &[log("a", &[(1, 0), (1, 1), (2, 0)])]), [(Kind::Reordered, (1, 1))]);
    }

    #[test]
    fn a_message_after_the_last_one_is_out_of_order() {
        let mut log = log("a", &[(1, 0), (2, 0), (1, 1)]);
        log.deliveries.swap(2, 3);
        assert_eq!(found(&table(&ROWS), &[log]), [(Kind::Reordered, (1, 1))]);
    }

    #[test]
    fn a_visit_may_begin_late_and_end_early_but_not_leave_out() {
        let table = table(&ROWS);
        let visit = |seen: &[Name], confirmed| {
            let mut visit = log("visit", seen);
            (visit.whole, visit.confirmed) = (false, HashMap::from([(0, Some(confirmed))]));
            found(&table, &[log("a", &[(1, 0), (2, 0), (1, 1)]), visit])
        };
        assert_eq!(visit(&[(2, 0)], 200), []);
        assert_eq!(visit(&[(2, 0)], 50), [(Kind::Lost, (1, 0))]);
        assert_eq!(visit(&[(1, 0), (1, 1)], 50), [(Kind::Lost, (2, 0))]);
    }
}
