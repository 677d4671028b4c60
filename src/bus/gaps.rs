//! What the tail has passed and not seen: the gap tracker, without I/O.
//!
//! # Why there are gaps
//!
//! PostgreSQL, MySQL and MariaDB hand an id out before the row's transaction commits. A
//! reader that goes on from the highest id that it saw, `high`, has passed ids whose rows
//! are still to come, and others whose transactions were rolled back: from outside the
//! two look the same. Each is a *gap*, until its row is found or no transaction is left
//! that could commit it.
//!
//! # One tick
//!
//! A tick is one look at the table. [`Gaps::request`] says what to read, and
//! [`Gaps::observe`] what follows from the answer. An answer has two parts, and the whole
//! argument below rests on their order:
//!
//! - a snapshot **S**: its bounds, the rows of the gaps asked for, a page of the rows
//!   above `high`, all of one moment;
//! - the **L**ist of transactions that may yet commit a row that S does not show, and the
//!   sequence's last value, read *after* S was taken. On PostgreSQL they hold a lock on
//!   the table, and not all their xids had ended by S; on InnoDB they are open.
//!
//! On PostgreSQL one statement is enough: it takes its snapshot before it runs
//! `pg_locks`. S1 is the snapshot of tick 1, L1 its list.
//!
//! # What a writer does, in this order
//!
//! **lock** the table (RowExclusiveLock, kept until the transaction ends) → **draw** an
//! id → get an **xid** → write the **row** → **commit**, from when on new snapshots show
//! the row → **unlock**. Between draw and xid a writer may stall for as long as it likes
//! (a slow trigger, SIGSTOP). Ids are drawn in ascending order by all sessions together:
//! a sequence with CACHE above 1 breaks this, and the caller refuses it.
//!
//! # Why nothing is lost
//!
//! Let id g be passed in tick 0: S0 shows a row above g, and not g. That row was drawn
//! after g and was committed by S0, so g was drawn before S0, by a transaction T that
//! had its lock by then. Where is T when L0 is read, after S0?
//!
//! 1. It runs: then it is in L0. The gap's *fence* is what is in L0; each later list is
//!    subtracted, so T stays in the fence for as long as it runs. If it isn't in Lj any
//!    more, it had committed before Lj was read: S(j+1), taken later, shows its rows.
//! 2. It has ended between S0 and L0. S1 shows its rows.
//!
//! So a probe that was taken after the fence was seen empty, and doesn't find g, proves
//! that g never comes. This alone is enough for writers as described. Two more rules are
//! for others, whose ids were drawn by a `SELECT nextval` before their INSERT took a lock:
//!
//! - **xid fence**: all xids below S0's xmax must have ended too. It covers a transaction
//!   that had written elsewhere before it drew, once a younger xid has ended.
//! - **age and second fence**: at the age of [`MIN_AGE`] the gap gets a new fence, of that
//!   tick, which then decides. So whoever drew an id before S0 is waited for, however
//!   long it takes, if it had a lock or an xid five seconds later.
//!
//! InnoDB lists a transaction only some microseconds *after* its draw. There L0 is the
//! first list that is begun [`SETTLED`] after S0; until then the gap is asked for in each tick.
//!
//! A writer that holds an id for more than five seconds with neither lock nor xid is not
//! covered. So ids given up are looked at again for an hour, and a find is a fault.
//!
//! A gap that is probed and found leaves the gaps in the same call that releases it, and
//! what is above `high` comes once because `high` moves in that call: nothing is released
//! twice.
//!
//! # Why order holds
//!
//! Let b follow a: a later row of the same transaction, or one whose writer could see a
//! before it drew b. Then a < b, and a snapshot that shows b shows a. Let tick k release b,
//! and a not be released before. If a is above `high`, it is in the same page, in front
//! of b. Otherwise a is in a gap. If the tick asked for it, a is found, and finds go
//! first, ascending. If it did not ask: a gap is asked for until one complete probe
//! after a transaction left its fence, so T, a's transaction, was in the fence still; and
//! it had ended by Sk, so it isn't in Lk. (That is why Lk leaves out who has ended by Sk
//! and still holds its lock: rows can be seen before their transaction unlocks.) Then **the
//! tick is thrown away**, because it asked too little, and the next one asks for all gaps.
//! The price is one more statement, and only where more than [`FREE_RANGES`] gaps wait.
//!
//! For the same reason a page that ends within the gaps' rows releases no row above `high`.
//! Order is promised to writers as described; a row whose id was drawn by a SELECT, or
//! whose gap was given up, comes when it is found.
//!
//! # When a late row is released
//!
//! By the tick after the first whose list misses its transaction, or when its page comes.
//!
//! # Costs
//!
//! With G groups, R ranges asked for, N rows and H transactions in a list: `request` is
//! O(G + R), `observe` O(G + R + N + H log H), and O(G × H) where transactions ended.
//! No step and no byte is spent on a single id of a range. All that grows has a bound, but
//! for the holes of the start.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// The gaps of one tail, and how far it is.
#[derive(Debug)]
pub struct Gaps {
    evidence: Evidence,
    pub(super) rules: Rules,
    high: i64,
    /// In the order in which they were passed, which is that of their ids: a tick passes
    /// only ids above all that earlier ones passed.
    groups: VecDeque<Group>,
    /// The last list. Each fence is a part of it.
    running: Vec<Transaction>,
    xmin: Option<u64>,
    /// The last tick was thrown away because it had asked too little.
    ask_for_all: bool,
    /// Rows above the sequence's last value that were released.
    strays: BTreeSet<i64>,
    /// By their next look: who was looked at goes to the end.
    given_up: VecDeque<GivenUp>,
    second_look_at: Option<Instant>,
    listed_at: Option<Instant>,
    counts: Counts,
}

