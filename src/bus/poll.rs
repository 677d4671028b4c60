use std::time::Duration;

use tokio::time::Instant;

/// How closely a table is polled that flows, and for how long after its last row.
const FLOWING_POLL: Duration = Duration::from_millis(5);
const STILL_FLOWING: Duration = Duration::from_secs(1);

/// Whether rows are coming: then more will, soon.
#[derive(Debug, Default)]
pub struct Flow {
    until: Option<Instant>,
}

impl Flow {
    /// There were rows.
    pub fn flowed(&mut self) {
        self.until = Some(Instant::now() + STILL_FLOWING);
    }

    pub fn is_flowing(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// How long to sleep where nothing wakes: `longest` at most.
    pub fn pause(&self, longest: Duration) -> Duration {
        if self.is_flowing() { longest.min(FLOWING_POLL) } else { longest }
    }
}
