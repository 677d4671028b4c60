use std::time::SystemTime;

use tokio::time::Instant;

/// The clock by which rows are dated, and trimmed.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// This machine's.
    Own,
    /// A server's: seconds since 1970, and a moment when it was not less.
    Read { secs: i64, by: Instant },
}

impl Clock {
    /// What a server has just answered.
    pub fn read(secs: i64) -> Self {
        Self::Read { secs, by: Instant::now() }
    }

    /// Seconds since 1970, not later than it is.
    pub fn now(&self) -> i64 {
        match self {
            Self::Own => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                since.as_secs() as i64
            }
            Self::Read { secs, by } => secs + by.elapsed().as_secs() as i64,
        }
    }
}
