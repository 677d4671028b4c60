use crate::bus::gaps::{Evidence, Rules};
use crate::bus::position::{Ids, Position};
use crate::bus::{Replayed, Token};

/// Which kind of database, and which rules are kept: each can be left out, to show what it is for.
#[derive(Clone, Copy)]
pub struct Scene {
    pub evidence: Evidence,
    /// So many ids a session draws at a time.
    pub cache: i64,
    /// Who has ended by the snapshot is listed until it unlocks.
    pub until_unlock: bool,
    pub gaps: Rules,
    pub barrier: Barrier,
    /// A replay gives only what the barrier's answer holds.
    pub bounded_replay: bool,
    /// What lies below the first message that a newcomer is given, and is still to come, is not in its position.
    pub newcomers_lack: bool,
    pub marks_superseded: bool,
    /// A server sees that the database lost rows.
    pub notices_loss: bool,
    /// And turns away who comes with a position from before.
    pub compares_histories: bool,
    /// By so many seconds a position must be younger than the oldest row.
    pub margin_secs: i64,
    /// A position is as old as what was open when it was given.
    pub dates_by_open: bool,
    /// InnoDB's holes are asked about only once all may have written them.
    pub asks_late: bool,
    /// And those in which there is a lock are kept.
    pub keeps_locked: bool,
    /// Who trims takes only what it has released,
    pub trims_released: bool,
    /// and a round ago.
    pub trims_settled: bool,
}

/// What a client that comes back waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    None,
    /// The next complete look, although it had been begun before.
    AnyLook,
    LaterLook,
}

impl Scene {
    pub const POSTGRES: Self = Self {
        evidence: Evidence::Locks,
        cache: 1,
        until_unlock: false,
        gaps: Rules::ALL,
        barrier: Barrier::LaterLook,
        bounded_replay: true,
        newcomers_lack: true,
        marks_superseded: true,
        notices_loss: true,
        compares_histories: true,
        margin_secs: 60,
        dates_by_open: true,
        asks_late: true,
        keeps_locked: true,
        trims_released: true,
        trims_settled: true,
    };
    pub const INNODB: Self = Self { evidence: Evidence::OpenTransactions, ..Self::POSTGRES };
    pub const SQLITE: Self = Self { evidence: Evidence::Order, ..Self::POSTGRES };
}

/// What a rule that is left out makes of words.
impl Scene {
    /// As if it were of that history.
    pub fn word_of(&self, word: &str, history: u64) -> String {
        match Position::decode(word) {
            Ok(position) if !self.compares_histories => {
                Position { history, ..position }.encode().expect("it had one")
            }
            _ => word.to_owned(),
        }
    }

    /// As if a newcomer had all that is below what it is given.
    pub fn newcomers_token(&self, replayed: &Replayed) -> Token {
        match Position::decode(&replayed.token.word) {
            Ok(position) if !self.newcomers_lack => {
                let ids = Ids { gaps: Vec::new(), ..position.ids };
                let word = Position { ids, ..position }.encode().expect("it has no gaps");
                Token { word: word.into(), ..replayed.token }
            }
            _ => replayed.token.clone(),
        }
    }
}
