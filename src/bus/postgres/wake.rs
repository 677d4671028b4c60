//! Sleeping until somebody publishes.
//!
//! # The scheme
//!
//! A NOTIFY for each INSERT would cost writers three quarters of their rate. So the sequence
//! `tablecast_wake` holds a *deadline*, in milliseconds of the database's clock, and a publish
//! notifies only while that lies in the future. A tail that has nothing to do moves it a second
//! ahead (*arms* it), and sleeps; one that is awake polls closely and lets it pass, so that busy
//! writers notify nobody.
//!
//! # Why it holds
//!
//! A sequence isn't transactional: each sees its value at once. A publishing transaction reads
//! the deadline after its row has been inserted, by when it holds a lock on the table and an xid. If
//! it read before the arming, it isn't going to notify; but then it is among those who hold the
//! lock, or have an xid, when the tail looks *after* the arming. The tail polls until these
//! have ended, and once more, and sleeps only then (the *fence*). If it read after the arming, it
//! notifies when it commits. A deadline is never set back, so that several servers don't take it
//! from one another.
//!
//! All this is for speed alone. What is missed here the next poll finds: at `--poll-interval`, or
//! with `--wake notify` at the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect::{MARK, is_direct, refuses_startup_parameters};
use super::schema::CHANNEL;
use super::{Database, Reader, SetupError};
use crate::bus::Wake;
use crate::bus::gaps::{Facts, Transaction};
use crate::bus::patience::{PATIENCE, in_time};
use crate::bus::poll::Flow;

/// For how long a publish notifies after the tail has asked for it.
const DEADLINE: Duration = Duration::from_secs(1);
/// So long before it is over the tail asks again: for what a statement takes, and for a publish
/// that reads the deadline and then the clock.
const MARGIN: Duration = Duration::from_millis(100);
/// Between two looks for what the fence waits for, at first.
const FENCE_POLL: Duration = Duration::from_millis(5);
/// How often the way of a notification is tried, and how long it may take.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_PATIENCE: Duration = Duration::from_secs(2);
/// Where it isn't open, before it is tried anew.
const RETRY: Duration = Duration::from_secs(30);

pub struct Waker {
    /// None with `--wake poll`.
    listener: Option<Listener>,
    /// Whether to poll too while asleep, for rows of those who don't notify.
    polls: bool,
    own_writes: Arc<Notify>,
    flow: Flow,
    armed: Option<Armed>,
}

/// The deadline lies in the future.
struct Armed {
    until: Instant,
    fence: Fence,
    pause: Duration,
}

/// Who may have read the deadline before it was set.
#[derive(Debug, PartialEq, Eq)]
enum Fence {
    /// Nobody has looked since.
    Unknown,
    /// Transactions with xids below, and among them those that hold the table's lock.
    Waiting {
        below: u64,
        running: Vec<Transaction>,
    },
    Passed,
}

impl Waker {
    pub async fn start(database: &Database, own_writes: Arc<Notify>) -> Result<Self, SetupError> {
        let wake = database.0.wake;
        let listener = match wake {
            Wake::Poll => None,
            Wake::Auto => Some(Listener::start(database)),
            Wake::Notify => {
                let listener = Listener::start(database);
                if timeout(PATIENCE, listener.state.tried.notified()).await.is_err() || !listener.works() {
                    return Err(SetupError::NoNotifications(database.to_string()));
                }
                Some(listener)
            }
        };
        let polls = wake != Wake::Notify;
        Ok(Self { listener, polls, own_writes, flow: Flow::default(), armed: None })
    }

    /// Whether the next look should list transactions.
    pub fn wants_facts(&self) -> bool {
        self.armed.as_ref().is_some_and(|armed| armed.fence != Fence::Passed)
    }

    pub fn looked(&mut self, rows: usize, facts: Option<&Facts>) {
        self.flow.looked(rows);
        if let (Some(armed), Some(facts)) = (&mut self.armed, facts) {
            armed.fence.looked(facts);
        }
    }

