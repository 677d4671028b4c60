//! A moment between two batches, and what can be gone on from in it.

use std::sync::Arc;
use std::time::Duration;

use super::Mark;
use super::position::{Era, Ids, NO_POSITION, Position, Token};

/// A moment between two batches: what has been handed on to who follows the source, and nothing else.
#[derive(Debug, Clone)]
pub struct Cut {
    pub(super) released: Arc<Ids>,
    pub(super) era: Arc<Era>,
}

/// A position that can be gone on from.
#[derive(Debug, Clone)]
pub struct Resumed {
    pub(super) ids: Ids,
    /// See [`Position::time`].
    pub(super) time: i64,
}

/// Why a position can't be gone on from. A client is told that it can't; the reason is for logs and metrics,
/// and where the protocol has room for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("it is not a position of tablecast's")]
    Malformed,
    #[error("when it was given, too many transactions were open for one")]
    TooManyGaps,
    #[error("it is of another table, or of another life of this one")]
    AnotherHistory,
    #[error("it is ahead of the table")]
    Ahead,
    #[error("it is older than --resume-window, and rows may have been trimmed since")]
    TooOld,
    #[error("the client's clock is ahead of ours")]
    SinceAhead,
    #[error("more than {0} messages were missed (--max-replay)")]
    TooMany(usize),
    #[error("the database is away: {0}")]
    Away(Arc<str>),
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A client's clock may be ahead of the table's by so much.
const CLOCKS_APART_SECS: i64 = 60;

impl Cut {
    pub fn new(released: Ids, era: Arc<Era>) -> Self {
        Self { released: Arc::new(released), era }
    }

    /// What a client has that has all up to here.
    pub fn token(&self) -> Token {
        Token::new(&self.era, &self.released)
    }

    /// For a client that has these, and had all that is as old as that.
    pub(super) fn token_of(&self, time: i64, ids: &Ids) -> Token {
        if time == self.era.written_by() {
            return Token::new(&self.era, ids);
        }
        Token::new(&Era { time, history: self.era.history, ..Era::default() }, ids)
    }

    /// Whether [`Self::token`] can be gone on from.
    pub fn has_position(&self) -> bool {
        *self.token().word != *NO_POSITION
    }

    /// Whether a client can go on from this word, which may be anything. `window` is how old a position may
    /// be; none: of any age.
    pub fn accept(&self, word: &str, window: Option<Duration>) -> Result<Resumed, Rejection> {
        if word == NO_POSITION {
            return Err(Rejection::TooManyGaps);
        }
        let Position { history, time, ids } = Position::decode(word).map_err(|_| Rejection::Malformed)?;
        let same_life = self.era.history == Some(history) && self.era.broken_at.is_none_or(|at| time > at);
        // What lies beyond what was seen to go on may have been lost, and its ids given to others.
        let went_on =
            |(before, released): &(u64, Arc<Ids>)| *before == history && released.missed(&ids).is_empty();
        if !same_life && !self.era.before.iter().any(went_on) {
            return Err(Rejection::AnotherHistory);
        }
        if ids.high > self.released.high {
            return Err(Rejection::Ahead);
        }
        self.reaches_back(time, window)?;
        Ok(Resumed { ids, time })
    }

    /// Whether all is still there that was written at `since` or later, by a client's clock: seconds since 1970. It
    /// is compared with the clock by which rows are dated and trimmed, and not before the cut: a client may have
    /// waited for a database that was away.
    pub fn accept_since(&self, since: i64, window: Option<Duration>) -> Result<(), Rejection> {
        if since > self.era.time.saturating_add(CLOCKS_APART_SECS) {
            return Err(Rejection::SinceAhead);
        }
        self.reaches_back(since, window)
    }

    fn reaches_back(&self, time: i64, window: Option<Duration>) -> Result<(), Rejection> {
        let window = window.map_or(i64::MAX, |window| i64::try_from(window.as_secs()).unwrap_or(i64::MAX));
        if self.era.time.saturating_sub(time) > window { Err(Rejection::TooOld) } else { Ok(()) }
    }
}

impl Resumed {
    /// Whether the client has this row.
    pub fn has(&self, mark: Mark) -> bool {
        self.ids.contains(mark.0)
    }
}

