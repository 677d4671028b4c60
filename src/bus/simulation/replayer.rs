use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::database::Database;
use crate::bus::gaps::IdRange;
use crate::bus::log::found::{Channel, Found, Latest, Ranges};

/// A log's connection, whose statements run when their turn comes: rows may come and go in between.
#[derive(Default)]
pub struct Replayer(Line);

/// Where a statement waits for its turn.
#[derive(Clone, Default)]
pub struct Line(Arc<Mutex<Option<Statement>>>);

pub struct Statement {
    /// It reads what another has listed.
    pub is_second: bool,
    run: Box<dyn FnOnce(&Database) + Send>,
}

impl Replayer {
    pub fn line(&self) -> Line {
        self.0.clone()
    }

    async fn ask<T: Send + 'static>(
        &mut self,
        is_second: bool,
        ask: impl FnOnce(&Database) -> T + Send + 'static,
    ) -> Result<T, sqlx::Error> {
        let (sender, answer) = oneshot::channel();
        let run = Box::new(move |database: &Database| {
            // Nobody waits for it where the client has gone.
            let _ = sender.send(ask(database));
        });
        *self.0.0.lock() = Some(Statement { is_second, run });
        answer.await.map_err(|_| sqlx::Error::PoolClosed)
    }
}

/// As a database's own.
impl Replayer {
    pub async fn ranges(&mut self, asked: Ranges<'_>) -> Result<Vec<Found>, sqlx::Error> {
        let streams: Vec<usize> = asked.channels.iter().map(stream).collect();
        let (ranges, limit, inline) = (asked.ranges.to_vec(), asked.limit, asked.inline);
        self.ask(false, move |database| {
            let of = |stream| streams.iter().position(|asked| *asked == stream);
            let rows = database.in_ranges(&ranges);
            rows.filter_map(|row| database.found(row, of, inline)).take(limit).collect()
        })
        .await
    }

    pub async fn latest(&mut self, asked: &[Latest<'_>], inline: usize) -> Result<Vec<Found>, sqlx::Error> {
        let asked: Vec<_> =
            asked.iter().map(|latest| (stream(latest.channel), latest.high, latest.limit)).collect();
        self.ask(false, move |database| {
            let mut found = Vec::new();
            for (at, (stream, high, limit)) in asked.iter().enumerate() {
                let of = |other| (other == *stream).then_some(at);
                let range = [IdRange { first: 1, last: *high }];
                let newest_first = database.in_ranges(&range).rev();
                found.extend(newest_first.filter_map(|row| database.found(row, of, inline)).take(*limit));
            }
            found
        })
        .await
    }

    pub async fn payloads(&mut self, ids: &[i64]) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let ids = ids.to_vec();
        self.ask(true, move |database| {
            ids.into_iter().filter_map(|id| Some((id, payload(*database.table.get(&id)?)))).collect()
        })
        .await
    }
}

impl Line {
    pub fn waits_for_payloads(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|statement| statement.is_second)
    }

    pub fn run(&self, database: &Database) {
        if let Some(statement) = self.0.lock().take() {
            (statement.run)(database);
        }
    }
}

impl Database {
    /// Rows of other streams have the same hash.
    fn found(&self, row: usize, of: impl Fn(usize) -> Option<usize>, inline: usize) -> Option<Found> {
        let of = of(self.rows[row].stream?);
        let size = self.rows[row].size;
        Some(Found {
            id: self.rows[row].id,
            of: of.unwrap_or(0),
            own: of.is_some(),
            size,
            created: Some(self.rows[row].created),
            payload: (of.is_some() && size <= inline).then(|| payload(row)),
        })
    }
}

fn stream(channel: &Channel) -> usize {
    std::str::from_utf8(&channel.name)
        .ok()
        .and_then(|name| name.parse().ok())
        .expect("it was made of a number")
}

/// Which row it is.
fn payload(row: usize) -> Vec<u8> {
    row.to_string().into_bytes()
}
