use std::collections::{BTreeMap, BTreeSet};

use super::check::{self, Kind, Log, Violation, counts};
use super::faults::{Fault, STOP};
use super::journal::Outcome;
use super::reader::MARKER;
use super::{Name, Recording, Stage, stream_name};

/// What there was to find, and what was found.
pub struct Report<'a> {
    pub stage: &'a Stage,
    pub recording: &'a Recording,
}

/// So many violations of a kind have their stories told.
const STORIES: usize = 3;
/// Faults so long before and after a transaction belong to its story.
const NEAR: u32 = 3000;

impl Report<'_> {
    pub fn print(&self) {
        let seconds = f64::from(self.stage.now()) / 1000.0;
        let messages = self.recording.table.rows.len();
        println!("messages          {messages} ({:.0}/s)", messages as f64 / seconds);
        let deliveries: usize = self.recording.logs.iter().map(|log| log.deliveries.len()).sum();
        let visits = self.recording.logs.iter().filter(|log| !log.whole).count();
        let whole = self.recording.logs.len() - visits;
        println!("deliveries        {deliveries} to {whole} connections and {visits} visits");
        let is = |outcome| self.recording.journal.transactions().filter(move |t| t.outcome == outcome);
        println!(
            "transactions      {} committed, {} rolled back, {} of unknown outcome",
            is(Outcome::Committed).count(),
            is(Outcome::RolledBack).count(),
            is(Outcome::Unknown).count(),
        );
        let written: u32 = self.recording.journal.transactions().map(|t| t.end - t.first).sum();
        println!("never delivered   {} messages, rolled back or foreign", written as usize - messages);
        let followers = self.recording.table.rows.iter().filter(|row| row.after.is_some()).count();
        println!("followers         {followers} messages of another that was seen");
        let late: Vec<String> = self.references().map(|log| self.late(log).to_string()).collect();
        println!("out of id order   {} deliveries, by server", late.join(" and "));
        for log in self.references() {
            let delays = self.delays(log);
            let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
            println!(
                "after its commit  p50 {} ms, p99 {} ms, at most {} ms (server {})",
                at(0.5),
                at(0.99),
                at(1.0),
                log.server
            );
        }
        let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
        for fault in &self.recording.faults {
            *faults.entry(fault.what).or_default() += 1;
        }
        println!("faults            {faults:?}");
        let mut styles: BTreeMap<&str, usize> = BTreeMap::new();
        for transaction in self.recording.journal.transactions() {
            *styles.entry(&transaction.style).or_default() += 1;
        }
        println!("styles            {styles:?}");
        if let Some(naive) = &self.recording.naive {
            self.print_naive(naive);
        }
    }

    /// The first connection of each server.
    fn references(&self) -> impl Iterator<Item = &Log> {
        let mut servers = BTreeSet::new();
        self.recording.logs.iter().filter(move |log| servers.insert(log.server))
    }

    /// Deliveries after one with a higher id.
    fn late(&self, log: &Log) -> usize {
        let mut high = 0;
        let ids = log.deliveries.iter().filter_map(|delivery| {
            let place = self.recording.table.find((delivery.writer, delivery.number))?;
            Some(self.recording.table.rows[place].id)
        });
        ids.filter(|id| {
            high = high.max(*id);
            *id < high
        })
        .count()
    }

    /// How long after its writer was told of the commit each message came, ascending.
    fn delays(&self, log: &Log) -> Vec<u32> {
        let delays = log.deliveries.iter().filter_map(|delivery| {
            let transaction = self.recording.journal.of((delivery.writer, delivery.number))?;
            let known = transaction.outcome == Outcome::Committed;
            known.then(|| delivery.at.saturating_sub(transaction.ended))
        });
        let mut delays: Vec<u32> = delays.collect();
        delays.sort_unstable();
        delays
    }

    fn print_naive(&self, naive: &Log) {
        let violations = check::check(&self.recording.table, std::slice::from_ref(naive));
        let counts = counts(&violations);
        let lost = counts.get(&Kind::Lost).copied().unwrap_or_default();
        let share = 100.0 * lost as f64 / self.recording.table.rows.len() as f64;
        println!("naive reader      {counts:?}, so {share:.2} % lost");
    }

    /// Tells the first violations of each kind.
    pub fn tell(&self, violations: &[Violation]) {
        println!("VIOLATIONS        {:?}", counts(violations));
        let mut told: BTreeMap<Kind, usize> = BTreeMap::new();
        for violation in violations {
            let told = told.entry(violation.kind).or_default();
            *told += 1;
            if *told > STORIES {
                continue;
            }
            let Violation { kind, log, message, other, detail } = violation;
            println!("\n{kind:?} in {log:?}: {detail}");
            self.tell_message(*message);
            if let Some(other) = other {
                println!("  the other:");
                self.tell_message(*other);
            }
        }
    }

    fn tell_message(&self, name @ (writer, number): Name) {
        if writer == MARKER {
            return;
        }
        println!("  message {writer}/{number}");
        match self.recording.table.find(name).map(|place| &self.recording.table.rows[place]) {
            Some(row) => println!("    row {} of {}", row.id, stream_name(row.stream)),
            None => println!("    has no row"),
        }
        if let Some(transaction) = self.recording.journal.of(name) {
            println!("    {transaction}");
            let (from, to) = (transaction.began.saturating_sub(NEAR), transaction.ended + NEAR);
            for fault in self.recording.faults.iter().filter(|fault| fault.from <= to && from <= fault.to) {
                let Fault { what, process, from, to } = fault;
                if *what != STOP || *process == transaction.backend {
                    println!("    {what}, {from} to {to} ms");
                }
            }
        }
        for log in &self.recording.logs {
            let seen = log.deliveries.iter().enumerate();
            for (position, delivery) in seen.filter(|(_, d)| (d.writer, d.number) == name) {
                println!("    {}: position {position}, at {} ms", log.name, delivery.at);
            }
        }
    }
}