    /// Waits until the table is worth a look. Cancel-safe.
    pub async fn rest(&mut self, reader: &mut Reader, longest: Duration) -> Result<(), sqlx::Error> {
        let sequence = reader.wake_sequence().filter(|_| self.listener.as_ref().is_some_and(Listener::works));
        let Some(sequence) = sequence.filter(|_| !self.flow.is_flowing()) else {
            self.armed = None;
            self.wait(self.flow.pause(longest)).await;
            return Ok(());
        };
        if let Some(armed) = &mut self.armed {
            let rest = armed.until.saturating_duration_since(Instant::now() + MARGIN);
            let pause = if armed.fence == Fence::Passed {
                if self.polls { longest.min(rest) } else { rest }
            } else {
                armed.pause = (armed.pause * 2).min(longest);
                armed.pause.min(rest)
            };
            let was_woken = self.wait(pause).await;
            if was_woken || pause < rest {
                return Ok(());
            }
        }
        // The deadline is one of the database's clock; ours begins before it.
        let until = Instant::now() + DEADLINE;
        let sql = format!(
            "SELECT setval('{sequence}', greatest((SELECT last_value FROM {sequence}),
               (date_part('epoch', clock_timestamp()) * 1000)::int8 + {}))",
            DEADLINE.as_millis()
        );
        let session = reader.session();
        in_time(session.connection.execute(AssertSqlSafe(sql))).await?;
        self.armed = Some(Armed { until, fence: Fence::Unknown, pause: FENCE_POLL });
        Ok(())
    }

    /// Whether something came before the pause was over.
    async fn wait(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.own_writes.notified() => true,
            () = heard(self.listener.as_ref()) => true,
            () = sleep(pause) => false,
        }
    }
}

async fn heard(listener: Option<&Listener>) {
    match listener {
        Some(listener) => listener.state.heard.notified().await,
        None => std::future::pending().await,
    }
}

impl Fence {
    /// Takes in what a look has shown.
    fn looked(&mut self, facts: &Facts) {
        let Some(snapshot) = facts.snapshot else { return };
        let passed = match self {
            Self::Unknown => {
                *self = Self::Waiting { below: snapshot.xmax, running: facts.running.clone() };
                snapshot.xmin >= snapshot.xmax
            }
            Self::Waiting { below, running } => {
                // Those who are gone from the last list had committed by then, so that this
                // look, which is later, has shown their rows.
                let all_gone = running.is_empty();
                running.retain(|transaction| facts.running.contains(transaction));
                all_gone || snapshot.xmin >= *below
            }
            Self::Passed => true,
        };
        if passed {
            *self = Self::Passed;
        }
    }
}

/// A connection of its own that hears notifications, and makes sure that it would.
struct Listener {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Somebody has published.
    heard: Notify,
    /// Notifications arrive: one of our own did, some seconds ago at most.
    works: AtomicBool,
    /// That has been found out, or not.
    tried: Notify,
}

impl Listener {
    fn start(database: &Database) -> Self {
        let state = Arc::new(State::default());
        let task = tokio::spawn(listen(database.clone(), state.clone()));
        Self { state, task }
    }

    fn works(&self) -> bool {
        self.state.works.load(Ordering::Acquire)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Hears for as long as the process lives.
async fn listen(database: Database, state: Arc<State>) {
    let (mut has_worked, mut told) = (false, false);
    loop {
        let ended = hear(&database, &state).await;
        has_worked |= state.works.swap(false, Ordering::AcqRel);
        state.tried.notify_one();
        // Whatever happened while nobody heard: the tail looks, and from now on polls.
        state.heard.notify_one();
        let pause = match ended {
            // The database is away, which the tail tells.
            Silence::Lost(error) if has_worked => {
                tracing::debug!(%error, "the connection for notifications was lost");
                Duration::from_secs(1)
            }
            ended => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        reason = %ended,
                        "the database's notifications don't arrive, and the tail polls each --poll-interval"
                    );
                }
                RETRY
            }
        };
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("{0}")]
    Lost(#[from] sqlx::Error),
    #[error("a pooler stands between")]
    Pooled,
    #[error("a notification of our own did not come back")]
    NoEcho,
}

