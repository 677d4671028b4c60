//! Random histories of a table, its writers and one tail, in simulated time.
//!
//! Each seed is a world of its own: sessions that write as people's programs do, now and
//! then a crash of the database, a tail whose ticks take their snapshot, their list and
//! their answer at different moments. After it, all that was committed must have been
//! released once, in order. A seed that fails is named; `World::new(seed, …).check()` runs it
//! alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::*;

/// More by hand: `SEEDS=100000 cargo test --release --lib gaps`.
fn seeds() -> u64 {
    std::env::var("SEEDS").map_or(1000, |text| text.parse().expect("SEEDS is a number"))
}

const MS: u64 = 1000;
const SECOND: u64 = 1000 * MS;
/// Writers begin no transaction after this; microseconds, like all times here.
const WRITING: u64 = 20 * SECOND;
/// By then the longest has ended and its gaps must be gone.
const END: u64 = 100 * SECOND;

#[test]
fn every_committed_row_is_released_once_and_in_order() {
    for seed in 0..seeds() {
        World::new(seed, Scene::POSTGRES, Rules::ALL).check();
    }
}

#[test]
fn the_same_holds_for_innodb() {
    for seed in 0..seeds() {
        World::new(seed, Scene::INNODB, Rules::ALL).check();
    }
}

#[test]
fn a_sequence_with_a_cache_loses_rows() {
    loses_rows(Scene { cache: 10, ..Scene::POSTGRES }, Rules::ALL);
}

#[test]
fn dropping_the_lock_fence_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { lock_fence: false, ..Rules::ALL });
}

#[test]
fn dropping_the_xid_fence_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { xid_fence: false, ..Rules::ALL });
}

#[test]
fn giving_up_young_gaps_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { min_age: false, ..Rules::ALL });
}

#[test]
fn deciding_by_the_first_fence_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { second_fence: false, ..Rules::ALL });
}

#[test]
fn giving_up_without_a_later_probe_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { later_probe: false, ..Rules::ALL });
}

#[test]
fn releasing_gaps_after_new_rows_breaks_order() {
    breaks_order(Scene::POSTGRES, Rules { gaps_first: false, ..Rules::ALL });
}

#[test]
fn keeping_a_tick_that_asked_too_little_breaks_order() {
    breaks_order(Scene::POSTGRES, Rules { throw_away: false, ..Rules::ALL });
}

#[test]
fn counting_transactions_as_running_until_they_unlock_breaks_order() {
    breaks_order(Scene { until_unlock: true, ..Scene::POSTGRES }, Rules::ALL);
}

#[test]
fn keeping_fences_across_a_crash_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { fences_anew: false, ..Rules::ALL });
}

#[test]
fn letting_high_pass_the_sequence_loses_rows() {
    loses_rows(Scene::POSTGRES, Rules { bounded_high: false, ..Rules::ALL });
}

#[test]
fn trusting_the_first_list_of_innodb_breaks_order() {
    breaks_order(Scene::INNODB, Rules { settle: false, ..Rules::ALL });
}

fn loses_rows(scene: Scene, rules: Rules) {
    goes_wrong(scene, rules, |fault| matches!(fault, Fault::Lost(_)));
}

fn breaks_order(scene: Scene, rules: Rules) {
    goes_wrong(scene, rules, |fault| matches!(fault, Fault::Reordered(..)));
}

/// Some seed shows what the rule is for.
fn goes_wrong(scene: Scene, rules: Rules, expected: impl Fn(&Fault) -> bool) {
    let fails = |seed: &u64| World::new(*seed, scene, rules).run().is_err_and(|fault| expected(&fault));
    let seed = (0..seeds()).find(fails).expect("some seed shows what this rule is for");
    println!("shown by seed {seed}");
}

/// What kind of database.
#[derive(Clone, Copy)]
struct Scene {
    evidence: Evidence,
    cache: i64,
    /// Who has ended by the snapshot counts as running until it unlocks.
    until_unlock: bool,
}