/// Ids from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub first: i64,
    pub last: i64,
}

impl IdRange {
    pub fn contains(&self, id: i64) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// A transaction as its database names it: a virtual transaction (both halves of
/// `7/5521`) on PostgreSQL, `trx_id` on InnoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transaction(pub u64);

/// What shows that a row never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// None is needed: ids are drawn under the lock that the commit gives back, so that no row
    /// comes below one that was seen, and nothing is a gap (SQLite).
    Order,
    /// Transactions that could commit it have ended. They are listed before they draw an
    /// id (PostgreSQL: by their lock on the table).
    Locks,
    /// The same, but they are listed only shortly after their first draw (InnoDB), and
    /// perhaps not in each tick. A gap is asked for in each tick until it is [`SETTLED`].
    OpenTransactions,
    /// Nothing but time ([`BLIND_AGE`]): transactions can't be listed (MySQL and MariaDB
    /// without the PROCESS privilege). All gaps are asked for in each tick.
    Age,
}

/// What one snapshot of the table showed at the start.
#[derive(Debug, Default)]
pub struct Start {
    /// The highest id up to the sequence's last value.
    pub high: i64,
    /// All that are missing below and may yet be filled, ascending, those below the first row
    /// included: whatever part were left out, positions would claim rows of it that this tail never saw. They
    /// wait for the first fences like all gaps, but aren't looked at again afterwards.
    pub holes: Vec<IdRange>,
    /// Missing too, ascending, and too many to be gaps where hardly one of them will be filled.
    /// They are given up from the first, and looked at again.
    pub unlikely: Vec<IdRange>,
    /// Ids above the sequence's last value.
    pub strays: Vec<i64>,
}

/// What the next tick should read.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Rows of these ids, ascending. The ranges ascend too, and don't overlap.
    pub probes: Vec<IdRange>,
    /// And, after them, rows with ids above this one, ascending,
    pub above: i64,
    /// but not these: they lie far above all others, and would fill each page.
    pub except: Vec<i64>,
}

/// What a tick read.
#[derive(Debug)]
pub struct Tick<'a> {
    /// Before the snapshot was taken.
    pub began: Instant,
    /// After all was read.
    pub ended: Instant,
    /// Ids of the rows found in the request's probes, ascending.
    pub found: &'a [i64],
    /// Ids of the other rows of the request, ascending. Rows of all prefixes: one left out
    /// would look like a gap.
    pub new: &'a [i64],
    /// The page was cut: after the last of `new`, or, if that is empty, of `found`.
    pub full: bool,
    /// The last id that was given out, 0 before the first. `i64::MAX` where an explicit
    /// id moves the counter along (InnoDB).
    pub last_value: i64,
    /// None if this tick didn't read them; its gaps then get their fence from a later one.
    pub facts: Option<Facts>,
}

