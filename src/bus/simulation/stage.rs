use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::database::Database;
use super::random::Random;
use super::scene::Scene;
use super::writers::Writers;

/// Microseconds since the world began.
pub type Time = u64;
/// A place in the order of all events; no two are equal.
pub type Moment = u64;

pub const MS: Time = 1000;
pub const SECOND: Time = 1000 * MS;
/// Rows are dated by a clock that runs faster, so that who is away for seconds is away for minutes.
pub const DATES_A_SECOND: Time = 20;
pub const FIRST_DATE: i64 = 1_795_000_000;
/// Writers begin no transaction after this.
pub const WRITING: Time = 10 * SECOND;
/// Clients stay where they are after this, which is while the last transactions run.
pub const HOPPING: Time = 16 * SECOND;
/// By then the longest transaction has ended, and its gaps must be gone.
pub const END: Time = 100 * SECOND;

/// What all who act share.
pub struct Stage {
    pub scene: Scene,
    pub now: Time,
    pub moment: Moment,
    pub random: Random,
    pub database: Database,
    pub writers: Writers,
    /// How old a row grows: seconds, by its date. None: rows are kept.
    pub retention: Option<i64>,
    pub seen: Seen,
    epoch: Instant,
}

/// What a seed came by, and how often: where nobody goes no fault is found.
pub type Seen = BTreeMap<Sight, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    Resumed,
    Replayed,
    /// A client that came for the first time was given the last messages.
    GivenLatest,
    /// And what was written since its page was made.
    GivenSince,
    SinceAhead,
    /// A connection was lost between two messages of a batch or a replay.
    Cut,
    /// A position had too many gaps for a word.
    NoWord,
    TooManyMissed,
    TooOld,
    /// A client took a replay so slowly that rows of it were trimmed.
    SlowlyRead,
    /// Those that its position had were trimmed.
    AheadOfTheRows,
    ToldOfLoss,
    Superseded,
    Trimmed,
    TrimmedUnseen,
    AskedTooLittle,
    /// A hole of the start was found dead,
    Sifted,
    /// or a list showed somebody who might fill it.
    WaitedForWriters,
}

impl Stage {
    pub fn new(seed: u64, scene: Scene) -> Self {
        let mut random = Random::new(seed);
        Self {
            scene,
            now: 0,
            moment: 0,
            database: Database::new(scene, &mut random),
            writers: Writers::new(scene, &mut random),
            retention: random.any_of(&[None, None, Some(100), Some(200)]),
            seen: Seen::new(),
            epoch: Instant::now(),
            random,
        }
    }

    /// The database goes down and comes back, or another one comes that lacks the last commits.
    pub fn crash(&mut self, loses: bool) {
        let Self { now, random, database, writers, .. } = self;
        writers.crash(!loses, *now, database, random);
        if loses {
            database.lose(random.within(1, 6) as usize);
        }
        database.restart(random);
    }

    pub fn date(&self) -> i64 {
        date(self.now)
    }

    /// How old a position may be: a minute less than a row, as where nobody has said so.
    pub fn window(&self) -> Option<Duration> {
        let secs = self.retention? - self.scene.margin_secs;
        Some(Duration::from_secs(secs.unsigned_abs()))
    }

    pub fn saw(&mut self, sight: Sight) {
        *self.seen.entry(sight).or_default() += 1;
    }

    pub fn instant(&self, time: Time) -> Instant {
        self.epoch + Duration::from_micros(time)
    }
}

pub fn date(time: Time) -> i64 {
    FIRST_DATE + (time * DATES_A_SECOND / SECOND) as i64
}
