use std::fmt;

use super::check::{Kind, Table, Violation};
use super::{Name, Time};

/// What one writer did in one transaction.
#[derive(Debug)]
pub struct Transaction {
    pub number: u32,
    pub style: String,
    pub backend: Option<i32>,
    /// What the writer had seen delivered before it began.
    pub after: Option<Name>,
    pub began: Time,
    /// When its commit was sent, or the statement that commits by itself.
    pub committing: Option<Time>,
    pub ended: Time,
    /// The numbers of its messages, from `first` to before `end`,
    pub first: u32,
    pub end: u32,
    /// but not these, which were rolled back to a savepoint or are another prefix's.
    pub left_out: Vec<u32>,
    pub outcome: Outcome,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    /// The connection was lost before the answer: the table tells.
    Unknown,
}

/// What all writers did, by their numbers.
pub struct Journal(Vec<Vec<Transaction>>);

impl Journal {
    pub fn new(writers: Vec<Vec<Transaction>>) -> Self {
        Self(writers)
    }

    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.0.iter().flatten()
    }

    /// The transaction that a message was written in.
    pub fn of(&self, (writer, number): Name) -> Option<&Transaction> {
        let transactions = self.0.get(writer as usize)?;
        let place = transactions.partition_point(|transaction| transaction.end <= number);
        transactions.get(place).filter(|transaction| transaction.first <= number)
    }

    /// Whether the table holds what the writers were told. If not, the database has lost something
    /// that it had promised, or this harness is wrong.
    pub fn compare(&self, table: &Table) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (writer, transactions) in self.0.iter().enumerate() {
            for transaction in transactions {
                let name = |number| (writer as u16, number);
                let numbers = transaction.first..transaction.end;
                let expected = numbers.clone().filter(|number| !transaction.left_out.contains(number));
                let (there, missing): (Vec<u32>, Vec<u32>) =
                    expected.partition(|number| table.find(name(*number)).is_some());
                let wrong = match transaction.outcome {
                    Outcome::Committed => missing.first(),
                    Outcome::RolledBack => there.first(),
                    Outcome::Unknown if there.is_empty() => None,
                    Outcome::Unknown => missing.first(),
                };
                let left_out = transaction.left_out.iter().find(|n| table.find(name(**n)).is_some());
                if let Some(number) = wrong.or(left_out) {
                    let detail = format!("{} of its rows are there, {} are not", there.len(), missing.len());
                    violations.push(Violation::new(Kind::Table, "", name(*number), detail));
                }
            }
        }
        violations
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, style, began, ended, outcome, first, end, .. } = self;
        write!(f, "transaction {number} ({style}), numbers {first}..{end}, {began} to {ended} ms")?;
        if let Some(committing) = self.committing {
            write!(f, ", commit sent at {committing}")?;
        }
        write!(f, ": {outcome:?}")?;
        if let Some(backend) = self.backend {
            write!(f, ", process {backend}")?;
        }
        if let Some((writer, number)) = self.after {
            write!(f, ", after {writer}/{number}")?;
        }
        match &self.error {
            Some(error) => write!(f, ", {error}"),
            None => Ok(()),
        }
    }
}