/// What a tick says of transactions.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Bounds of the snapshot: all xids below `xmin` had ended, none from `xmax` on had
    /// begun. None on InnoDB.
    pub snapshot: Option<Snapshot>,
    /// Those that may yet commit a row that the snapshot doesn't show, read after it was
    /// taken. On PostgreSQL: who holds RowExclusiveLock on the table, and, if it locks xids
    /// (`locktype = 'transactionid'`), not all of them had ended by the snapshot. In any order.
    pub running: Vec<Transaction>,
}

/// `pg_current_snapshot()`, with 64-bit xids.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot {
    pub xmin: u64,
    pub xmax: u64,
}

/// What follows from a tick.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Ids in release order. Rows of the tick that aren't in it are not to be released.
    pub ids: Vec<i64>,
    /// So many of them, the first, came late: a row with a higher id may have been
    /// released before.
    pub late: usize,
    /// There is more to read now.
    pub again: bool,
}

/// What happened since the start; only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ranges given up with full evidence.
    pub given_up: u64,
    /// Ranges given up before that, because there were too many.
    pub capped: u64,
    /// Rows that came after their gap was given up.
    pub faults: u64,
    /// Ranges whose second looks ended early, because there were too many.
    pub forgotten: u64,
    /// Ticks thrown away because they had asked too little.
    pub thrown_away: u64,
    /// Rows above the sequence's last value that were released.
    pub strays: u64,
    /// And those that were not, because there were too many. A row counts in each tick.
    pub strays_ignored: u64,
}

/// A gap isn't given up before.
pub const MIN_AGE: Duration = Duration::from_secs(5);
/// A gap isn't given up before, where there is no other evidence.
pub const BLIND_AGE: Duration = Duration::from_secs(15 * 60);
/// InnoDB lists a transaction within this time after its first draw. What lies between is
/// code alone, no trigger of a user's.
pub const SETTLED: Duration = Duration::from_millis(100);
/// With more ranges than this, those are given up that wait for the xid fence alone, which
/// any long transaction of the database holds up. A probe of so many takes 18 ms.
pub const MAX_RANGES: usize = 10_000;
/// With more ranges than this, the oldest are given up whatever they wait for.
pub const MAX_WAITING_RANGES: usize = 100_000;
/// So many waiting ranges are asked for in each tick (0.1 ms), which spares the ticks that
/// would be thrown away otherwise.
pub const FREE_RANGES: usize = 64;
/// Of the ranges that can wait, so many are asked for in a tick (4 ms), and so many looked at again
/// at a time.
const PROBES_AT_A_TIME: usize = 1000;
/// How often transactions are listed for the sake of ranges that wait for the xid fence alone.
const PATIENT_LIST_INTERVAL: Duration = Duration::from_secs(1);
/// Second looks at a range that was given up: as often, and for as long.
pub const SECOND_LOOK_INTERVAL: Duration = Duration::from_secs(60);
pub const SECOND_LOOKS_FOR: Duration = Duration::from_secs(3600);
/// Between two calls of [`Gaps::second_look`] that give something.
const SECOND_LOOK_PACE: Duration = Duration::from_secs(1);
/// Beyond it the second looks at the oldest end early.
const MAX_GIVEN_UP_RANGES: usize = 100_000;
/// So many rows above the sequence's last value are released; each is remembered.
pub const MAX_STRAYS: usize = 1000;

