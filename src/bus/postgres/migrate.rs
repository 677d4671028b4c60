//! Making the table and its helpers.
//!
//! What is made is a state and not a number of steps: each run makes what is missing or was made
//! by an older script, and nothing where all is there.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, Row};
use tokio::time::{Instant, sleep};

use super::Database;
use super::connect::Session;
use super::schema::{self, Schema, SetupError, timestamps};
use crate::bus::channel_hash;
use crate::bus::database::{DefaultPrefix, Migration};
use crate::stream::Prefix;

const MESSAGES: &str = include_str!("../../../migrations/postgres/messages.sql");
const HELPERS: &str = include_str!("../../../migrations/postgres/helpers.sql");
const PUBLISH: &str = include_str!("../../../migrations/postgres/publish.sql");
const WAKE: &str = include_str!("../../../migrations/postgres/wake.sql");
const WAKE_TRIGGER: &str = include_str!("../../../migrations/postgres/wake_trigger.sql");
const FENCE: &str = include_str!("../../../migrations/postgres/fence.sql");
const INDEX: &str = include_str!("../../../migrations/postgres/index.sql");
const UNINSTALL: &str = include_str!("../../../migrations/postgres/uninstall.sql");

/// Longer than another's migration takes, but for the index of a very large table.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// When somebody who looks on should know for whom it waits.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// A worker's open transaction may hold what is to be locked; those who come after us don't wait for
/// longer than this.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";
/// "Does not exist, skipping" is nothing to tell.
const QUIET: [(&str, &str); 1] = [("client_min_messages", "warning")];
/// What `tablecast_publish_<prefix>` leaves of a name's 63 bytes.
const MAX_FENCE_BYTES: usize = 45;

/// Scripts to be run: in one transaction, then one by one outside of any.
#[derive(Default)]
struct Plan {
    together: Vec<String>,
    apart: Vec<String>,
}

/// Makes what is missing. Any number of processes may do so at once: one works, the others wait,
/// and find nothing to do.
pub async fn migrate(database: &Database, migration: &Migration) -> Result<Schema, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(database, &QUIET).await.map_err(failed)?;
    if session.pooled {
        return Err(SetupError::Pooled(database.to_string()));
    }
    if !plan(&mut session, database, migration).await?.is_empty() {
        // If we are killed while a statement waits, its backend would go on, and keep the lock. Not known to
        // PostgreSQL 13, nor on Windows.
        let _ = session.connection.execute("SET client_connection_check_interval = '1s'").await;
        lock(&mut session, database).await?;
        let Plan { together, apart } = plan(&mut session, database, migration).await?;
        let script = format!("BEGIN; {LOCK_TIMEOUT};\n{}\nCOMMIT", together.join("\n"));
        session.connection.execute(AssertSqlSafe(script)).await.map_err(failed)?;
        for script in apart {
            for statement in statements(&script) {
                session.connection.execute(AssertSqlSafe(statement)).await.map_err(failed)?;
            }
        }
    }
    let schema = schema::inspect(&mut session, database).await?;
    session.close().await;
    Ok(schema)
}

