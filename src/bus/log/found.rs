//! What is asked of a database that reads back, and what it answers.

use crate::bus::channel_hash;
use crate::bus::gaps::IdRange;

/// A stream as rows have it.
#[derive(Debug, Clone)]
pub struct Channel {
    pub name: Vec<u8>,
    pub hash: i64,
}

/// The first rows of channels in ranges of ids, over all of them in the order of ids.
#[derive(Debug, Clone, Copy)]
pub struct Ranges<'a> {
    pub channels: &'a [Channel],
    /// Ascending, and apart.
    pub ranges: &'a [IdRange],
    /// Above nothing, and no more than this.
    pub limit: usize,
    /// Payloads up to this size come with their rows.
    pub inline: usize,
}

/// The last rows of a channel.
#[derive(Debug, Clone)]
pub struct Latest<'a> {
    pub channel: &'a Channel,
    pub high: i64,
    pub limit: usize,
}

/// A row with the hash of what was asked for.
#[derive(Debug)]
pub struct Found {
    pub id: i64,
    /// Which of the channels, or of what was asked.
    pub of: usize,
    /// False: it is another channel's, of the same hash, or its payload is too large for a message.
    pub own: bool,
    /// Of the payload, in bytes.
    pub size: usize,
    /// Seconds since 1970. None where it wasn't asked for, or says nothing.
    pub created: Option<i64>,
    pub payload: Option<Vec<u8>>,
}

impl Channel {
    pub fn new(name: Vec<u8>) -> Self {
        Self { hash: channel_hash(&name), name }
    }
}