/// Gaps that were passed in one tick, or wait for the same transactions.
#[derive(Debug)]
struct Group {
    /// Ascending, never empty between two calls.
    ranges: Vec<IdRange>,
    /// When the youngest was passed.
    passed_at: Instant,
    /// And the oldest.
    first_passed_at: Instant,
    /// They are the holes that the table had at the start.
    from_start: bool,
    /// None until a tick brings facts.
    fence: Option<Fence>,
    /// A transaction that could have committed a row has ended since the last complete
    /// probe, or can't be known to run.
    due: bool,
    /// The tick under way asks for them.
    asked: bool,
    /// A complete probe found nothing after all *locks* of a fence were gone. Whoever keeps to
    /// the order that is promised has ended, so that it can wait for its probes.
    patient: bool,
    /// The same, of the fence that it has.
    silent: bool,
}

/// Transactions that must have ended before a gap is given up.
#[derive(Debug, Default)]
struct Fence {
    /// All xids below.
    below: Option<u64>,
    /// All of these. Sorted.
    running: Vec<Transaction>,
    /// A tick has seen that they all have.
    passed: bool,
    /// It was taken at the gap's full age: no other follows.
    second: bool,
}

#[derive(Debug)]
struct GivenUp {
    ranges: Vec<IdRange>,
    until: Instant,
    next_look: Instant,
}

/// The parts of the rule, so that the simulation can show what each is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub xid_fence: bool,
    pub lock_fence: bool,
    pub min_age: bool,
    pub second_fence: bool,
    pub later_probe: bool,
    pub gaps_first: bool,
    pub throw_away: bool,
    pub bounded_high: bool,
    pub fences_anew: bool,
    pub settle: bool,
    pub patient_once_silent: bool,
    pub free_ranges: usize,
    pub probes_at_a_time: usize,
}

impl Rules {
    pub const ALL: Self = Self {
        xid_fence: true,
        lock_fence: true,
        min_age: true,
        second_fence: true,
        later_probe: true,
        gaps_first: true,
        throw_away: true,
        bounded_high: true,
        fences_anew: true,
        settle: true,
        patient_once_silent: true,
        free_ranges: FREE_RANGES,
        probes_at_a_time: PROBES_AT_A_TIME,
    };
}

impl Gaps {
    /// Begins at the end of what `table` has.
    pub fn new(evidence: Evidence, table: Start, now: Instant) -> Self {
        let mut gaps = Self {
            evidence,
            rules: Rules::ALL,
            high: table.high,
            groups: VecDeque::new(),
            running: Vec::new(),
            xmin: None,
            ask_for_all: false,
            strays: table.strays.into_iter().take(MAX_STRAYS).collect(),
            given_up: VecDeque::new(),
            second_look_at: None,
            listed_at: None,
            counts: Counts::default(),
        };
        let chunks = table.holes.chunks(PROBES_AT_A_TIME);
        gaps.groups.extend(chunks.map(|holes| Group { from_start: true, ..Group::new(holes.into(), now) }));
        if !table.unlikely.is_empty() {
            gaps.counts.capped += table.unlikely.len() as u64;
            gaps.look_again_at(vec![table.unlikely], now);
        }
        gaps
    }

    /// The highest id that was passed. Never above the sequence's last value: one row with
    /// an id of 9e18 would else make the tail deaf. O(1).
    pub fn high(&self) -> i64 {
        self.high
    }

    /// O(1).
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many ranges are open. O(groups).
    pub fn open_ranges(&self) -> usize {
        self.groups.iter().map(|group| group.ranges.len()).sum()
    }

    /// All gaps, ascending. O(1), then O(1) a range.
    pub fn open(&self) -> impl Iterator<Item = IdRange> {
        self.groups.iter().flat_map(|group| group.ranges.iter().copied())
    }

    /// The gaps that a position has to name, ascending: those of which a row may yet come whose
    /// order is promised. O(1), then O(1) a range and O(1) a group left out.
    pub fn unresolved(&self) -> impl Iterator<Item = IdRange> {
        self.groups.iter().filter(|group| !group.patient).flat_map(|group| group.ranges.iter().copied())
    }

    /// When the oldest of these was passed. O(groups).
    pub fn unresolved_since(&self) -> Option<Instant> {
        self.groups.iter().filter(|group| !group.patient).map(|group| group.first_passed_at).min()
    }

