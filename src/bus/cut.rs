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
pub struct Resumed(pub(super) Ids);

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

impl Cut {
    /// What a client has that has all up to here.
    pub fn token(&self) -> Token {
        Token::new(&self.era, &self.released)
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
        let window = window.map_or(i64::MAX, |window| i64::try_from(window.as_secs()).unwrap_or(i64::MAX));
        if self.era.time.saturating_sub(time) > window {
            return Err(Rejection::TooOld);
        }
        Ok(Resumed(ids))
    }
}

impl Resumed {
    /// Whether the client has this row.
    pub fn has(&self, mark: Mark) -> bool {
        self.0.contains(mark.0)
    }
}

impl Rejection {
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
