use super::database::{Database, Row, STREAMS, View};
use super::random::Random;
use super::scene::Scene;
use super::script::{Script, Step};
use super::stage::{MS, Moment, Stage, Time, WRITING, date};
use crate::bus::gaps::{Evidence, IdRange, Transaction};

/// Sessions of the database, each of which runs one transaction after the other.
pub struct Writers {
    scene: Scene,
    sessions: Vec<Session>,
    transactions: u64,
    next_name: u64,
}

#[derive(Default)]
struct Session {
    /// The next step last.
    script: Vec<(Time, Step)>,
    due: Time,
    transaction: u64,
    name: Option<Transaction>,
    orderly: bool,
    locked: bool,
    prepared: bool,
    xids: Vec<u64>,
    /// Each xid is locked by its transaction, until that unlocks.
    locked_xids: Vec<u64>,
    drawn: Vec<(i64, Moment, i64)>,
    /// Its clock is ahead by so many seconds.
    ahead: i64,
    rows: Vec<usize>,
    savepoint: Option<Savepoint>,
    cached: Vec<i64>,
}

/// What a transaction had, and how much of it.
#[derive(Clone, Copy)]
struct Savepoint {
    rows: usize,
    xids: usize,
    locked: bool,
}

impl Writers {
    pub fn new(scene: Scene, random: &mut Random) -> Self {
        let count = random.within(2, 7);
        let ahead = |_| Session { ahead: random.any_of(&[0, 0, -10, 10]), ..Session::default() };
        let sessions = (0..count).map(ahead).collect();
        Self { scene, sessions, transactions: 0, next_name: 1 }
    }

    /// Whose turn it is, and when.
    pub fn next(&self) -> (usize, Time) {
        let due = self.sessions.iter().map(|session| session.due);
        due.enumerate().min_by_key(|(_, due)| *due).expect("there are sessions")
    }

    /// Those who may yet commit what the view doesn't show, as the database lists them now.
    pub fn running(&self, view: &View) -> Vec<Transaction> {
        let ended =
            |s: &Session| !s.locked_xids.is_empty() && s.locked_xids.iter().all(|xid| view.shows_ended(*xid));
        let listed = |s: &&Session| match self.scene.evidence {
            Evidence::Locks => s.locked && (self.scene.until_unlock || !ended(s)),
            _ => !s.xids.is_empty(),
        };
        self.sessions.iter().filter(listed).filter_map(|session| session.name).collect()
    }

    /// Those that a list shows within a statement that may have drawn ids.
    pub fn writing(&self) -> Vec<Transaction> {
        let writing = |session: &&Session| !session.xids.is_empty() && !session.drawn.is_empty();
        self.sessions.iter().filter(writing).filter_map(|session| session.name).collect()
    }

    /// Whether a transaction that is open has written one of these rows.
    pub fn hold(&self, ranges: &[IdRange], database: &Database) -> bool {
        let ids = self.sessions.iter().flat_map(|session| &session.rows).map(|row| database.rows[*row].id);
        ids.into_iter().any(|id| ranges.iter().any(|range| range.contains(id)))
    }

    fn must_wait(&self, step: Step) -> bool {
        let has_one_writer = self.scene.evidence == Evidence::Order;
        has_one_writer && step == Step::Lock && self.sessions.iter().any(|session| session.locked)
    }

    fn begin(&mut self, at: usize, now: Time, random: &mut Random) {
        let session = &mut self.sessions[at];
        if now > WRITING {
            session.due = Time::MAX;
            return;
        }
        let Script { mut steps, orderly } = Script::any(self.scene.evidence, random);
        steps.reverse();
        self.transactions += 1;
        session.transaction = self.transactions;
        session.orderly = orderly;
        session.due = now + steps.last().map_or(0, |(wait, _)| *wait);
        session.script = steps;
    }

    /// What isn't prepared is rolled back, what is gets a new name, and names begin anew.
    pub fn crash(&mut self, keeps_prepared: bool, now: Time, database: &mut Database, random: &mut Random) {
        self.next_name = 1;
        for session in &mut self.sessions {
            match session.xids.first() {
                Some(xid) if session.prepared && keeps_prepared => {
                    session.name = Some(Transaction(u64::MAX - xid));
                }
                _ => {
                    session.end_xids(database);
                    let due = if session.due == Time::MAX { Time::MAX } else { now + random.pause() };
                    *session = Session { due, ahead: session.ahead, ..Session::default() };
                }
            }
        }
    }
}