impl Rejection {
    /// Whether it says nothing of the position: later the same one may do.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Away(_) | Self::ShuttingDown)
    }

    /// For metrics, and for clients.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed => "position_malformed",
            Self::TooManyGaps => "position_too_many_gaps",
            Self::AnotherHistory => "position_another_history",
            Self::Ahead => "position_ahead",
            Self::TooOld => "position_too_old",
            Self::SinceAhead => "since_ahead",
            Self::TooMany(_) => "max_replay",
            Self::Away(_) => "database_away",
            Self::ShuttingDown => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::gaps::IdRange;

    const NOW: i64 = 1_795_000_000;

    fn ids(high: i64, gaps: &[(i64, i64)]) -> Ids {
        Ids { high, gaps: gaps.iter().map(|(first, last)| IdRange { first: *first, last: *last }).collect() }
    }

    fn word(history: u64, time: i64, ids: Ids) -> String {
        Position { history, time, ids }.encode().unwrap()
    }

    /// Of the life 7, with all up to 100 but for 90.
    fn cut() -> Cut {
        let era = Era { history: Some(7), time: NOW, ..Era::default() };
        Cut { released: Arc::new(ids(100, &[(90, 90)])), era: Arc::new(era) }
    }

    fn with(change: impl FnOnce(&mut Era)) -> Cut {
        let mut cut = cut();
        change(Arc::make_mut(&mut cut.era));
        cut
    }

    fn answer(cut: &Cut, word: &str) -> Result<Ids, Rejection> {
        cut.accept(word, Some(Duration::from_secs(3600))).map(|resumed| resumed.ids)
    }

    #[test]
    fn who_has_a_word_of_this_life_goes_on_from_it() {
        for ids in [ids(100, &[(90, 90)]), ids(60, &[(5, 9)]), ids(100, &[]), ids(0, &[])] {
            assert_eq!(answer(&cut(), &word(7, NOW - 3600, ids.clone())), Ok(ids));
        }
        let later = word(7, NOW + 5, ids(1, &[]));
        assert!(answer(&cut(), &later).is_ok(), "another server has seen a later look");
        let resumed = cut().accept(&cut().token().word, None).unwrap();
        assert!(resumed.has(Mark(89)) && !resumed.has(Mark(90)) && !resumed.has(Mark(101)));
    }

    #[test]
    fn each_reason_not_to_go_on_has_its_name() {
        let own = |ids| word(7, NOW, ids);
        for (given, expected) in [
            ("".to_owned(), Rejection::Malformed),
            ("a".to_owned(), Rejection::Malformed),
            ("x".repeat(10_000), Rejection::Malformed),
            (NO_POSITION.to_owned(), Rejection::TooManyGaps),
            (word(8, NOW, ids(50, &[])), Rejection::AnotherHistory),
            (own(ids(101, &[])), Rejection::Ahead),
            (word(7, NOW - 3601, ids(50, &[])), Rejection::TooOld),
            (word(7, 0, ids(50, &[])), Rejection::TooOld),
        ] {
            assert_eq!(answer(&cut(), &given), Err(expected), "{given}");
        }
        assert!(cut().accept(&word(7, 0, ids(50, &[])), None).is_ok(), "where nothing is trimmed");
    }

    #[test]
    fn a_life_that_was_seen_to_go_on_counts_as_far_as_it_was_seen() {
        let cut = with(|era| era.before = vec![(5, Arc::new(ids(40, &[(30, 30)])))]);
        assert!(answer(&cut, &word(5, NOW, ids(40, &[(30, 30)]))).is_ok());
        assert!(answer(&cut, &word(5, NOW, ids(20, &[(3, 4)]))).is_ok());
        for beyond in [ids(41, &[(30, 30)]), ids(40, &[])] {
            assert_eq!(answer(&cut, &word(5, NOW, beyond)), Err(Rejection::AnotherHistory));
        }
        assert_eq!(answer(&cut, &word(6, NOW, ids(1, &[]))), Err(Rejection::AnotherHistory));
    }

    #[test]
    fn a_table_that_broke_with_a_life_of_its_name_takes_nothing_from_before() {
        let cut = with(|era| era.broken_at = Some(NOW - 10));
        assert_eq!(answer(&cut, &word(7, NOW - 10, ids(50, &[]))), Err(Rejection::AnotherHistory));
        assert!(answer(&cut, &word(7, NOW - 9, ids(50, &[]))).is_ok());
    }

    /// A row may be trimmed by the time at which it was written, although it came late.
    #[test]
    fn a_position_is_as_old_as_what_was_open() {
        let given = with(|era| era.open_for = 600).token().word;
        let later = |seconds| with(|era| era.time += seconds);
        assert!(answer(&later(3000), &given).is_ok());
        assert_eq!(answer(&later(3001), &given), Err(Rejection::TooOld));
        let broken = with(|era| (era.open_for, era.broken_at) = (600, Some(NOW - 10)));
        assert!(answer(&broken, &broken.token().word).is_ok(), "it is of this life");
    }

    #[test]
    fn a_clients_clock_is_compared_with_the_tables() {
        let answer = |since| cut().accept_since(since, Some(Duration::from_secs(3600)));
        for since in [NOW - 3600, NOW, NOW + 60] {
            assert_eq!(answer(since), Ok(()), "{since}");
        }
        for since in [NOW - 3601, 0, i64::MIN] {
            assert_eq!(answer(since), Err(Rejection::TooOld), "{since}");
        }
        for since in [NOW + 61, i64::MAX] {
            assert_eq!(answer(since), Err(Rejection::SinceAhead), "{since}");
        }
        assert_eq!(cut().accept_since(0, None), Ok(()), "where nothing is trimmed");
    }

    #[test]
    fn where_the_life_has_no_name_nobody_goes_on() {
        let cut = with(|era| era.history = None);
        assert_eq!(&*cut.token().word, NO_POSITION);
        assert_eq!(answer(&cut, &word(0, NOW, ids(50, &[]))), Err(Rejection::AnotherHistory));
    }

    #[test]
    fn too_many_open_transactions_leave_no_word() {
        let gaps: Vec<_> = (1..400).map(|n| (n * 1000, n * 1000)).collect();
        let cut = Cut { released: Arc::new(ids(1_000_000, &gaps)), ..cut() };
        assert_eq!(&*cut.token().word, NO_POSITION);
    }
}