impl Scene {
    const POSTGRES: Self = Self { evidence: Evidence::Locks, cache: 1, until_unlock: false };
    const INNODB: Self = Self { evidence: Evidence::OpenTransactions, ..Self::POSTGRES };
}

/// What a tail may do wrong.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Lost(i64),
    Twice(i64),
    NeverCommitted(i64),
    /// The first was released before the second, from which it may follow.
    Reordered(i64, i64),
    NotDrained(usize),
}

/// A moment in the order of all events; no two are equal.
type Moment = u64;

struct Row {
    id: i64,
    /// Its transaction locked the table before it drew the id, so its order is promised.
    orderly: bool,
    transaction: u64,
    drawn: Moment,
    committed: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
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
    Rollback,
}

#[derive(Default)]
struct Session {
    /// What is to be done, the next last, and how long to wait before.
    script: Vec<(u64, Step)>,
    due: u64,
    transaction: u64,
    name: Option<Transaction>,
    orderly: bool,
    locked: bool,
    prepared: bool,
    xids: Vec<u64>,
    /// Each xid is locked by its transaction, until that unlocks.
    locked_xids: Vec<u64>,
    drawn: Vec<(i64, Moment)>,
    rows: Vec<usize>,
    /// Rows, xids and lock at the savepoint.
    savepoint: Option<(usize, usize, bool)>,
    cached: Vec<i64>,
}

/// Where the tail's tick is.
enum Phase {
    Idle,
    Begun(Request, bool),
    Read {
        began: u64,
        found: Vec<i64>,
        new: Vec<i64>,
        full: bool,
        snapshot: Snapshot,
        in_progress: Vec<u64>,
        lists: bool,
    },
    Listed {
        began: u64,
        found: Vec<i64>,
        new: Vec<i64>,
        full: bool,
        facts: Option<Facts>,
        last_value: i64,
    },
}

struct World {
    seed: u64,
    random: Random,
    scene: Scene,
    now: u64,
    moment: Moment,
    epoch: Instant,

    sessions: Vec<Session>,
    rows: Vec<Row>,
    table: BTreeMap<i64, usize>,
    last_value: i64,
    next_xid: u64,
    newest_ended_xid: u64,
    xids: BTreeSet<u64>,
    next_name: u64,
    transactions: u64,
    crashes: Vec<u64>,

    rules: Rules,
    gaps: Option<Gaps>,
    phase: Phase,
    page: usize,
    tick_due: u64,
    began: u64,
    next_list: u64,
    released: Vec<i64>,
    at_start: BTreeSet<i64>,
}

impl World {
    fn new(seed: u64, scene: Scene, rules: Rules) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED);
        let sessions = (0..random.within(2, 9)).map(|_| Session::default()).collect();
        let crashes = if random.one_in(3) { vec![random.within(2 * SECOND, WRITING)] } else { Vec::new() };
        Self {
            seed,
            scene,
            now: 0,
            moment: 0,
            epoch: Instant::now(),
            sessions,
            rows: Vec::new(),
            table: BTreeMap::new(),
            last_value: 0,
            next_xid: 1000,
            newest_ended_xid: 999,
            xids: BTreeSet::new(),
            next_name: 1,
            transactions: 0,
            crashes,
            rules,
            gaps: None,
            phase: Phase::Idle,
            page: [3, 10, 100, 1000][random.below(4) as usize],
            tick_due: random.below(5 * SECOND),
            began: 0,
            next_list: 0,
            released: Vec::new(),
            at_start: BTreeSet::new(),
            random,
        }
    }

    fn check(self) {
        let seed = self.seed;
        if let Err(fault) = self.run() {
            panic!("seed {seed}: {fault:?}");
        }
    }

    fn run(mut self) -> Result<(), Fault> {
        let mut foreign_due = 0;
        loop {
            let (session, due) = self
                .sessions
                .iter()
                .map(|session| session.due)
                .enumerate()
                .min_by_key(|(_, due)| *due)
                .expect("there are sessions");
            let crash = self.crashes.first().copied().unwrap_or(u64::MAX);
            self.now = due.min(self.tick_due).min(crash).min(foreign_due);
            self.moment += 1;
            if self.now > END {
                break;
            } else if self.now == crash {
                self.crashes.clear();
                self.crash();
            } else if self.now == foreign_due {
                // Somebody writes to another table.
                self.newest_ended_xid = self.next_xid;
                self.next_xid += 1;
                foreign_due += 200 * MS;
            } else if self.now == self.tick_due {
                self.tick()?;
            } else {
                self.step(session);
            }
        }
        self.judge()
    }
}