/// Keeps other migrations out until the connection ends.
async fn lock(session: &mut Session, database: &Database) -> Result<(), SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let started = Instant::now();
    let mut is_told = false;
    // Polled: who waits *in* the lock holds a snapshot, for which CREATE INDEX CONCURRENTLY waits in turn.
    let lock = "SELECT pg_try_advisory_lock(hashtextextended('tablecast migrate', 0))";
    while !session.connection.fetch_one(lock).await.and_then(|row| row.try_get(0)).map_err(failed)? {
        if started.elapsed() >= LOCK_PATIENCE {
            let holder = holder(session).await.map_err(failed)?;
            return Err(SetupError::Busy(holder.unwrap_or_else(|| "it ends just now".into())));
        }
        if started.elapsed() >= TELL_AFTER && !is_told {
            is_told = true;
            if let Some(holder) = holder(session).await.map_err(failed)? {
                tracing::warn!("waiting for another `tablecast migrate`: {holder}");
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Who holds the lock, for whom they wait themselves, and what ends that. None: it is free by now.
async fn holder(session: &mut Session) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT l.pid, pg_blocking_pids(l.pid) FROM pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('tablecast migrate', 0)",
    )
    .persistent(false)
    .fetch_optional(&mut session.connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (pid, blockers): (i32, Vec<i32>) = (row.try_get(0)?, row.try_get(1)?);
    let blockers: Vec<String> = blockers.iter().map(i32::to_string).collect();
    let waits = match blockers.as_slice() {
        [] => String::new(),
        _ => format!(" waits for the open transaction of pid {} and", blockers.join(", ")),
    };
    Ok(Some(format!(
        "server process {pid}{waits} holds the lock; if nobody runs it any more, SELECT pg_terminate_backend({pid}) ends it"
    )))
}

/// The SQL that [`migrate`] would run.
pub async fn print(database: &Database, migration: &Migration) -> Result<String, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(database, &QUIET).await.map_err(failed)?;
    session.begin_if_pooled().await.map_err(failed)?;
    let Plan { together, apart } = plan(&mut session, database, migration).await?;
    session.close().await;
    let mut scripts = Vec::new();
    if !together.is_empty() {
        scripts.push(format!("BEGIN;\n\n{}\nCOMMIT;", together.join("\n")));
    }
    scripts.extend(apart);
    Ok(scripts.join("\n"))
}

pub async fn uninstall(database: &Database) -> Result<(), SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(database, &QUIET).await.map_err(failed)?;
    let schema = schema_name(&session, database)?;
    let script = UNINSTALL.replace("{{schema}}", &schema);
    let script = format!("BEGIN; {LOCK_TIMEOUT};\n{script}\nCOMMIT");
    session.connection.execute(AssertSqlSafe(script)).await.map_err(failed)?;
    session.close().await;
    Ok(())
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.together.is_empty() && self.apart.is_empty()
    }
}

/// Where the table is, or would be made: quoted.
fn schema_name(session: &Session, database: &Database) -> Result<String, SetupError> {
    session.schema.clone().ok_or_else(|| SetupError::NoRights {
        role: database.0.options.get_username().to_owned(),
        what: "use any schema of its search_path".into(),
        cure: "set its search_path, or grant it USAGE and CREATE on one".into(),
    })
}