async fn hear(database: &Database, state: &State) -> Silence {
    match try_to_hear(database, state).await {
        Ok(silence) => silence,
        Err(error) => Silence::Lost(error),
    }
}

async fn try_to_hear(database: &Database, state: &State) -> Result<Silence, sqlx::Error> {
    let options = PgConnectOptions::clone(&database.0.options).options([(MARK, "on")]);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(options);
    let mut listener = match PgListener::connect_with(&pool).await {
        Err(error) if refuses_startup_parameters(&error) => return Ok(Silence::Pooled),
        listener => listener?,
    };
    listener.eager_reconnect(false);
    // A LISTEN that a pooler gives to one of its connections stays there, and what it hears goes to
    // whoever is served by that. Even our own notification would come back, by chance.
    if !in_time(is_direct(&mut listener)).await? {
        return Ok(Silence::Pooled);
    }
    let echo = format!("tablecast_check_{:016x}", rand::random::<u64>());
    in_time(listener.listen_all([CHANNEL, echo.as_str()])).await?;
    loop {
        in_time(listener.execute(AssertSqlSafe(format!("NOTIFY {echo}")))).await?;
        let next_check = Instant::now() + CHECK_INTERVAL;
        let mut echoed = false;
        loop {
            let until = if echoed { next_check } else { next_check - CHECK_INTERVAL + CHECK_PATIENCE };
            match timeout_at(until, listener.try_recv()).await {
                Err(_) if echoed => break,
                Err(_) => return Ok(Silence::NoEcho),
                Ok(Ok(Some(notification))) if notification.channel() == echo => {
                    echoed = true;
                    // A tail that rests since before looks, and arms: until then nobody would notify.
                    if !state.works.swap(true, Ordering::AcqRel) {
                        state.heard.notify_one();
                    }
                    state.tried.notify_one();
                }
                Ok(Ok(Some(_))) => state.heard.notify_one(),
                Ok(Ok(None)) => {
                    let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Ok(Silence::Lost(sqlx::Error::Io(lost)));
                }
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::gaps::Snapshot;

    fn facts(xmin: u64, xmax: u64, running: &[u64]) -> Facts {
        let running = running.iter().map(|name| Transaction(*name)).collect();
        Facts { snapshot: Some(Snapshot { xmin, xmax }), running }
    }

    fn passes(looks: &[Facts]) -> Vec<bool> {
        let mut fence = Fence::Unknown;
        looks
            .iter()
            .map(|facts| {
                fence.looked(facts);
                fence == Fence::Passed
            })
            .collect()
    }

    #[test]
    fn where_nobody_writes_one_look_is_enough() {
        assert_eq!(passes(&[facts(7, 7, &[])]), [true]);
    }

    #[test]
    fn who_may_have_read_the_old_deadline_is_waited_for_and_then_looked_at_once_more() {
        let looks = [facts(5, 8, &[1]), facts(5, 9, &[1]), facts(6, 9, &[]), facts(6, 9, &[2])];
        assert_eq!(passes(&looks), [false, false, false, true]);
    }

    #[test]
    fn a_long_transaction_elsewhere_in_the_database_costs_one_look() {
        assert_eq!(passes(&[facts(2, 8, &[]), facts(2, 8, &[])]), [false, true]);
    }

    #[test]
    fn who_comes_after_the_arming_is_not_waited_for() {
        assert_eq!(passes(&[facts(5, 8, &[1]), facts(8, 9, &[3])]), [false, true]);
    }
}
