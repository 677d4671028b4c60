use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::telemetry::metrics;

/// Whether the tail follows the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Following,
    /// For an operator: what the database answered, or that nothing has been read yet.
    Away(Arc<str>),
}

/// A look at the table that takes so long is one of which nobody knows what it will find.
const LONG_LOOK: Duration = Duration::from_millis(500);

/// The tail's status: it sets it, `/ready` and `/metrics` read it.
#[derive(Debug, Clone)]
pub struct StatusHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    status: watch::Sender<Status>,
    /// Since when a look has been under way, failed ones among them.
    looks_since: Mutex<Option<Instant>>,
}

impl Default for StatusHandle {
    fn default() -> Self {
        metrics().following.set(1.0);
        Self(Arc::new(Shared {
            status: watch::Sender::new(Status::Following),
            looks_since: Mutex::new(None),
        }))
    }
}

impl StatusHandle {
    pub fn get(&self) -> Status {
        self.0.status.borrow().clone()
    }

    /// Whether nothing is known to be unread. Sooner to be no than [`Self::get`] is to be away: of a look that
    /// hangs, or has failed once, nobody need be told.
    pub fn is_up_to_date(&self) -> bool {
        *self.0.status.borrow() == Status::Following
            && self.0.looks_since.lock().is_none_or(|since| since.elapsed() < LONG_LOOK)
    }

    pub(crate) fn begin_look(&self) {
        self.0.looks_since.lock().get_or_insert_with(Instant::now);
    }

    /// All was read that the table had when the look began.
    pub(crate) fn end_look(&self) {
        *self.0.looks_since.lock() = None;
    }

    /// Says so in the log too, once for each change and not once for each retry.
    pub(crate) fn set(&self, status: Status) {
        self.0.status.send_if_modified(|current| {
            let changed = std::mem::discriminant(current) != std::mem::discriminant(&status);
            if changed {
                match &status {
                    Status::Following => tracing::info!("the tail follows the table again"),
                    Status::Away(reason) => {
                        tracing::warn!(%reason, "the tail lost the database and tries again")
                    }
                }
            }
            metrics().following.set(f64::from(u8::from(status == Status::Following)));
            *current = status;
            changed
        });
    }
}
