use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::Database;
use super::connect::Session;
use super::schema;
use crate::bus::gaps::IdRange;
use crate::bus::patience::in_time;

/// Reads back what a channel had, along the index on `(channel_hash, id)`.
///
/// Written as a range of that pair, ordered by both, and planned for its values: for anything
/// less the planner walks the primary key backward where statistics say that a stream is common,
/// which takes 80 ms when it has been quiet (0.1 ms so).
pub struct Replayer {
    session: Session,
    table: String,
    max_payload_bytes: i32,
}

const SETTINGS: [(&str, &str); 2] = [("plan_cache_mode", "force_custom_plan"), ("jit", "off")];

impl Replayer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(database, &SETTINGS).await?;
        in_time(async {
            session.begin_if_pooled().await?;
            let schema = schema::inspect(&mut session, database).await;
            let table = schema.map_err(|error| sqlx::Error::Configuration(error.into()))?.table.name;
            session.end_if_pooled().await?;
            let max_payload_bytes = i32::try_from(database.0.max_payload_bytes).unwrap_or(i32::MAX);
            Ok(Self { session, table, max_payload_bytes })
        })
        .await
    }

    pub async fn ranges(
        &mut self,
        channel: &[u8],
        hash: i64,
        ranges: &[IdRange],
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let sql = format!(
            "SELECT m.id, m.payload FROM unnest($5::int8[], $6::int8[]) AS g(first, last), LATERAL (
               SELECT t.id, t.payload FROM {} AS t
               WHERE (t.channel_hash, t.id) >= ($1, g.first) AND (t.channel_hash, t.id) <= ($1, g.last)
                 AND t.channel = $2 AND octet_length(t.payload) <= $3
               ORDER BY t.channel_hash, t.id LIMIT $4) AS m
             LIMIT $4",
            self.table
        );
        let firsts: Vec<i64> = ranges.iter().map(|range| range.first).collect();
        let lasts: Vec<i64> = ranges.iter().map(|range| range.last).collect();
        in_time(async {
            self.session.begin_if_pooled().await?;
            let rows = sqlx::query(AssertSqlSafe(sql))
                .persistent(!self.session.pooled)
                .bind(hash)
                .bind(channel)
                .bind(self.max_payload_bytes)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(firsts)
                .bind(lasts)
                .fetch_all(&mut self.session.connection)
                .await?;
            self.session.end_if_pooled().await?;
            pairs(rows)
        })
        .await
    }

    pub async fn latest(
        &mut self,
        channel: &[u8],
        hash: i64,
        high: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let sql = format!(
            "SELECT t.id, t.payload FROM {} AS t
             WHERE (t.channel_hash, t.id) >= ($1, 1) AND (t.channel_hash, t.id) <= ($1, $5)
               AND t.channel = $2 AND octet_length(t.payload) <= $3
             ORDER BY t.channel_hash DESC, t.id DESC LIMIT $4",
            self.table
        );
        in_time(async {
            self.session.begin_if_pooled().await?;
            let rows = sqlx::query(AssertSqlSafe(sql))
                .persistent(!self.session.pooled)
                .bind(hash)
                .bind(channel)
                .bind(self.max_payload_bytes)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(high)
                .fetch_all(&mut self.session.connection)
                .await?;
            self.session.end_if_pooled().await?;
            pairs(rows)
        })
        .await
    }
}

fn pairs(rows: Vec<PgRow>) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
    rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
