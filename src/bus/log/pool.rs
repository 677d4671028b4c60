//! The connections that read back: few, lent in the order of asking.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::bus::cut::Rejection;
use crate::bus::database::{Database, Replayer};

/// Who waits for a connection is served in turn: tokio's semaphore is fair.
pub struct Pool {
    database: Database,
    places: Semaphore,
    idle: Arc<Mutex<Idle>>,
}

/// The last used last.
#[derive(Default)]
struct Idle {
    connections: Vec<(Replayer, Instant)>,
    /// A task will close what is here for long.
    is_watched: bool,
}

/// A connection in use. It is closed unless it is given back: who goes away meanwhile leaves it in the
/// middle of something.
pub struct Lent<'a> {
    pub replayer: Replayer,
    pool: &'a Pool,
    _place: SemaphorePermit<'a>,
}

/// After a storm the database has its connections back.
const IDLE_FOR: Duration = Duration::from_secs(60);
/// One that has rested for longer is asked before it is used.
const REST: Duration = Duration::from_millis(500);

impl Pool {
    pub fn new(database: Database, connections: usize) -> Self {
        Self { database, places: Semaphore::new(connections.max(1)), idle: Arc::default() }
    }

    /// Of one connection, which is there already, and is never closed.
    #[cfg(test)]
    pub fn of(database: Database, replayer: Replayer) -> Self {
        let idle = Idle { connections: vec![(replayer, Instant::now())], is_watched: true };
        Self { database, places: Semaphore::new(1), idle: Arc::new(Mutex::new(idle)) }
    }

    pub async fn lend(&self) -> Result<Lent<'_>, sqlx::Error> {
        let place = self.places.acquire().await.expect("it is never closed");
        loop {
            let idle = self.idle.lock().connections.pop();
            let Some((mut replayer, since)) = idle else {
                let replayer = self.database.replayer().await?;
                return Ok(Lent { replayer, pool: self, _place: place });
            };
            if replayer.is_current(since.elapsed() >= REST).await {
                return Ok(Lent { replayer, pool: self, _place: place });
            }
        }
    }

    pub fn away(&self, error: sqlx::Error) -> Rejection {
        Rejection::Away(self.database.setup_error(error).to_string().into())
    }
}

impl Lent<'_> {
    /// It has answered all that it was asked.
    pub fn give_back(self) {
        let mut idle = self.pool.idle.lock();
        idle.connections.push((self.replayer, Instant::now()));
        if !std::mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_idle(Arc::downgrade(&self.pool.idle)));
        }
    }
}

/// Closes what nobody has used for long, and ends when nothing is left.
async fn close_idle(idle: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(IDLE_FOR).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut now = idle.lock();
        now.connections.retain(|(_, since)| since.elapsed() < IDLE_FOR);
        now.is_watched = !now.connections.is_empty();
        if !now.is_watched {
            return;
        }
    }
}
