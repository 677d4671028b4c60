//! What a look at the table shows, whichever database it is in.

use super::gaps::Facts;

/// A row as it was read.
#[derive(Debug)]
pub struct Row {
    pub id: i64,
    pub content: Content,
}

/// What a row holds, as far as it is of interest.
#[derive(Debug)]
pub enum Content {
    /// Another prefix's row: its id alone was read.
    Foreign,
    /// A payload above the limit was not read.
    TooLarge { channel: Vec<u8>, bytes: i64 },
    Own {
        channel: Vec<u8>,
        payload: Vec<u8>,
        /// As the row has it: Rails selects by it, tablecast doesn't.
        hash: Option<i64>,
    },
}

/// The answer to one [`Request`](super::gaps::Request), of one moment.
#[derive(Debug, Default)]
pub struct Page {
    /// Ascending: those that were asked for by their ids, then those above.
    pub rows: Vec<Row>,
    /// There may be more: the page was cut after its last row.
    pub full: bool,
    /// See [`Tick::last_value`](super::gaps::Tick::last_value). Below what was passed before,
    /// it says that ids start anew.
    pub last_value: i64,
    pub facts: Option<Facts>,
}

/// A page is bounded by both, so that memory is.
pub const PAGE_ROWS: usize = 1024;
pub const PAGE_BYTES: usize = 4 << 20;

impl Content {
    /// From what a statement gives: no channel for another prefix's row, no payload where it
    /// is too large.
    pub fn new(
        channel: Option<Vec<u8>>,
        payload: Option<Vec<u8>>,
        bytes: Option<i64>,
        hash: Option<i64>,
    ) -> Self {
        match (channel, payload) {
            (None, _) => Self::Foreign,
            (Some(channel), Some(payload)) => Self::Own { channel, payload, hash },
            (Some(channel), None) => Self::TooLarge { channel, bytes: bytes.unwrap_or_default() },
        }
    }

    /// What it takes in memory.
    pub fn size(&self) -> usize {
        match self {
            Self::Own { channel, payload, .. } => channel.len() + payload.len(),
            Self::TooLarge { channel, .. } => channel.len(),
            Self::Foreign => 0,
        }
    }
}
