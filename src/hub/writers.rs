use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::Outbox;

/// Writes what the hub has queued: a task for each core runs [`write`](Self::write).
///
/// A connection's own task could write as well, but waking one task for each delivery, and
/// looking there what it was woken for, costs a fifth of what the write itself does. That task
/// is woken only where a socket takes no more.
#[derive(Default)]
pub struct Writers {
    /// Outboxes to write from, each once.
    queue: Mutex<VecDeque<Arc<Outbox>>>,
    wake: Notify,
}

/// A writer takes so many at a time, and then lets other tasks have the core.
const CHUNK: usize = 32;

impl Writers {
    /// Takes over all that have been [`Offered::ToHandOver`](super::outbox::Offered).
    pub fn hand_over(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if !outboxes.is_empty() {
            self.queue.lock().extend(outboxes.drain(..));
            self.wake.notify_one();
        }
    }

    /// Writes, for ever.
    pub async fn write(&self) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            {
                let mut queue = self.queue.lock();
                let count = queue.len().min(CHUNK);
                chunk.extend(queue.drain(..count));
                if !queue.is_empty() {
                    // One writer after the other is woken, for as long as there is work for one more.
                    self.wake.notify_one();
                }
            }
            if chunk.is_empty() {
                self.wake.notified().await;
                continue;
            }
            for outbox in chunk.drain(..) {
                outbox.write();
            }
            yield_now().await;
        }
    }
}
