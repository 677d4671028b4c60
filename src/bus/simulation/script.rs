use super::random::Random;
use super::stage::{MS, SECOND, Time};
use crate::bus::gaps::Evidence;

/// A transaction as programs write them.
pub struct Script {
    /// What is to be done, and how long to wait before.
    pub steps: Vec<(Time, Step)>,
    /// It locks the table before it draws ids.
    pub orderly: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Lock,
    Draw,
    /// The first write of the transaction: it gets its xid. InnoDB lists it from here on.
    Write,
    /// The ids that were drawn become rows.
    Put,
    /// A row with an id that no sequence gave out.
    PutFar,
    Savepoint,
    RollbackToSavepoint,
    Prepare,
    Commit,
    /// Also what comes a little after each commit: the transaction unlocks.
    Rollback,
}

use Step::*;

const SHORT: Time = 2 * MS;

impl Script {
    pub fn any(evidence: Evidence, random: &mut Random) -> Self {
        match evidence {
            Evidence::Order => Self::of_one_writer(random),
            Evidence::OpenTransactions => Self::of_innodb(random),
            Evidence::Locks | Evidence::Age => Self::of_postgres(random),
        }
    }

    /// Who waits for the write lock waits for all of it.
    fn of_one_writer(random: &mut Random) -> Self {
        let mut script = Self::new();
        for _ in 0..random.any_of(&[1, 1, 2]) {
            script.insert(random);
        }
        let wait = random.below(20 * MS);
        script.end(wait, random)
    }

    /// It lists a transaction late: some threads wait for a processor.
    fn of_innodb(random: &mut Random) -> Self {
        if !random.one_in(5) {
            return Self::of_all(random);
        }
        let mut script = Self::new();
        // And a row may wait for a lock.
        let waits = if random.one_in(4) { random.below(2 * SECOND) } else { 0 };
        script.steps.extend([(0, Lock), (0, Draw), (random.below(80 * MS), Write), (waits, Put)]);
        if random.one_in(2) {
            script.steps.push((random.below(4 * SECOND), Lock));
            script.insert(random);
        }
        let wait = if random.one_in(2) { random.below(10 * SECOND) } else { 0 };
        script.end(wait, random)
    }

    fn of_postgres(random: &mut Random) -> Self {
        let mut script = Self::new();
        let mut wait = random.below(SHORT);
        match random.below(20) {
            // A slow trigger: an id, a lock, and no xid for long.
            0..=1 => {
                script.steps.extend([(0, Lock), (0, Draw), (random.below(12 * SECOND), Write), (0, Put)]);
                if random.one_in(2) {
                    script.insert(random);
                }
                if random.one_in(3) {
                    script.steps.push((random.below(SHORT), Prepare));
                    wait = random.below(15 * SECOND);
                }
            }
            // An id drawn by a SELECT, in a transaction that had written elsewhere.
            2 => {
                script.orderly = false;
                script.steps.extend([(0, Write), (0, Draw), (random.below(12 * SECOND), Lock), (0, Put)]);
            }
            // An id drawn by a SELECT, used within three seconds.
            3 => {
                script.orderly = false;
                script.steps.extend([(0, Draw), (random.below(3 * SECOND), Lock), (0, Write), (0, Put)]);
                if random.one_in(2) {
                    wait = random.below(15 * SECOND);
                }
            }
            // An explicit id, far away.
            4 => {
                script.orderly = false;
                script.steps.extend([(0, Lock), (0, Write), (0, PutFar), (wait, Commit)]);
                return script;
            }
            _ => return Self::of_all(random),
        }
        script.end(wait, random)
    }

    fn of_all(random: &mut Random) -> Self {
        let mut script = Self::new();
        let mut wait = random.below(SHORT);
        match random.below(20) {
            // Some, at once or over seconds.
            0..=3 => {
                let pause = if random.one_in(3) { 4 * SECOND } else { 20 * MS };
                for _ in 0..random.within(2, 6) {
                    script.insert(random);
                    script.steps.last_mut().expect("it was just pushed").0 += random.below(pause);
                }
            }
            // A savepoint that is rolled back takes its lock along.
            4..=5 => {
                if random.one_in(2) {
                    script.insert(random);
                }
                script.steps.push((random.below(SHORT), Savepoint));
                script.insert(random);
                script.steps.push((random.below(300 * MS), RollbackToSavepoint));
                for _ in 0..random.below(3) {
                    script.insert(random);
                }
            }
            // COPY.
            6 => {
                script.steps.extend([(0, Lock), (0, Draw), (0, Write), (0, Put)]);
                for _ in 0..random.within(5, 40) {
                    script.steps.extend([(random.below(SHORT), Draw), (0, Put)]);
                }
                wait = random.below(2 * SECOND);
            }
            // Long.
            7 => {
                script.insert(random);
                wait = random.below(20 * SECOND);
                if random.one_in(2) {
                    script.steps.push((wait / 2, Lock));
                    script.insert(random);
                }
            }
            // Two phases.
            8..=9 => {
                script.insert(random);
                script.steps.push((random.below(SHORT), Prepare));
                wait = random.below(15 * SECOND);
            }
            // One statement.
            _ => script.insert(random),
        }
        script.end(wait, random)
    }

    fn new() -> Self {
        Self { steps: Vec::new(), orderly: true }
    }

    fn insert(&mut self, random: &mut Random) {
        for step in [Lock, Draw, Write, Put] {
            self.steps.push((random.below(SHORT), step));
        }
    }

    fn end(mut self, wait: Time, random: &mut Random) -> Self {
        self.steps.push((wait, if random.one_in(6) { Rollback } else { Commit }));
        self
    }
}
