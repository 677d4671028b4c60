//! Asking PostgreSQL: each time in a transaction of its own, so that it is the same through a pooler
//! that lends another connection for each.

use sqlx::encode::IsNull;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::{PgArgumentBuffer, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgTypeInfo};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Either, Encode, Executor, Postgres, Row, SqlSafeStr,
    Statement, Type, TypeInfo,
};

use super::key::Key;
use super::query::{Query, QueryError};
use super::source::{ACQUIRE_TIMEOUT, Fault, Found, IDLE_TIMEOUT, Meaning, ask, columns, unreachable};
use super::statement::{Described, Prepared, Takes, plain, probe};
use crate::bus::patience::in_time;
use crate::bus::postgres::Location;

#[derive(Debug)]
pub struct Source {
    pub location: Location,
    options: PgConnectOptions,
    pool: PgPool,
}

/// A parameter's type as the server found it, and what it takes.
#[derive(Debug)]
pub struct Parameter {
    info: PgTypeInfo,
    pub takes: Takes,
}

/// Nobody's prepared statement outlives this, and no setting.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '4s'";

impl Source {
    pub fn new(location: &Location, connections: u32) -> Self {
        // Poolers refuse this setting of the startup packet.
        let options = PgConnectOptions::clone(location).extra_float_digits(None);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .connect_lazy_with(options.clone());
        Self { location: location.clone(), options, pool }
    }

    pub async fn reach(&self) -> Result<(), Fault> {
        let reached = in_time(async { self.options.connect().await?.close().await }).await;
        reached.map_err(|error| unreachable(&error))
    }

    pub async fn prepare(&self, query: &Query) -> Result<Prepared<Parameter>, Fault> {
        let (pieces, described) = ask(&self.pool, meaning, async |connection| {
            let mut transaction = connection.begin_with(BEGIN).await?;
            let plainly = describe(&mut transaction, probe(&query.plain, "$1")).await?;
            let found = match plain(query, &plainly) {
                Ok(pieces) => Ok((pieces.clone(), describe(&mut transaction, probe(&pieces, "$1")).await?)),
                Err(error) => Err(error),
            };
            // What was prepared goes with the transaction: by a pooler others would meet it.
            transaction.clear_cached_statements().await?;
            transaction.commit().await?;
            Ok(found)
        })
        .await??;
        let parameters = described.parameters.into_iter().map(Parameter::new).collect::<Result<_, _>>()?;
        Ok(Prepared::new(pieces, Described { columns: described.columns, parameters })?)
    }

    pub async fn rows(&self, asking: &Prepared<Parameter>, keys: &[Key]) -> Result<Vec<Found>, Fault> {
        let sql = asking.statement(
            keys.len(),
            |at| format!("{at}::pg_catalog.int8"),
            "pg_catalog.to_json(found)::pg_catalog.text",
            |at| format!("${at}"),
        );
        ask(&self.pool, meaning, async move |connection| {
            let mut transaction = connection.begin_with(BEGIN).await?;
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            for key in keys {
                query =
                    query.bind(Bound { info: &asking.parameter.info, bytes: asking.parameter.write(key) });
            }
            let rows = query.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            rows.iter().map(|row| Ok((row.try_get::<i64, _>(0)? as usize, row.try_get(1)?))).collect()
        })
        .await
    }
}

async fn describe(connection: &mut PgConnection, sql: String) -> Result<Described<PgTypeInfo>, sqlx::Error> {
    let statement = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await?;
    let parameters = match statement.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    Ok(Described { columns: columns(&statement), parameters })
}

/// Classes: connection, resources, operator's intervention (a timeout too), system, and a conflict
/// with what a standby replays.
fn meaning(error: &dyn DatabaseError) -> Meaning {
    match error.code().unwrap_or_default().get(..2) {
        Some("08" | "40" | "53" | "57" | "58") => Meaning::Away,
        // Data that the query's own expressions can't do with.
        Some("22") => Meaning::Key,
        _ => Meaning::Refused,
    }
}

impl Parameter {
    fn new(info: PgTypeInfo) -> Result<Self, QueryError> {
        let integer = |min, max| Takes::Integer { min, max };
        let takes = match info.name() {
            "INT2" => integer(i16::MIN.into(), i16::MAX.into()),
            "INT4" => integer(i32::MIN.into(), i32::MAX.into()),
            "INT8" => integer(i64::MIN.into(), i64::MAX.into()),
            "UUID" => Takes::Uuid,
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "citext" => Takes::Text,
            other => return Err(QueryError::ParameterType(other.to_lowercase())),
        };
        Ok(Self { info, takes })
    }

    /// A key that this takes, as the protocol writes it.
    fn write(&self, key: &Key) -> Vec<u8> {
        match self.takes {
            Takes::Integer { max, .. } => {
                let bytes = key.integer().expect("it was admitted").to_be_bytes();
                let width = if max == i16::MAX.into() {
                    2
                } else if max == i32::MAX.into() {
                    4
                } else {
                    8
                };
                bytes[bytes.len() - width..].to_vec()
            }
            Takes::Uuid => key.uuid().expect("it was admitted").to_vec(),
            Takes::Text => key.as_str().into(),
        }
    }
}

/// A value of whatever type the server found.
struct Bound<'a> {
    info: &'a PgTypeInfo,
    bytes: Vec<u8>,
}

impl Type<Postgres> for Bound<'_> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl<'q> Encode<'q, Postgres> for Bound<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}
