//! The one connection that this process writes by.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};
use tokio::time::{Instant, timeout};

use super::Database;
use super::connect::Session;
use super::schema::{self, CHANNEL, now, timestamps};
use crate::bus::group::{self, Answered, NewRow, Transaction};
use crate::bus::patience::{PATIENCE, in_time};
use crate::bus::position::Ids;
use crate::bus::request::{IdempotencyKey, Outcome, Request};
use crate::stream::Prefix;

pub struct Writer {
    session: Session,
    table: String,
    schema: String,
    insert: Arc<str>,
    has_helpers: bool,
    used: Instant,
    /// Where the next trim goes on, by time and id: what lies before it is another's.
    trimmed_to: (String, i64),
}

const REST: Duration = Duration::from_millis(500);

/// What is waited for longer than its caller waits ends in the server too. And statements that were planned while a
/// table was empty don't read all of it when it is full.
const SETTINGS: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("default_transaction_read_only", "off"),
    ("quote_all_identifiers", "off"),
];

impl Writer {
    pub(super) async fn open(database: &Database) -> Result<Self, sqlx::Error> {
        let mut session = Session::open(database, &SETTINGS).await?;
        in_time(async {
            session.begin_if_pooled().await?;
            let schema = schema::inspect(&mut session, database).await;
            let schema = schema.map_err(|error| sqlx::Error::Configuration(error.into()))?;
            session.end_if_pooled().await?;
            session.unguard().await?;
            let (columns, now) = timestamps(schema.has_updated_at);
            // After its rows have a transaction id, as in the publishing trigger: servers that sleep
            // are woken by whoever publishes.
            let wake = match &schema.wake_sequence {
                Some(sequence) => format!(
                    "CASE WHEN count(*) OPERATOR(pg_catalog.>) 0 AND
                       pg_catalog.pg_sequence_last_value('{sequence}'::pg_catalog.regclass)::pg_catalog.float8
                       OPERATOR(pg_catalog.>) (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
                       OPERATOR(pg_catalog.*) 1000::pg_catalog.float8)
                     THEN pg_catalog.pg_notify('{CHANNEL}', '')::pg_catalog.text END"
                ),
                None => "NULL".to_owned(),
            };
            let insert = format!(
                "WITH inserted AS (
                   INSERT INTO {} (channel, payload, channel_hash, {columns})
                   SELECT n.channel, n.payload, n.hash, {now}
                   FROM unnest($1::bytea[], $2::bytea[], $3::int8[]) WITH ORDINALITY AS n(channel, payload, hash, place)
                   ORDER BY n.place
                   RETURNING id)
                 SELECT array_agg(id ORDER BY id), {wake} FROM inserted",
                schema.table.name
            );
            Ok(Self {
                session,
                table: schema.table.name,
                schema: schema.table.schema,
                insert: insert.into(),
                has_helpers: schema.has_helpers,
                used: Instant::now(),
                trimmed_to: ("-infinity".to_owned(), 0),
            })
        })
        .await
    }

    /// A connection that has rested is asked before it is used: one that died meanwhile would
    /// leave a publish of which nobody knows whether it was committed.
    pub async fn is_current(&mut self) -> bool {
        let alive = self.used.elapsed() < REST || in_time(self.session.ping()).await.is_ok();
        self.used = Instant::now();
        alive
    }

    pub async fn commit(&mut self, prefix: &Prefix, group: &[Request]) -> Result<Vec<Outcome>, sqlx::Error> {
        in_time(async {
            // Without keys a group is one statement, and that a transaction.
            let begins = self.session.pooled || group.iter().any(|request| request.key.is_some());
            if begins {
                self.session.begin().await?;
            }
            let outcomes = match group::write(self, prefix, group).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    if begins {
                        let _ = timeout(PATIENCE, self.session.roll_back()).await;
                    }
                    return Err(error);
                }
            };
            if begins {
                self.session.commit().await?;
            }
            Ok(outcomes)
        })
        .await
    }

    /// The rows are found along the index on `created_at`; the place is kept, so that another
    /// prefix's old rows are passed once and not on each call. What somebody else is deleting is
    /// left to them.
    pub async fn trim(
        &mut self,
        lead: &str,
        released: &Ids,
        retention_secs: u64,
        batch: u32,
    ) -> Result<bool, sqlx::Error> {
        let table = &self.table;
        let candidates = format!(
            "SELECT id, created_at::text, substring(channel FROM 1 FOR octet_length($1::bytea)) = $1
             FROM {table}
             WHERE (created_at, id) > ($2::text::timestamp, $3)
               AND created_at < {} - make_interval(secs => $4::float8)
             ORDER BY created_at, id LIMIT $5",
            now()
        );
        in_time(async {
            self.session.begin().await?;
            let rows = sqlx::query(AssertSqlSafe(candidates))
                .persistent(!self.session.pooled)
                .bind(lead.as_bytes())
                .bind(&self.trimmed_to.0)
                .bind(self.trimmed_to.1)
                .bind(retention_secs as f64)
                .bind(i64::from(batch))
                .fetch_all(&mut self.session.connection)
                .await?;
            let mut ids = Vec::new();
            for row in &rows {
                let id: i64 = row.try_get(0)?;
                if row.try_get::<Option<bool>, _>(2)? == Some(true) && released.contains(id) {
                    ids.push(id);
                }
            }
            if !ids.is_empty() {
                let delete = format!(
                    "DELETE FROM {table} WHERE id IN (
                       SELECT id FROM {table} WHERE id = ANY ($1::int8[]) ORDER BY id FOR UPDATE SKIP LOCKED)"
                );
                sqlx::query(AssertSqlSafe(delete))
                    .persistent(!self.session.pooled)
                    .bind(ids)
                    .execute(&mut self.session.connection)
                    .await?;
            }
            self.session.commit().await?;
            if let Some(last) = rows.last() {
                self.trimmed_to = (last.try_get(1)?, last.try_get(0)?);
            }
            Ok(rows.len() == batch as usize)
        })
        .await
    }

    pub fn trim_from_the_start(&mut self) {
        self.trimmed_to = ("-infinity".to_owned(), 0);
    }

    /// Forgets idempotency keys after a day.
    pub async fn trim_helpers(&mut self, batch: u32) -> Result<bool, sqlx::Error> {
        if !self.has_helpers {
            return Ok(false);
        }
        let schema = &self.schema;
        let sql = format!(
            "DELETE FROM {schema}.tablecast_idempotency_keys WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM {schema}.tablecast_idempotency_keys WHERE created_at < {} - interval '1 day'
               LIMIT $1 FOR UPDATE SKIP LOCKED))",
            now()
        );
        in_time(async {
            self.session.begin().await?;
            let deleted = sqlx::query(AssertSqlSafe(sql))
                .persistent(!self.session.pooled)
                .bind(i64::from(batch))
                .execute(&mut self.session.connection)
                .await?;
            self.session.commit().await?;
            Ok(deleted.rows_affected() == u64::from(batch))
        })
        .await
    }

    pub async fn close(self) {
        self.session.close().await;
    }
}