/// The writers.
impl World {
    fn step(&mut self, at: usize) {
        let Some((_, step)) = self.sessions[at].script.pop() else {
            self.begin(at);
            return;
        };
        self.take(at, step);
        let session = &mut self.sessions[at];
        session.due = match session.script.last() {
            Some((wait, _)) => self.now + wait,
            None => self.now + self.random.pause(),
        };
    }

    fn begin(&mut self, at: usize) {
        if self.now > WRITING {
            self.sessions[at].due = u64::MAX;
            return;
        }
        let (script, orderly) = self.script();
        self.transactions += 1;
        let session = &mut self.sessions[at];
        session.transaction = self.transactions;
        session.orderly = orderly;
        session.script = script.into_iter().rev().collect();
        session.due = self.now + session.script.last().map_or(0, |(wait, _)| *wait);
    }

    /// A transaction as programs write them, and whether its order is promised.
    fn script(&mut self) -> (Vec<(u64, Step)>, bool) {
        use Step::*;
        let r = &mut self.random;
        let short = 2 * MS;
        let mut steps = Vec::new();
        let mut orderly = true;
        let mut end = if r.one_in(6) { Rollback } else { Commit };
        let insert = |r: &mut Random, steps: &mut Vec<_>| {
            for step in [Lock, Draw, Write, Put] {
                steps.push((r.below(short), step));
            }
        };
        let mut wait = r.below(short);
        match r.below(24) {
            // One statement.
            0..=8 => insert(r, &mut steps),
            // Some, at once or over seconds.
            9..=12 => {
                let pause = if r.one_in(3) { 4 * SECOND } else { 20 * MS };
                for _ in 0..r.within(2, 6) {
                    insert(r, &mut steps);
                    steps.last_mut().expect("it was just pushed").0 += r.below(pause);
                }
            }
            // A savepoint that is rolled back takes its lock along.
            13..=14 => {
                if r.one_in(2) {
                    insert(r, &mut steps);
                }
                steps.push((r.below(short), Savepoint));
                insert(r, &mut steps);
                steps.push((r.below(300 * MS), RollbackToSavepoint));
                for _ in 0..r.below(3) {
                    insert(r, &mut steps);
                }
            }
            // COPY.
            15 => {
                steps.extend([(0, Lock), (0, Draw), (0, Write), (0, Put)]);
                for _ in 0..r.within(5, 40) {
                    steps.extend([(r.below(short), Draw), (0, Put)]);
                }
                wait = r.below(2 * SECOND);
            }
            // Where InnoDB lists late: some threads wait for a processor.
            16..=17 | 21..=23 if self.scene.evidence == Evidence::OpenTransactions => {
                steps.extend([(0, Lock), (0, Draw), (r.below(80 * MS), Write), (0, Put)]);
                if r.one_in(2) {
                    steps.push((r.below(4 * SECOND), Lock));
                    insert(r, &mut steps);
                }
                wait = if r.one_in(2) { r.below(10 * SECOND) } else { 0 };
            }
            // A slow trigger: an id, a lock, and no xid for long.
            16..=17 => {
                steps.extend([(0, Lock), (0, Draw), (r.below(12 * SECOND), Write), (0, Put)]);
                if r.one_in(2) {
                    insert(r, &mut steps);
                }
                if r.one_in(3) {
                    steps.push((r.below(short), Prepare));
                    wait = r.below(15 * SECOND);
                }
            }
            // Long.
            18 => {
                insert(r, &mut steps);
                wait = r.below(20 * SECOND);
                if r.one_in(2) {
                    steps.push((wait / 2, Lock));
                    insert(r, &mut steps);
                }
            }
            // Two phases.
            19..=20 => {
                insert(r, &mut steps);
                steps.push((r.below(short), Prepare));
                wait = r.below(15 * SECOND);
            }
            // An id drawn by a SELECT, in a transaction that had written elsewhere.
            21 => {
                orderly = false;
                steps.extend([(0, Write), (0, Draw), (r.below(12 * SECOND), Lock), (0, Put)]);
            }
            // An id drawn by a SELECT, used within three seconds.
            22 => {
                orderly = false;
                steps.extend([(0, Draw), (r.below(3 * SECOND), Lock), (0, Write), (0, Put)]);
                if r.one_in(2) {
                    wait = r.below(15 * SECOND);
                }
            }
            // An explicit id, far away.
            23 => {
                orderly = false;
                steps.extend([(0, Lock), (0, Write), (0, PutFar)]);
                end = Commit;
            }
            _ => insert(r, &mut steps),
        }
        steps.push((wait, end));
        (steps, orderly)
    }

