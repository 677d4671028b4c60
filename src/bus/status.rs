use std::sync::Arc;

use tokio::sync::watch;

use crate::telemetry::metrics;

/// Whether the tail follows the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Following,
    /// For an operator: what the database answered, or that nothing has been read yet.
    Away(Arc<str>),
}

/// The tail's status: it sets it, `/ready` and `/metrics` read it.
#[derive(Debug, Clone)]
pub struct StatusHandle(Arc<watch::Sender<Status>>);

impl Default for StatusHandle {
    fn default() -> Self {
        metrics().following.set(1.0);
        Self(Arc::new(watch::Sender::new(Status::Following)))
    }
}

impl StatusHandle {
    pub fn get(&self) -> Status {
        self.0.borrow().clone()
    }

    pub fn is_following(&self) -> bool {
        *self.0.borrow() == Status::Following
    }

    /// Says so in the log too, once for each change and not once for each retry.
    pub(crate) fn set(&self, status: Status) {
        self.0.send_if_modified(|current| {
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