impl Transaction for Writer {
    async fn claim(
        &mut self,
        prefix: &Prefix,
        keys: &[&IdempotencyKey],
    ) -> Result<Vec<Option<Answered>>, sqlx::Error> {
        if !self.has_helpers {
            return Err(sqlx::Error::Protocol(
                "an Idempotency-Key needs the tables that `tablecast migrate` makes".into(),
            ));
        }
        let names: Vec<&str> = keys.iter().map(|key| key.key.as_str()).collect();
        let fingerprints: Vec<&[u8]> = keys.iter().map(|key| key.fingerprint.as_slice()).collect();
        let schema = &self.schema;
        // Who claims a key that another transaction holds waits here for that to end.
        let claimed: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "INSERT INTO {schema}.tablecast_idempotency_keys (prefix, idempotency_key, fingerprint, ids, created_at)
             SELECT $1, k.name, k.fingerprint, '', {}
             FROM unnest($2::text[], $3::bytea[]) WITH ORDINALITY AS k(name, fingerprint, place)
             ORDER BY k.place
             ON CONFLICT DO NOTHING RETURNING idempotency_key",
            now()
        )))
        .persistent(!self.session.pooled)
        .bind(prefix.as_str())
        .bind(&names)
        .bind(fingerprints)
        .fetch_all(&mut self.session.connection)
        .await?;

        let known = sqlx::query(AssertSqlSafe(format!(
            "SELECT idempotency_key, fingerprint, ids FROM {schema}.tablecast_idempotency_keys
             WHERE prefix = $1 AND idempotency_key = ANY ($2::text[])"
        )))
        .persistent(!self.session.pooled)
        .bind(prefix.as_str())
        .bind(&names)
        .fetch_all(&mut self.session.connection)
        .await?;
        let mut answers = Vec::with_capacity(keys.len());
        for name in names {
            answers.push(if claimed.iter().any(|claimed| claimed == name) {
                None
            } else {
                let row = known.iter().find(|row| row.get::<&str, _>(0) == name);
                // It was there, and has been trimmed since: once more.
                let row = row.ok_or(sqlx::Error::RowNotFound)?;
                Some(Answered { fingerprint: row.try_get(1)?, ids: row.try_get(2)? })
            });
        }
        Ok(answers)
    }

    async fn insert(&mut self, rows: &[NewRow<'_>]) -> Result<Vec<i64>, sqlx::Error> {
        let channels: Vec<&[u8]> = rows.iter().map(|row| row.channel.as_slice()).collect();
        let payloads: Vec<&[u8]> = rows.iter().map(|row| row.payload).collect();
        let hashes: Vec<i64> = rows.iter().map(|row| row.hash).collect();
        let ids: Option<Vec<i64>> = sqlx::query_scalar(AssertSqlSafe(self.insert.clone()))
            .persistent(!self.session.pooled)
            .bind(channels)
            .bind(payloads)
            .bind(hashes)
            .fetch_one(&mut self.session.connection)
            .await?;
        // Ids are drawn in the order of the rows.
        match ids {
            Some(ids) if ids.len() == rows.len() => Ok(ids),
            // Which of them is gone can't be told, so neither can whose the ids are.
            _ => Err(sqlx::Error::Protocol("a trigger or rule on the table drops rows".into())),
        }
    }

    async fn remember(
        &mut self,
        prefix: &Prefix,
        answers: &[(&IdempotencyKey, &[i64])],
    ) -> Result<(), sqlx::Error> {
        let names: Vec<&str> = answers.iter().map(|(key, _)| key.key.as_str()).collect();
        let ids: Vec<String> =
            answers.iter().map(|(_, ids)| serde_json::to_string(ids).expect("numbers are JSON")).collect();
        let schema = &self.schema;
        sqlx::query(AssertSqlSafe(format!(
            "UPDATE {schema}.tablecast_idempotency_keys AS k SET ids = a.ids
             FROM unnest($2::text[], $3::text[]) AS a(name, ids)
             WHERE k.prefix = $1 AND k.idempotency_key = a.name"
        )))
        .persistent(!self.session.pooled)
        .bind(prefix.as_str())
        .bind(names)
        .bind(ids)
        .execute(&mut self.session.connection)
        .await
        .map(drop)
    }
}