async fn plan(session: &mut Session, database: &Database, migration: &Migration) -> Result<Plan, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    for prefix in &migration.fences {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if prefix.as_str().len() > MAX_FENCE_BYTES || !prefix.as_str().bytes().all(plain) {
            return Err(SetupError::NotAFence(prefix.as_str().to_owned()));
        }
    }
    let schema = schema_name(session, database)?;
    let (DefaultPrefix::Initial(prefix) | DefaultPrefix::Set(prefix)) = &migration.default_prefix;
    // The scripts are filled in by name, and quote with these.
    let is_unfit = |name: &str| name.contains("{{") || name.contains("$tablecast$");
    for name in [prefix.as_str(), schema.as_str()] {
        if is_unfit(name) || (name == schema && name.contains('\'')) {
            return Err(SetupError::UnfitName(name.to_owned()));
        }
    }
    let fill = |script: &str| script.replace("{{schema}}", &schema).replace("{{table}}", &database.0.table);
    let before = match schema::inspect(session, database).await {
        Ok(schema) => Some(schema),
        Err(SetupError::NoTable(_)) => None,
        Err(error) => return Err(error),
    };

    let mut plan = Plan::default();
    if before.is_none() {
        plan.together.push(fill(MESSAGES));
    }
    let present = sqlx::query(
        "SELECT to_regclass($1 || '.tablecast_idempotency_keys') IS NOT NULL
           AND to_regclass($1 || '.tablecast_prefixes') IS NOT NULL AND to_regclass($1 || '.tablecast_wake') IS NOT NULL,
           EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1 || '.tablecast_publish')
             AND tgname = 'tablecast_publish_insert'), to_regclass($1 || '.tablecast_defaults') IS NOT NULL,
           current_setting('max_prepared_transactions')::int4,
           EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1 || '.' || $2) AND tgname = 'tablecast_wake_servers'),
           ARRAY(SELECT p.prefix FROM unnest($3::text[]) AS p(prefix)
                 WHERE NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgname = 'tablecast_publish_insert'
                   AND t.tgrelid = to_regclass($1 || '.\"tablecast_publish_' || p.prefix || '\"'))),
           EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = to_regproc($1 || '.tablecast_publish_insert')
             AND p.prosrc LIKE '%pg_notify%')",
    )
    .persistent(false)
    .bind(&schema)
    .bind(format!("\"{}\"", database.0.table))
    .bind(migration.fences.iter().map(Prefix::as_str).collect::<Vec<_>>())
    .fetch_one(&mut session.connection)
    .await
    .map_err(failed)?;
    if !present.get::<bool, _>(0) {
        plan.together.push(fill(HELPERS));
    }

    let installed = if present.get(2) {
        let sql = format!("SELECT prefix, messages, version FROM {schema}.tablecast_defaults");
        let row = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_one(&mut session.connection).await;
        let row = row.map_err(failed)?;
        Some((row.get::<String, _>(0), row.get::<String, _>(1), row.get::<String, _>(2)))
    } else {
        None
    };
    if let Some((_, messages, _)) =
        installed.as_ref().filter(|(_, messages, _)| *messages != database.0.table)
    {
        return Err(SetupError::OtherTable(messages.clone()));
    }
    let prefix = match (&migration.default_prefix, &installed) {
        (DefaultPrefix::Initial(_), Some((prefix, ..))) => Prefix::new(prefix).unwrap_or_default(),
        (DefaultPrefix::Initial(prefix) | DefaultPrefix::Set(prefix), _) => prefix.clone(),
    };
    // A NOTIFY makes PREPARE TRANSACTION fail, and one that comes only sometimes would do so only
    // sometimes: where that can be used, it has to be asked for, once.
    let prepares = present.get::<i32, _>(3) > 0;
    let notifies = migration.notify.unwrap_or(if installed.is_some() { present.get(6) } else { !prepares });
    if migration.wake_trigger && prepares && migration.notify != Some(true) {
        return Err(SetupError::WakeTriggerFailsPrepared);
    }
    let has_updated_at = before.as_ref().is_some_and(|schema| schema.has_updated_at);
    let (columns, now) = timestamps(has_updated_at);
    let script = fill(PUBLISH)
        .replace("{{timestamps}}", columns)
        .replace("{{now}}", &now)
        .replace("{{default_prefix}}", &literal(prefix.as_str()))
        .replace("{{wake}}", &if notifies { fill(WAKE) } else { String::new() });
    let version = format!("{:016x}", channel_hash(script.as_bytes()));
    let is_current = present.get(1) && installed.is_some_and(|(.., installed)| installed == version);
    if !is_current {
        plan.together.push(script.replace("{{version}}", &version));
    }
    let fences: Vec<String> = present.get(5);
    for prefix in fences {
        plan.together.push(fill(FENCE).replace("{{prefix}}", &prefix));
    }
    if migration.wake_trigger && !present.get::<bool, _>(4) {
        plan.together.push(fill(WAKE_TRIGGER).replace("{{wake}}", &fill(WAKE)));
    }
    if before.is_some_and(|schema| !schema.has_replay_index) {
        plan.apart.push(fill(INDEX));
    }
    Ok(plan)
}

/// As SQL writes text, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A script of plain statements, one by one.
fn statements(script: &str) -> impl Iterator<Item = String> {
    script.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty())
}
