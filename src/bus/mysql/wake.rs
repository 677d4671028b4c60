use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::bus::poll::Flow;

/// What says that it is worth looking: nothing of the database's. An idle table is looked at each
/// poll interval, one that flows more closely.
pub struct Waker {
    own_writes: Arc<Notify>,
    flow: Flow,
}

impl Waker {
    pub fn new(own_writes: Arc<Notify>) -> Self {
        Self { own_writes, flow: Flow::default() }
    }

    pub fn looked(&mut self, rows: usize) {
        self.flow.looked(rows);
    }

    /// Waits until the table is worth a look. Cancel-safe.
    pub async fn rest(&self, longest: Duration) {
        tokio::select! {
            biased;
            () = self.own_writes.notified() => {}
            () = sleep(self.flow.pause(longest)) => {}
        }
    }
}
