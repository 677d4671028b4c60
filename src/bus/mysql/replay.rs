use data_encoding::HEXLOWER;
use sqlx::mysql::MySqlRow;

use super::Database;
use super::connect::{Purpose, Session, bytes, number};
use super::read::required;
use super::schema;
use crate::bus::gaps::IdRange;
use crate::bus::log::found::{Channel, Found, Latest, Ranges};
use crate::bus::patience::in_time;

/// Reads back what a channel had. Each secondary index of InnoDB carries the id, so that the one on
/// `channel_hash` finds its last rows, or those of a range; the optimizer is told so, since it
/// would walk the primary key backward where it takes a stream for a common one.
pub struct Replayer {
    session: Session,
    table: String,
    /// With the hint.
    by_hash: String,
    max_payload_bytes: usize,
}

/// So many channels and ranges to a statement.
const PARTS: usize = 64;

impl Replayer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(&database.0.options, Purpose::Tail).await?;
        let schema = in_time(async { Ok(schema::inspect(&mut session, database).await?) }).await?;
        let hint = schema.hash_index.map(|index| format!(" FORCE INDEX (`{index}`)")).unwrap_or_default();
        let table = format!("`{}`", database.0.table);
        let by_hash = format!("{table}{hint}");
        Ok(Self { session, table, by_hash, max_payload_bytes: database.0.max_payload_bytes })
    }

    pub async fn answers(&mut self) -> bool {
        in_time(self.session.run("DO 1")).await.is_ok()
    }

    pub async fn ranges(&mut self, asked: Ranges<'_>) -> Result<Vec<Found>, sqlx::Error> {
        let Ranges { channels, ranges, limit, inline } = asked;
        let mut parts = Vec::with_capacity(channels.len() * ranges.len());
        for range in ranges {
            for (of, channel) in channels.iter().enumerate() {
                parts.push(self.part(channel, of, *range, "ASC", limit, inline));
            }
        }
        let mut found = Vec::new();
        for parts in parts.chunks(PARTS) {
            // Those of any statement are the first among its own.
            let sql = union(parts, &format!(" ORDER BY id LIMIT {limit}"));
            for row in in_time(self.session.rows(sql)).await? {
                found.push(self::found(&row)?);
            }
            found.sort_unstable_by_key(|row| row.id);
            found.truncate(limit);
        }
        Ok(found)
    }

    pub async fn latest(&mut self, asked: &[Latest<'_>], inline: usize) -> Result<Vec<Found>, sqlx::Error> {
        let part = |(of, Latest { channel, high, limit }): (usize, &Latest<'_>)| {
            self.part(channel, of, IdRange { first: 1, last: *high }, "DESC", *limit, inline)
        };
        let parts: Vec<String> = asked.iter().enumerate().map(part).collect();
        let mut found = Vec::new();
        for parts in parts.chunks(PARTS) {
            for row in in_time(self.session.rows(union(parts, ""))).await? {
                found.push(self::found(&row)?);
            }
        }
        found.sort_unstable_by_key(|row| (row.of, std::cmp::Reverse(row.id)));
        Ok(found)
    }

    fn part(
        &self,
        channel: &Channel,
        of: usize,
        IdRange { first, last }: IdRange,
        order: &str,
        limit: usize,
        inline: usize,
    ) -> String {
        let Self { by_hash, max_payload_bytes: max, .. } = self;
        let (hash, name) = (channel.hash, HEXLOWER.encode(&channel.name));
        let inline = inline.min(*max);
        format!(
            "SELECT id, {of} AS part, channel = x'{name}' AND LENGTH(payload) <= {max} AS own,
               LENGTH(payload) AS size, TIMESTAMPDIFF(SECOND, '1970-01-01', created_at) AS created,
               IF(channel = x'{name}' AND LENGTH(payload) <= {inline}, payload, NULL) AS payload
             FROM {by_hash} WHERE channel_hash = {hash} AND id BETWEEN {first} AND {last}
             ORDER BY id {order} LIMIT {limit}"
        )
    }

    pub async fn payloads(&mut self, ids: &[i64]) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        let sql = format!("SELECT id, payload FROM {} WHERE id IN ({})", self.table, ids.join(", "));
        let rows = in_time(self.session.rows(sql)).await?;
        rows.iter().map(|row| Ok((required(row, 0)?, bytes(row, 1)?.unwrap_or_default()))).collect()
    }
}

fn union(parts: &[String], end: &str) -> String {
    match parts {
        [part] => part.clone(),
        parts => format!("({}){end}", parts.join(") UNION ALL (")),
    }
}

fn found(row: &MySqlRow) -> Result<Found, sqlx::Error> {
    Ok(Found {
        id: required(row, 0)?,
        of: required(row, 1)?,
        own: number(row, 2)? == Some(1),
        size: number(row, 3)?.unwrap_or_default(),
        created: number(row, 4)?,
        payload: bytes(row, 5)?,
    })
}
