use std::time::Duration;

use tokio::time::Instant;

/// How closely a table is polled that flows, and for how long after its last row.
const FLOWING_POLL: Duration = Duration::from_millis(5);
/// Where a look finds so many rows, the next one has time: what a look costs, some 0.2 ms of its database's and ours,
/// is shared by more of them, and taken from writers who keep the cores busy.
const MANY_ROWS: usize = 64;
const BUSY_POLL: Duration = Duration::from_millis(10);
const STILL_FLOWING: Duration = Duration::from_secs(1);

/// Whether rows are coming: then more will, soon.
#[derive(Debug, Default)]
pub struct Flow {
    until: Option<Instant>,
    /// The last look found many.
    is_busy: bool,
}

impl Flow {
    /// A look found so many rows.
    pub fn looked(&mut self, rows: usize) {
        self.is_busy = rows >= MANY_ROWS;
        if rows > 0 {
            self.until = Some(Instant::now() + STILL_FLOWING);
        }
    }

    pub fn is_flowing(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// How long to sleep where nothing wakes: `longest` at most.
    pub fn pause(&self, longest: Duration) -> Duration {
        let poll = if self.is_busy { BUSY_POLL } else { FLOWING_POLL };
        if self.is_flowing() { longest.min(poll) } else { longest }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_table_is_polled_by_how_much_comes() {
        let (mut flow, longest) = (Flow::default(), Duration::from_millis(100));
        assert_eq!(flow.pause(longest), longest);
        for (rows, pause) in
            [(1, FLOWING_POLL), (MANY_ROWS, BUSY_POLL), (0, FLOWING_POLL), (MANY_ROWS, BUSY_POLL)]
        {
            flow.looked(rows);
            assert_eq!(flow.pause(longest), pause);
        }
        assert_eq!(flow.pause(Duration::from_millis(1)), Duration::from_millis(1), "never longer than asked");
        advance(STILL_FLOWING).await;
        assert_eq!(flow.pause(longest), longest);
    }
}