    fn take(&mut self, at: usize, step: Step) {
        let cache = self.scene.cache;
        let moment = self.moment;
        let session = &mut self.sessions[at];
        match step {
            Step::Lock => {
                session.locked = true;
                session.name.get_or_insert_with(|| name(&mut self.next_name, at));
            }
            Step::Draw => {
                if session.cached.is_empty() {
                    session.cached = (self.last_value + 1..=self.last_value + cache).rev().collect();
                    self.last_value += cache;
                }
                session.drawn.push((session.cached.pop().expect("it was just filled"), moment));
            }
            Step::Write => {
                session.name.get_or_insert_with(|| name(&mut self.next_name, at));
                let nested = session.savepoint.is_some_and(|(_, xids, _)| xids == session.xids.len());
                if session.xids.is_empty() || nested {
                    session.xids.push(self.next_xid);
                    session.locked_xids.push(self.next_xid);
                    self.xids.insert(self.next_xid);
                    self.next_xid += 1;
                }
            }
            Step::Put => {
                for (id, drawn) in session.drawn.drain(..) {
                    let Session { orderly, transaction, .. } = *session;
                    session.rows.push(self.rows.len());
                    self.rows.push(Row { id, orderly, transaction, drawn, committed: None });
                }
            }
            Step::PutFar => {
                let id = 9_000_000_000_000_000_000 + self.random.below(1_000_000) as i64;
                let transaction = session.transaction;
                if !self.rows.iter().any(|row| row.id == id) {
                    session.rows.push(self.rows.len());
                    self.rows.push(Row { id, orderly: false, transaction, drawn: moment, committed: None });
                }
            }
            Step::Savepoint => {
                session.savepoint = Some((session.rows.len(), session.xids.len(), session.locked));
            }
            Step::RollbackToSavepoint => {
                let (rows, xids, locked) = session.savepoint.take().expect("it was set");
                session.rows.truncate(rows);
                session.locked = locked;
                session.locked_xids.truncate(xids);
                for xid in session.xids.split_off(xids) {
                    self.xids.remove(&xid);
                    self.newest_ended_xid = self.newest_ended_xid.max(xid);
                }
            }
            Step::Prepare => session.prepared = true,
            Step::Commit => {
                // Visible now; the lock goes in an event of its own, a little later.
                for &row in &session.rows {
                    self.rows[row].committed = Some(moment);
                    self.table.insert(self.rows[row].id, row);
                }
                self.end_xids(at);
                let linger = if self.random.one_in(4) { self.random.below(5 * MS) } else { 0 };
                self.sessions[at].rows.clear();
                self.sessions[at].script.push((linger, Step::Rollback));
            }
            Step::Rollback => {
                self.end_xids(at);
                let session = &mut self.sessions[at];
                let cached = std::mem::take(&mut session.cached);
                *session = Session { cached, ..Session::default() };
            }
        }
    }