    /// Whether the next tick should list running transactions. O(groups).
    pub fn wants_list(&self, now: Instant) -> bool {
        let min_age = self.min_age();
        let needs_one = |group: &Group| match &group.fence {
            Some(fence) if group.patient => !fence.second && now >= group.passed_at + min_age,
            _ => true,
        };
        let is_long_ago = self.listed_at.is_none_or(|at| now >= at + PATIENT_LIST_INTERVAL);
        self.groups.iter().any(|group| is_long_ago || needs_one(group))
    }

    /// What to read next, in a tick that `lists` running transactions or does not. The answer
    /// goes to [`Self::observe`]; if there is none, because the database failed, ask anew.
    /// O(groups + ranges asked for).
    pub fn request(&mut self, lists: bool) -> Request {
        let waiting: usize = self.groups.iter().filter(|group| group.waits()).map(|g| g.ranges.len()).sum();
        let all = self.ask_for_all || !lists || waiting <= self.rules.free_ranges;
        let mut patient_ranges = 0;
        for group in &mut self.groups {
            group.asked = if group.patient {
                group.due && patient_ranges < self.rules.probes_at_a_time
            } else {
                group.due || (all && group.waits())
            };
            if group.patient && group.asked {
                patient_ranges += group.ranges.len();
            }
        }
        let probes = self.groups.iter().filter(|group| group.asked).flat_map(|group| &group.ranges);
        Request {
            probes: probes.copied().collect(),
            above: self.high,
            except: self.strays.iter().copied().collect(),
        }
    }

    /// The connection is another one, and with it perhaps the server: the names of its
    /// transactions mean nothing any more, and a prepared one may have got a new name. All
    /// gaps wait for a fence of the next tick. O(groups).
    pub fn reconnected(&mut self) {
        if !self.rules.fences_anew {
            return;
        }
        self.running.clear();
        self.xmin = None;
        for group in &mut self.groups {
            group.fence = None;
            group.due = true;
        }
    }

    /// Takes the answer to the last request in. O(groups + ranges asked for + rows), and
    /// where transactions ended O(groups × transactions).
    pub fn observe(&mut self, tick: &Tick) -> Release {
        let facts = tick.facts.as_ref().map(|facts| self.apply_rules(facts));
        let facts = facts.as_ref();
        let ended = facts.map(|facts| difference(&self.running, &facts.running)).unwrap_or_default();
        // Although nothing was read: the look is no complete one, and a barrier would trust it.
        if self.asked_too_little(facts, &ended) {
            self.advance_fences(tick, facts, &ended);
            self.ask_for_all = true;
            self.counts.thrown_away += 1;
            return Release { again: true, ..Release::default() };
        }
        self.ask_for_all = false;

        // In this order: a fence that this tick shows to be passed needs a later probe.
        if !self.rules.later_probe {
            self.advance_fences(tick, facts, &ended);
        }
        let mut ids = self.take_found(tick);
        self.advance_fences(tick, facts, &ended);
        let late = ids.len();
        let high = self.high;
        let mut new = if tick.cut_within_gaps() { Vec::new() } else { self.pass(tick, facts) };
        if !self.rules.gaps_first {
            std::mem::swap(&mut ids, &mut new);
        }
        ids.append(&mut new);
        self.cap(tick.ended);
        // A page full of ignored strays is no progress: reading it again at once would spin.
        let again = tick.full && (!ids.is_empty() || self.high > high);
        Release { ids, late, again }
    }

    /// Ranges that were given up, if it is time to look at them again: each once a minute,
    /// for an hour, some each second. The rows found go to [`Self::found_again`]; an answer
    /// that fails may be dropped. O(ranges returned + batches expired).
    pub fn second_look(&mut self, now: Instant) -> Option<Vec<IdRange>> {
        if self.second_look_at.is_some_and(|at| now < at) {
            return None;
        }
        let mut ranges = Vec::new();
        while ranges.len() < PROBES_AT_A_TIME
            && let Some(mut batch) = self.given_up.pop_front_if(|batch| batch.next_look <= now)
        {
            ranges.extend_from_slice(&batch.ranges);
            if now < batch.until {
                batch.next_look = now + SECOND_LOOK_INTERVAL;
                self.given_up.push_back(batch);
            }
        }
        self.second_look_at = Some(now + SECOND_LOOK_PACE);
        if ranges.is_empty() {
            return None;
        }
        ranges.sort_unstable_by_key(|range| range.first);
        Some(ranges)
    }

