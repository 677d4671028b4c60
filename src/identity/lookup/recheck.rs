//! Asking again for the sessions of open connections: a logout deletes the row, and the socket is as
//! open as before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{BATCH, Key, Lookup, LookupError, Row};
use crate::telemetry::OnceAMinute;

/// What an open connection was let in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    pub key: Key,
    /// What its row said then: whose it was, and what that user might do.
    pub row: Arc<Row>,
}

/// What the rows say now of sessions that have ended, or changed since somebody was let in by them.
pub type Ended = HashMap<Key, Option<Arc<Row>>>;

/// How soon a database that is away is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// Asks for all that `open` gives, every `every`, in batches that are spread over that time. Where a
/// session is gone, or its row says something else, `ended` is told its key and what the row says now, of all
/// of a batch at once: the connections with these keys that were let in by another row are to be closed. Each time
/// that costs a look at every connection; and the end of a round is up to `every` away. Never ends.
///
/// A database that doesn't answer ends nobody: that would throw all clients out for an outage which
/// says nothing about them, and have them come back at once to where they can't be let in. Their sessions
/// are asked for again, from the beginning, as soon as it answers.
pub async fn recheck(
    lookup: Lookup,
    every: Duration,
    open: impl Fn() -> Vec<OpenSession>,
    ended: impl Fn(&Ended),
) {
    let ask = |keys: Vec<Key>| {
        let lookup = lookup.clone();
        async move { lookup.ask_many(&keys).await }
    };
    run(ask, every, open, ended).await;
}

/// The row of each of these sessions.
type Rows = Result<Vec<Option<Arc<Row>>>, LookupError>;

async fn run<Asked: Future<Output = Rows>>(
    ask: impl Fn(Vec<Key>) -> Asked,
    every: Duration,
    open: impl Fn() -> Vec<OpenSession>,
    ended: impl Fn(&Ended),
) {
    let mut told = OnceAMinute::default();
    sleep(every).await;
    loop {
        let began = Instant::now();
        if let Err(error) = round(&ask, every, &open, &ended).await {
            if told.is_due() {
                tracing::warn!(%error, "sessions of open connections can't be asked for; they stay open");
            }
            sleep(RETRY.min(every)).await;
        } else {
            sleep_until(began + every).await;
        }
    }
}

async fn round<Asked: Future<Output = Rows>>(
    ask: impl Fn(Vec<Key>) -> Asked,
    every: Duration,
    open: impl Fn() -> Vec<OpenSession>,
    ended: impl Fn(&Ended),
) -> Result<(), LookupError> {
    let began = Instant::now();
    let mut rows: HashMap<Key, HashSet<Arc<Row>>> = HashMap::new();
    for session in open() {
        rows.entry(session.key).or_default().insert(session.row);
    }
    // In one order each time, so that none is asked for first in one round and last in the next.
    let mut keys: Vec<&Key> = rows.keys().collect();
    keys.sort_unstable_by_key(|key| key.as_str());
    let batches = keys.len().div_ceil(BATCH);
    for (at, batch) in keys.chunks(BATCH).enumerate() {
        sleep_until(began + every.mul_f64(at as f64 / batches as f64)).await;
        let batch: Vec<Key> = batch.iter().map(|key| (*key).clone()).collect();
        let now = ask(batch.clone()).await?;
        let is_other =
            |(key, now): &(Key, Option<Arc<Row>>)| rows[key].iter().any(|row| now.as_ref() != Some(row));
        let others: Ended = batch.into_iter().zip(now).filter(is_other).collect();
        if !others.is_empty() {
            ended(&others);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::ready;

    use serde_json::{Map, Value, json};
    use tokio::time::timeout;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(id: u64) -> Key {
        Key::new(&json!(id)).unwrap()
    }

    fn row(user: Value) -> Arc<Row> {
        Arc::new(Row { user, claims: Map::new() })
    }

    fn sessions(ids: std::ops::RangeInclusive<u64>) -> Vec<OpenSession> {
        ids.map(|id| OpenSession { key: key(id), row: row(json!(id)) }).collect()
    }

    /// Everybody's session is there.
    fn found(keys: &[Key]) -> Vec<Option<Arc<Row>>> {
        keys.iter().map(|key| serde_json::from_str(key.as_str()).ok().map(row)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_spread_over_its_time() {
        let (began, asked) = (Instant::now(), RefCell::new(Vec::new()));
        let ask = |keys: Vec<Key>| {
            asked.borrow_mut().push((began.elapsed().as_secs(), keys.len()));
            ready(Ok(found(&keys)))
        };

        let time = 2 * MINUTE + Duration::from_secs(1);
        let _ = timeout(time, run(ask, MINUTE, || sessions(1..=350), |_| panic!("nobody has ended"))).await;

        assert_eq!(*asked.borrow(), [(60, 100), (75, 100), (90, 100), (105, 50), (120, 100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_or_another_is_told_and_nobody_else() {
        let ended = RefCell::new(Vec::new());
        let ask = |keys: Vec<Key>| {
            let now = |key: &Key| match key.as_str() {
                "2" => None,
                "3" => Some(row(json!(9))),
                id => serde_json::from_str(id).ok().map(row),
            };
            ready(Ok(keys.iter().map(now).collect()))
        };
        let open = || sessions(1..=4).into_iter().chain(sessions(2..=2)).collect();

        let told = |others: &Ended| {
            let told =
                others.iter().map(|(key, now)| (key.clone(), now.as_ref().map(|row| row.user.clone())));
            ended.borrow_mut().push(told.collect::<Vec<_>>());
        };
        let _ = timeout(MINUTE + Duration::from_secs(1), run(ask, MINUTE, open, told)).await;

        let [mut ended] = <[_; 1]>::try_from(ended.into_inner()).expect("all of them at once");
        ended.sort_by_key(|(key, _)| key.as_str().to_owned());
        assert_eq!(ended, [(key(2), None), (key(3), Some(json!(9)))], "each once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_changed_hands_ends_for_who_had_it_before() {
        let ended = Cell::new(0);
        let ask = |keys: Vec<Key>| ready(Ok(keys.iter().map(|_| Some(row(json!(2)))).collect()));
        let open = || [1, 2].map(|user| OpenSession { key: key(7), row: row(json!(user)) }).into();

        let told = |others: &Ended| {
            assert_eq!(others[&key(7)].as_ref().map(|row| &row.user), Some(&json!(2)));
            ended.set(ended.get() + 1);
        };
        let _ = timeout(MINUTE + Duration::from_secs(1), run(ask, MINUTE, open, told)).await;

        assert_eq!(ended.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_ends_nobody_and_what_ended_meanwhile_is_told_after_it() {
        let (began, ended) = (Instant::now(), Cell::new(None));
        let ask = |keys: Vec<Key>| {
            if began.elapsed() < Duration::from_secs(63) {
                return ready(Err(LookupError::Away("it is".into())));
            }
            ready(Ok(keys.iter().map(|_| None).collect()))
        };

        let told = |_: &Ended| ended.set(Some(began.elapsed().as_secs()));
        let _ = timeout(MINUTE + RETRY + Duration::from_secs(1), run(ask, MINUTE, || sessions(1..=1), told))
            .await;

        assert_eq!(ended.get(), Some(65));
    }
}
