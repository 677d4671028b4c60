use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::Database;
use super::connect::Session;
use super::schema;
use crate::bus::log::found::{Found, Latest, Ranges};
use crate::bus::patience::in_time;

/// Reads back what a channel had, along the index on `(channel_hash, id)`.
///
/// Written as a range of that pair, ordered by both, and planned for its values: for anything
/// less the planner walks the primary key backward where statistics say that a stream is common,
/// which takes 80 ms when it has been quiet (0.1 ms so). What is compared with the channel is no more
/// than a page: rows of another channel with the same hash are as many as their writer likes.
pub struct Replayer {
    session: Session,
    ranges: String,
    latest: String,
    payloads: String,
    max_payload_bytes: i32,
}

const RANGES: &str = include_str!("../../../migrations/postgres/ranges.sql");
const LATEST: &str = include_str!("../../../migrations/postgres/latest.sql");

/// The planner expects few rows, and would sort all that the index on the hash alone finds. And who is no longer
/// waited for doesn't go on working.
const SETTINGS: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_sort", "off"),
    ("enable_incremental_sort", "off"),
    ("jit", "off"),
    ("lock_timeout", "4s"),
    ("statement_timeout", "5s"),
];

impl Replayer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(database, &SETTINGS).await?;
        in_time(async {
            session.begin_if_pooled().await?;
            let schema = schema::inspect(&mut session, database).await;
            let table = schema.map_err(|error| sqlx::Error::Configuration(error.into()))?.table.name;
            session.end_if_pooled().await?;
            let max_payload_bytes = i32::try_from(database.0.max_payload_bytes).unwrap_or(i32::MAX);
            let fill = |sql: &str| sql.replace("{{table}}", &table);
            Ok(Self {
                session,
                ranges: fill(RANGES),
                latest: fill(LATEST),
                payloads: fill("SELECT t.id, t.payload FROM {{table}} AS t WHERE t.id = ANY ($1::int8[])"),
                max_payload_bytes,
            })
        })
        .await
    }

    /// A transaction with the settings that a pooler's connection can't have for longer.
    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        if self.session.pooled {
            self.session.begin().await?;
            let settings = SETTINGS.map(|(name, value)| format!("SET LOCAL {name} = '{value}';"));
            self.session.connection.execute(AssertSqlSafe(settings.concat())).await?;
        }
        Ok(())
    }

    pub async fn answers(&mut self) -> bool {
        in_time(self.session.ping()).await.is_ok()
    }

    pub async fn ranges(&mut self, asked: Ranges<'_>) -> Result<Vec<Found>, sqlx::Error> {
        let hashes: Vec<i64> = asked.channels.iter().map(|channel| channel.hash).collect();
        let names: Vec<&[u8]> = asked.channels.iter().map(|channel| channel.name.as_slice()).collect();
        let firsts: Vec<i64> = asked.ranges.iter().map(|range| range.first).collect();
        let lasts: Vec<i64> = asked.ranges.iter().map(|range| range.last).collect();
        in_time(async {
            self.begin().await?;
            let rows = sqlx::query(AssertSqlSafe(self.ranges.clone()))
                .persistent(!self.session.pooled)
                .bind(hashes)
                .bind(names)
                .bind(self.max_payload_bytes)
                .bind(small(asked.inline))
                .bind(small(asked.limit))
                .bind(firsts)
                .bind(lasts)
                .fetch_all(&mut self.session.connection)
                .await?;
            self.session.end_if_pooled().await?;
            rows.iter().map(found).collect()
        })
        .await
    }

    pub async fn latest(&mut self, asked: &[Latest<'_>], inline: usize) -> Result<Vec<Found>, sqlx::Error> {
        // A statement for each limit, which is planned for.
        let mut limits: Vec<usize> = asked.iter().map(|latest| latest.limit).collect();
        limits.sort_unstable();
        limits.dedup();
        let mut all = Vec::new();
        for limit in limits {
            let places: Vec<usize> = (0..asked.len()).filter(|at| asked[*at].limit == limit).collect();
            let asked = || places.iter().map(|at| &asked[*at]);
            let hashes: Vec<i64> = asked().map(|latest| latest.channel.hash).collect();
            let names: Vec<&[u8]> = asked().map(|latest| latest.channel.name.as_slice()).collect();
            let highs: Vec<i64> = asked().map(|latest| latest.high).collect();
            let rows = in_time(async {
                self.begin().await?;
                let rows = sqlx::query(AssertSqlSafe(self.latest.clone()))
                    .persistent(!self.session.pooled)
                    .bind(hashes)
                    .bind(names)
                    .bind(self.max_payload_bytes)
                    .bind(small(inline))
                    .bind(small(limit))
                    .bind(highs)
                    .fetch_all(&mut self.session.connection)
                    .await?;
                self.session.end_if_pooled().await?;
                Ok(rows)
            })
            .await?;
            for row in &rows {
                let row = found(row)?;
                all.push(Found { of: places[row.of], ..row });
            }
        }
        all.sort_unstable_by_key(|row| (row.of, std::cmp::Reverse(row.id)));
        Ok(all)
    }

    pub async fn payloads(&mut self, ids: &[i64]) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        in_time(async {
            self.begin().await?;
            let rows = sqlx::query(AssertSqlSafe(self.payloads.clone()))
                .persistent(!self.session.pooled)
                .bind(ids)
                .fetch_all(&mut self.session.connection)
                .await?;
            self.session.end_if_pooled().await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
        .await
    }
}

fn found(row: &PgRow) -> Result<Found, sqlx::Error> {
    Ok(Found {
        id: row.try_get(0)?,
        of: row.try_get::<i64, _>(1)? as usize - 1,
        own: row.try_get(2)?,
        size: row.try_get::<i32, _>(3)? as usize,
        created: row.try_get(4)?,
        payload: row.try_get(5)?,
    })
}

fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