    /// Which of these ids, ascending, are to be released: they were given up by mistake.
    /// O(batches × log rows + ranges hit + rows).
    pub fn found_again(&mut self, rows: &[i64]) -> Vec<i64> {
        let mut found = Vec::new();
        for batch in &mut self.given_up {
            take(&mut batch.ranges, rows, &mut found);
        }
        self.given_up.retain(|batch| !batch.ranges.is_empty());
        found.sort_unstable();
        self.counts.faults += found.len() as u64;
        found
    }

    fn min_age(&self) -> Duration {
        match self.evidence {
            _ if !self.rules.min_age => Duration::ZERO,
            Evidence::Order | Evidence::Locks | Evidence::OpenTransactions => MIN_AGE,
            Evidence::Age => BLIND_AGE,
        }
    }

    /// A list that is read so long after a gap was passed holds its transaction.
    fn settled(&self) -> Duration {
        if self.evidence == Evidence::OpenTransactions && self.rules.settle {
            SETTLED
        } else {
            Duration::ZERO
        }
    }

    fn apply_rules(&self, facts: &Facts) -> Facts {
        let mut running = if self.rules.lock_fence { facts.running.clone() } else { Vec::new() };
        running.sort_unstable();
        Facts { snapshot: facts.snapshot.filter(|_| self.rules.xid_fence), running }
    }

    /// Whether a transaction has ended, or may have, whose rows could lie in gaps that were
    /// not asked for: what was read may follow those rows.
    fn asked_too_little(&self, facts: Option<&Facts>, ended: &[Transaction]) -> bool {
        let may_have_ended = |group: &Group| match (&group.fence, facts) {
            (Some(fence), Some(_)) => fence.running.iter().any(|t| ended.binary_search(t).is_ok()),
            _ => group.waits(),
        };
        let suspicious = !ended.is_empty() || facts.is_none();
        self.rules.throw_away
            && suspicious
            && self.groups.iter().any(|group| !group.patient && !group.asked && may_have_ended(group))
    }

    /// Takes the rows that were found out of the gaps, and gives up what was missed once
    /// too often. What counts are the fences as they were known *before* this tick.
    fn take_found(&mut self, tick: &Tick) -> Vec<i64> {
        let read_to = if tick.cut_within_gaps() { *tick.found.last().unwrap_or(&i64::MIN) } else { i64::MAX };
        let min_age = self.min_age();
        let mut found = Vec::new();
        let mut dead = Vec::new();
        for group in self.groups.iter_mut().filter(|group| group.asked) {
            take(&mut group.ranges, tick.found, &mut found);
            if group.ranges.last().is_none_or(|range| range.last > read_to) {
                continue;
            }
            let is_dead = match &group.fence {
                Some(fence) => {
                    group.due = false;
                    group.silent |= fence.running.is_empty();
                    group.patient |= group.silent || !self.rules.patient_once_silent;
                    fence.passed && fence.second
                }
                None => self.evidence == Evidence::Age && group.age(tick) >= min_age,
            };
            if is_dead {
                let ranges = std::mem::take(&mut group.ranges);
                self.counts.given_up += ranges.len() as u64;
                if !group.from_start {
                    dead.push(ranges);
                }
            }
        }
        self.groups.retain(|group| !group.ranges.is_empty());
        self.look_again_at(dead, tick.ended);
        found
    }

