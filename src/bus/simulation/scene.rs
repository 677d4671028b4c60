use crate::bus::gaps::{Evidence, Rules};

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
    };
    pub const INNODB: Self = Self { evidence: Evidence::OpenTransactions, ..Self::POSTGRES };
    pub const SQLITE: Self = Self { evidence: Evidence::Order, ..Self::POSTGRES };
}
