use data_encoding::HEXLOWER;

use super::Database;
use super::connect::{Purpose, Session, bytes, number};
use super::schema;
use crate::bus::gaps::IdRange;
use crate::bus::patience::in_time;

/// Reads back what a channel had. Each secondary index of InnoDB carries the id, so that the one on
/// `channel_hash` finds its last rows, or those of a range; the optimizer is told so, since it
/// would walk the primary key backward where it takes a stream for a common one.
pub struct Replayer {
    session: Session,
    /// With the hint.
    table: String,
    max_payload_bytes: usize,
}

impl Replayer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(&database.0.options, Purpose::Tail).await?;
        let schema = in_time(async { Ok(schema::inspect(&mut session, database).await?) }).await?;
        let hint = schema.hash_index.map(|index| format!(" FORCE INDEX (`{index}`)")).unwrap_or_default();
        let table = format!("`{}`{hint}", database.0.table);
        Ok(Self { session, table, max_payload_bytes: database.0.max_payload_bytes })
    }

    pub async fn ranges(
        &mut self,
        channel: &[u8],
        hash: i64,
        ranges: &[IdRange],
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let mut found = Vec::new();
        for range in ranges {
            let rest = limit - found.len();
            if rest == 0 {
                break;
            }
            found.extend(self.rows("ASC", channel, hash, *range, rest).await?);
        }
        Ok(found)
    }

    pub async fn latest(
        &mut self,
        channel: &[u8],
        hash: i64,
        high: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        self.rows("DESC", channel, hash, IdRange { first: 1, last: high }, limit).await
    }

    async fn rows(
        &mut self,
        order: &str,
        channel: &[u8],
        hash: i64,
        IdRange { first, last }: IdRange,
        limit: usize,
    ) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        let sql = format!(
            "SELECT id, payload FROM {}
             WHERE channel_hash = {hash} AND id BETWEEN {first} AND {last} AND channel = x'{}'
               AND LENGTH(payload) <= {}
             ORDER BY id {order} LIMIT {limit}",
            self.table,
            HEXLOWER.encode(channel),
            self.max_payload_bytes
        );
        let rows = in_time(self.session.rows(sql)).await?;
        rows.iter()
            .map(|row| {
                let id = number(row, 0)?.ok_or(sqlx::Error::RowNotFound)?;
                Ok((id, bytes(row, 1)?.unwrap_or_default()))
            })
            .collect()
    }
}