    fn advance_fences(&mut self, tick: &Tick, facts: Option<&Facts>, ended: &[Transaction]) {
        let Some(facts) = facts else { return };
        self.listed_at = Some(tick.began);
        let xmin = facts.snapshot.map(|snapshot| snapshot.xmin);
        let xmin_moved = xmin != self.xmin;
        let min_age = self.min_age();
        let settled = self.settled();
        let mut taken_anew = false;
        for group in &mut self.groups {
            let old_enough = group.age(tick) >= min_age;
            match &mut group.fence {
                Some(fence) if fence.second || !old_enough => {
                    let running = fence.running.len();
                    fence.running.retain(|transaction| ended.binary_search(transaction).is_err());
                    let passed = fence.running.is_empty() && fence.below <= xmin;
                    let stirred = fence.running.len() < running || (fence.below > self.xmin && xmin_moved);
                    group.due |= stirred || passed != fence.passed;
                    fence.passed = passed;
                }
                Some(fence) if !self.rules.second_fence => fence.second = true,
                None if group.passed_at + settled > tick.began => {}
                fence => {
                    *fence = Some(Fence::new(facts, old_enough));
                    group.due = true;
                    group.silent = false;
                    taken_anew |= old_enough;
                }
            }
        }
        self.running.clone_from(&facts.running);
        self.xmin = xmin;
        if taken_anew {
            self.join_groups();
        }
    }

    /// Of neighbours that wait for the same transactions one group is made. An hour-long
    /// transaction would else be subtracted from thousands of fences in each tick. The
    /// joint xid fence is the later one; as long as those transactions run that delays
    /// nothing, and once they have ended nothing is joined to it any more.
    fn join_groups(&mut self) {
        let mut joined: VecDeque<Group> = VecDeque::with_capacity(self.groups.len());
        for group in self.groups.drain(..) {
            match joined.back_mut() {
                Some(before) if before.waits_like(&group) => before.absorb(group),
                _ => joined.push_back(group),
            }
        }
        self.groups = joined;
    }

    /// Moves `high` along the page; what it steps over becomes a group.
    fn pass(&mut self, tick: &Tick, facts: Option<&Facts>) -> Vec<i64> {
        let mut ids = Vec::with_capacity(tick.new.len());
        let mut holes = Vec::new();
        for &id in tick.new {
            if id <= self.high {
                continue;
            }
            if id > tick.last_value && self.rules.bounded_high {
                if self.strays.len() == MAX_STRAYS {
                    self.counts.strays_ignored += 1;
                } else if self.strays.insert(id) {
                    self.counts.strays += 1;
                    ids.push(id);
                }
                continue;
            }
            if id - 1 > self.high {
                holes.push(IdRange { first: self.high + 1, last: id - 1 });
            }
            self.high = id;
            ids.push(id);
        }
        if self.strays.first().is_some_and(|id| *id < self.high) {
            // The sequence has come so far: they are rows below `high` like all others, and
            // were released.
            let above = self.strays.split_off(&self.high);
            let reached: Vec<_> = std::mem::replace(&mut self.strays, above).into_iter().collect();
            take(&mut holes, &reached, &mut Vec::new());
        }
        if !holes.is_empty() && self.evidence != Evidence::Order {
            let fence = facts.filter(|_| self.settled().is_zero()).map(|facts| Fence::new(facts, false));
            self.groups.push_back(Group { fence, ..Group::new(holes, tick.ended) });
        }
        ids
    }

    /// Gives up what is too many, oldest first.
    fn cap(&mut self, now: Instant) {
        let mut open = self.open_ranges();
        if open <= MAX_RANGES {
            return;
        }
        // Holes of the start are as many as they are, until they have had their first fence.
        let fixed: usize =
            self.groups.iter().filter(|group| group.from_start).map(|group| group.ranges.len()).sum();
        let waiting_limit = match self.evidence {
            Evidence::Order | Evidence::Locks | Evidence::OpenTransactions => MAX_WAITING_RANGES + fixed,
            Evidence::Age => MAX_RANGES + fixed,
        };
        let mut dead = Vec::new();
        for group in &mut self.groups {
            let waits_for_xids_alone = group.silent && group.fence.as_ref().is_some_and(|fence| fence.second);
            let too_many =
                (open > MAX_RANGES && waits_for_xids_alone) || (open > waiting_limit && !group.from_start);
            if too_many {
                open -= group.ranges.len();
                self.counts.capped += group.ranges.len() as u64;
                dead.push(std::mem::take(&mut group.ranges));
            }
        }
        self.groups.retain(|group| !group.ranges.is_empty());
        self.look_again_at(dead, now);
    }