impl Stage {
    /// A session's next step; says which rows it has committed.
    pub fn write(&mut self, at: usize) -> Vec<usize> {
        let Self { now, moment, random, database, writers, .. } = self;
        let Some((_, step)) = writers.sessions[at].script.pop() else {
            writers.begin(at, *now, random);
            return Vec::new();
        };
        if writers.must_wait(step) && !writers.sessions[at].locked {
            writers.sessions[at].script.push((0, step));
            writers.sessions[at].due = *now + 1 + random.below(5 * MS);
            return Vec::new();
        }
        let session = &mut writers.sessions[at];
        if matches!(step, Step::Lock | Step::Write) && session.name.is_none() {
            writers.next_name += 1;
            session.name = Some(Transaction((at as u64) << 32 | writers.next_name));
        }
        let committed = session.take(step, (*moment, date(*now)), database, random);
        session.due = match session.script.last() {
            Some((wait, _)) => *now + wait,
            None => *now + random.pause(),
        };
        committed
    }
}

impl Session {
    fn take(
        &mut self,
        step: Step,
        (moment, date): (Moment, i64),
        database: &mut Database,
        random: &mut Random,
    ) -> Vec<usize> {
        match step {
            Step::Lock => self.locked = true,
            Step::Draw => {
                if self.cached.is_empty() {
                    self.cached = database.draw();
                }
                let id = self.cached.pop().expect("it was just filled");
                self.drawn.push((id, moment, date + self.ahead));
            }
            Step::Write => {
                let nested = self.savepoint.is_some_and(|savepoint| savepoint.xids == self.xids.len());
                if self.xids.is_empty() || nested {
                    let xid = database.begin_xid();
                    self.xids.push(xid);
                    self.locked_xids.push(xid);
                }
            }
            Step::Put => {
                for (id, drawn, created) in std::mem::take(&mut self.drawn) {
                    // One prefix in five is another's.
                    let stream = Some(random.below(STREAMS + 1)).filter(|n| *n < STREAMS && self.orderly);
                    let stream = stream.map(|number| number as usize);
                    self.put(Row { id, stream, drawn, created, ..Row::default() }, database);
                }
            }
            Step::PutFar => {
                let id = 9_000_000_000_000_000_000 + random.below(1 << 40) as i64;
                self.put(Row { id, drawn: moment, created: date, ..Row::default() }, database);
            }
            Step::Savepoint => {
                let Self { rows, xids, locked, .. } = self;
                self.savepoint = Some(Savepoint { rows: rows.len(), xids: xids.len(), locked: *locked });
            }
            Step::RollbackToSavepoint => {
                let savepoint = self.savepoint.take().expect("it was set");
                self.rows.truncate(savepoint.rows);
                self.locked = savepoint.locked;
                self.locked_xids.truncate(savepoint.xids);
                for xid in self.xids.split_off(savepoint.xids) {
                    database.end_xid(xid);
                }
            }
            Step::Prepare => {
                self.prepared = true;
                database.log(&self.rows);
            }
            Step::Commit => {
                // Visible now; the lock goes in an event of its own, a little later.
                let rows = std::mem::take(&mut self.rows);
                database.commit(&rows, moment, date);
                self.end_xids(database);
                let linger = if random.one_in(4) { random.below(5 * MS) } else { 0 };
                self.script.push((linger, Step::Rollback));
                return rows;
            }
            Step::Rollback => {
                self.end_xids(database);
                database.roll_back();
                let cached = std::mem::take(&mut self.cached);
                *self = Self { cached, ahead: self.ahead, ..Self::default() };
            }
        }
        Vec::new()
    }

    fn put(&mut self, row: Row, database: &mut Database) {
        let Self { orderly, transaction, .. } = *self;
        self.rows.push(database.insert(Row { orderly, transaction, ..row }));
    }

    fn end_xids(&mut self, database: &mut Database) {
        for xid in self.xids.drain(..) {
            database.end_xid(xid);
        }
    }
}