    fn end_xids(&mut self, at: usize) {
        for xid in std::mem::take(&mut self.sessions[at].xids) {
            self.xids.remove(&xid);
            self.newest_ended_xid = self.newest_ended_xid.max(xid);
        }
    }

    /// What isn't prepared is rolled back, what is gets a new name, names begin anew, and
    /// the sequence goes on a little higher.
    fn crash(&mut self) {
        self.next_name = 1;
        for at in 0..self.sessions.len() {
            let top_xid = self.sessions[at].xids.first().copied();
            if let Some(xid) = top_xid.filter(|_| self.sessions[at].prepared) {
                self.sessions[at].name = Some(Transaction(u64::MAX - xid));
            } else {
                self.end_xids(at);
                self.sessions[at] = Session { due: self.now + self.random.pause(), ..Session::default() };
            }
        }
        self.last_value += self.random.below(33) as i64;
        self.phase = Phase::Idle;
        self.tick_due = self.now + self.random.below(300 * MS) + 1;
        if let Some(gaps) = &mut self.gaps {
            gaps.reconnected();
        }
    }
}

fn name(next: &mut u64, at: usize) -> Transaction {
    *next += 1;
    Transaction(((at as u64) << 32) + *next)
}

/// The tail.
impl World {
    fn tick(&mut self) -> Result<(), Fault> {
        let Some(gaps) = &mut self.gaps else {
            self.start();
            return Ok(());
        };
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {
                let now = self.epoch + Duration::from_micros(self.now);
                let lists = match self.scene.evidence {
                    Evidence::Locks => gaps.wants_list(now),
                    _ => self.now >= self.next_list,
                };
                if lists {
                    self.next_list = self.now + if self.seed.is_multiple_of(2) { 20 * MS } else { 150 * MS };
                }
                self.began = self.now;
                self.phase = Phase::Begun(gaps.request(lists), lists);
                self.tick_due += 1 + self.random.below(MS);
            }
            Phase::Begun(request, lists) => {
                let ranges =
                    request.probes.iter().flat_map(|range| self.table.range(range.first..=range.last));
                let found: Vec<_> = ranges.map(|(id, _)| *id).take(self.page).collect();
                let rest = self.page - found.len();
                let new: Vec<_> = self
                    .table
                    .range(request.above + 1..)
                    .map(|(id, _)| *id)
                    .filter(|id| request.except.binary_search(id).is_err())
                    .take(rest)
                    .collect();
                let full = found.len() + new.len() == self.page;
                let xmax = self.newest_ended_xid + 1;
                let xmin = self.xids.first().map_or(xmax, |xid| xmax.min(*xid));
                let snapshot = Snapshot { xmin, xmax };
                let in_progress = self.xids.iter().copied().collect();
                self.phase =
                    Phase::Read { began: self.began, found, new, full, snapshot, in_progress, lists };
                let slow = self.random.one_in(5);
                self.tick_due += 1 + self.random.below(if slow { 100 * MS } else { MS / 2 });
            }
            Phase::Read { began, found, new, full, snapshot, in_progress, lists } => {
                let locks = self.scene.evidence == Evidence::Locks;
                let has_ended = |xid: &u64| *xid < snapshot.xmax && in_progress.binary_search(xid).is_err();
                let ended = |s: &Session| !s.locked_xids.is_empty() && s.locked_xids.iter().all(has_ended);
                let listed = |s: &&Session| match locks {
                    true => s.locked && (self.scene.until_unlock || !ended(s)),
                    false => !s.xids.is_empty(),
                };
                let running = self.sessions.iter().filter(listed).filter_map(|s| s.name).collect();
                let facts = Facts { snapshot: locks.then_some(snapshot), running };
                let facts = lists.then_some(facts);
                let last_value = if locks { self.last_value } else { i64::MAX };
                self.phase = Phase::Listed { began, found, new, full, facts, last_value };
                self.tick_due += 1 + self.random.below(MS / 2);
            }
            Phase::Listed { began, found, new, full, facts, last_value } => {
                let tick = Tick {
                    began: self.epoch + Duration::from_micros(began),
                    ended: self.epoch + Duration::from_micros(self.now),
                    found: &found,
                    new: &new,
                    full,
                    last_value,
                    facts,
                };
                let release = gaps.observe(&tick);
                if self.rules.gaps_first {
                    let is_late = |id| found.binary_search(id).is_ok();
                    assert!(release.ids[..release.late].iter().all(is_late));
                    assert!(!release.ids[release.late..].iter().any(is_late));
                }
                self.released.extend(release.ids);
                let sleep = if release.again { 0 } else { self.random.within(5 * MS, 60 * MS) };
                self.tick_due += 1 + sleep;
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        self.at_start = self.table.keys().copied().collect();
        let mut high = 0;
        let mut holes = Vec::new();
        for &id in self.table.keys().filter(|id| **id <= self.last_value) {
            if id > high + 1 {
                holes.push(IdRange { first: high + 1, last: id - 1 });
            }
            high = id;
        }
        let now = self.epoch + Duration::from_micros(self.now);
        let strays = self.table.range(self.last_value + 1..).map(|(id, _)| *id).collect();
        let mut gaps = Gaps::new(self.scene.evidence, Start { high, holes, strays }, now);
        gaps.rules = self.rules;
        if !self.seed.is_multiple_of(2) {
            // Few gaps, treated as if they were many.
            gaps.rules.free_ranges = 0;
            gaps.rules.probes_at_a_time = 1;
        }
        self.gaps = Some(gaps);
        self.tick_due += 1;
    }

    fn judge(self) -> Result<(), Fault> {
        let mut position: HashMap<i64, usize> = self.at_start.iter().map(|id| (*id, 0)).collect();
        for (at, id) in self.released.iter().enumerate() {
            if position.insert(*id, at + 1).is_some() {
                return Err(Fault::Twice(*id));
            }
            if !self.table.contains_key(id) {
                return Err(Fault::NeverCommitted(*id));
            }
        }
        if let Some(lost) = self.table.keys().find(|id| !position.contains_key(id)) {
            return Err(Fault::Lost(*lost));
        }

        // With each commit the place by which all committed so far were released, and whose it is.
        let mut committed: Vec<_> = self.table.values().map(|row| &self.rows[*row]).collect();
        committed.sort_by_key(|row| (row.committed, row.id));
        let mut latest: Vec<(Option<Moment>, usize, i64)> = Vec::with_capacity(committed.len());
        let mut own: HashMap<u64, (i64, usize)> = HashMap::new();
        for row in committed.iter().filter(|row| row.orderly) {
            let at = position[&row.id];
            let (_, last, id) = latest.last().copied().unwrap_or((None, 0, 0));
            latest.push(if at > last { (row.committed, at, row.id) } else { (row.committed, last, id) });
            if let Some((id, before)) = own.insert(row.transaction, (row.id, at))
                && at < before
            {
                return Err(Fault::Reordered(row.id, id));
            }
        }
        for row in &committed {
            let before = latest.partition_point(|(moment, ..)| *moment < Some(row.drawn));
            let Some(&(_, last, id)) = latest[..before].last() else { continue };
            // What was there at the start has the place 0.
            if (1..last).contains(&position[&row.id]) {
                return Err(Fault::Reordered(row.id, id));
            }
        }
        let gaps = self.gaps.expect("the tail has started");
        match gaps.open_ranges() {
            0 => Ok(()),
            open => Err(Fault::NotDrained(open)),
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Between two transactions.
    fn pause(&mut self) -> u64 {
        if self.one_in(4) { self.below(SECOND) } else { self.below(50 * MS) }
    }
}