    fn look_again_at(&mut self, dead: Vec<Vec<IdRange>>, now: Instant) {
        if dead.is_empty() {
            return;
        }
        let ranges = dead.concat();
        self.given_up.extend(ranges.chunks(PROBES_AT_A_TIME).map(|ranges| GivenUp {
            ranges: ranges.into(),
            next_look: now + SECOND_LOOK_INTERVAL,
            until: now + SECOND_LOOKS_FOR,
        }));
        let mut ranges: usize = self.given_up.iter().map(|batch| batch.ranges.len()).sum();
        while ranges > MAX_GIVEN_UP_RANGES
            && let Some(batch) = self.given_up.pop_front()
        {
            ranges -= batch.ranges.len();
            self.counts.forgotten += batch.ranges.len() as u64;
        }
    }
}

impl Tick<'_> {
    /// The page ended before it came to the rows above `high`.
    fn cut_within_gaps(&self) -> bool {
        self.full && self.new.is_empty()
    }
}

impl Group {
    fn new(ranges: Vec<IdRange>, passed_at: Instant) -> Self {
        Self {
            ranges,
            passed_at,
            first_passed_at: passed_at,
            from_start: false,
            fence: None,
            due: true,
            asked: false,
            patient: false,
            silent: false,
        }
    }

    /// Whether a list may yet show that a transaction has ended whose rows it holds, and whose
    /// order is promised.
    fn waits(&self) -> bool {
        !self.patient && self.fence.as_ref().is_none_or(|fence| !fence.running.is_empty())
    }

    /// At least so old when the tick's snapshot was taken.
    fn age(&self, tick: &Tick) -> Duration {
        tick.began.saturating_duration_since(self.passed_at)
    }

    fn waits_like(&self, other: &Self) -> bool {
        let (Some(fence), Some(others)) = (&self.fence, &other.fence) else { return false };
        let both_second = fence.second && others.second;
        both_second
            && self.patient == other.patient
            && self.ranges.len() + other.ranges.len() <= PROBES_AT_A_TIME
            && !fence.running.is_empty()
            && fence.running == others.running
            && self.from_start == other.from_start
    }

    fn absorb(&mut self, mut other: Self) {
        self.ranges.append(&mut other.ranges);
        self.passed_at = other.passed_at;
        self.due |= other.due;
        self.asked &= other.asked;
        self.silent &= other.silent;
        if let (Some(fence), Some(others)) = (&mut self.fence, other.fence) {
            fence.below = fence.below.max(others.below);
        }
    }
}

impl Fence {
    fn new(facts: &Facts, second: bool) -> Self {
        let below = facts.snapshot.map(|snapshot| snapshot.xmax);
        let xmin = facts.snapshot.map(|snapshot| snapshot.xmin);
        let running = facts.running.clone();
        Self { below, passed: running.is_empty() && below <= xmin, running, second }
    }
}

/// Takes `rows` out of `ranges` and appends those that were in one to `found`. All ascend.
fn take(ranges: &mut Vec<IdRange>, rows: &[i64], found: &mut Vec<i64>) {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
    let from = rows.partition_point(|id| *id < first.first);
    let to = rows.partition_point(|id| *id <= last.last);
    let mut rows = rows[from..to].iter().copied().peekable();
    if rows.peek().is_none() {
        return;
    }
    let mut rest = Vec::with_capacity(ranges.len());
    for mut range in ranges.drain(..) {
        while rows.next_if(|id| *id < range.first).is_some() {}
        while let Some(id) = rows.next_if(|id| *id <= range.last) {
            found.push(id);
            if range.first < id {
                rest.push(IdRange { first: range.first, last: id - 1 });
            }
            // Past the end once the range is used up; an id of i64::MAX is its own end.
            range.first = id.saturating_add(1);
        }
        if range.first <= range.last && found.last() != Some(&range.last) {
            rest.push(range);
        }
    }
    *ranges = rest;
}

/// What is in `before` and not in `after`. Both are sorted.
fn difference(before: &[Transaction], after: &[Transaction]) -> Vec<Transaction> {
    before.iter().filter(|transaction| after.binary_search(transaction).is_err()).copied().collect()
}
