//! Making the table and its helpers.
//!
//! What is made is a state and not a number of steps: each run makes what is missing or was made
//! by an older script, and nothing where all is there. DDL ends transactions here, so that each
//! script may be all that was done; the view `tablecast_defaults` comes last, and says that the
//! rest is there.

use super::Database;
use super::connect::{Purpose, Session, code, literal, number, text};
use super::history::{self, Mark};
use super::schema::{self, Schema, SetupError, Trigger, timestamps};
use super::server;
use crate::bus::channel_hash;
use crate::bus::database::{DefaultPrefix, Migration};
use crate::stream::Prefix;

const MESSAGES: &str = include_str!("../../../migrations/mysql/messages.sql");
const HELPERS: &str = include_str!("../../../migrations/mysql/helpers.sql");
const PUBLISH: &str = include_str!("../../../migrations/mysql/publish.sql");
const BODY: &str = include_str!("../../../migrations/mysql/body.sql");
const FENCE: &str = include_str!("../../../migrations/mysql/fence.sql");
const UNINSTALL: &str = include_str!("../../../migrations/mysql/uninstall.sql");

/// Longer than another's migration takes.
const LOCK_PATIENCE_SECS: u32 = 60;
/// What `tablecast_publish_<prefix>` leaves of a name's 64 characters, and PostgreSQL's 63.
const MAX_FENCE_BYTES: usize = 45;

/// Whether triggers can be made: trying is surer than reading grants, and is to be done before
/// anything is dropped.
const PROBE: &str = "
  CREATE TABLE IF NOT EXISTS tablecast_migrate_probe (id int PRIMARY KEY) ENGINE = InnoDB;
  CREATE TRIGGER tablecast_migrate_probe BEFORE INSERT ON tablecast_migrate_probe FOR EACH ROW SET NEW.id = NEW.id";
const END_PROBE: &str = "DROP TABLE IF EXISTS tablecast_migrate_probe";

/// Scripts to be run one after the other.
#[derive(Default)]
struct Plan {
    scripts: Vec<String>,
    makes_triggers: bool,
}

/// Makes what is missing. Any number of processes may do so at once: one works, the others wait,
/// and find nothing to do.
pub async fn migrate(database: &Database, migration: &Migration) -> Result<Schema, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(&database.0.options, Purpose::SetUp).await.map_err(failed)?;
    if !plan(&mut session, database, migration).await?.scripts.is_empty() {
        // The lock is the server's, not the database's; it ends with the connection.
        let lock = format!("SELECT GET_LOCK(CONCAT('tablecast ', MD5(DATABASE())), {LOCK_PATIENCE_SECS})");
        let row = session.row(lock).await.map_err(failed)?;
        if row.map(|row| number::<u8>(&row, 0)).transpose().map_err(failed)?.flatten() != Some(1) {
            return Err(SetupError::Busy);
        }
        let plan = plan(&mut session, database, migration).await?;
        if plan.makes_triggers {
            let probed = session.run(PROBE).await;
            let ended = session.run(END_PROBE).await;
            probed.and(ended).map_err(failed)?;
        }
        for script in plan.scripts {
            match session.run(script).await {
                Err(error) if history::is_there(&error) => {}
                // A worker's open transaction that has published.
                Err(error) if code(&error) == Some(1205) => return Err(SetupError::Locked),
                done => done.map_err(failed)?,
            }
        }
    }
    let schema = schema::inspect(&mut session, database).await?;
    session.close().await;
    Ok(schema)
}

/// The SQL that [`migrate`] would run, for the stock shell: a server finds the end of a trigger
/// by itself, the shell does not.
pub async fn print(database: &Database, migration: &Migration) -> Result<String, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(&database.0.options, Purpose::SetUp).await.map_err(failed)?;
    let plan = plan(&mut session, database, migration).await?;
    session.close().await;
    if plan.scripts.is_empty() {
        return Ok(String::new());
    }
    let scripts: Vec<String> =
        plan.scripts.iter().map(|script| format!("{}\n$$\n", script.trim_end())).collect();
    Ok(format!("DELIMITER $$\n\n{}\nDELIMITER ;", scripts.join("\n")))
}

pub async fn uninstall(database: &Database) -> Result<(), SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let mut session = Session::open(&database.0.options, Purpose::SetUp).await.map_err(failed)?;
    let fences: String = fences(&mut session)
        .await
        .map_err(failed)?
        .iter()
        .map(|prefix| format!("`tablecast_publish_{prefix}`, "))
        .collect();
    let script = UNINSTALL.replace("{{fences}}", &fences).replace("{{table}}", &database.0.table);
    let done = session.run(script).await;
    // Without the table there is no row of it to take away, and all else is done.
    done.or_else(|error| if code(&error) == Some(1146) { Ok(()) } else { Err(failed(error)) })?;
    session.close().await;
    Ok(())
}

async fn plan(session: &mut Session, database: &Database, migration: &Migration) -> Result<Plan, SetupError> {
    if migration.wake_trigger {
        return Err(SetupError::NoWakeTrigger);
    }
    let failed = |error| SetupError::from_sqlx(error, database);
    let fill = |script: &str| script.replace("{{table}}", &database.0.table);
    server::refuse(&session.server)?;
    let before = match schema::inspect(session, database).await {
        Ok(schema) => Some(schema),
        Err(SetupError::NoTable(_)) => None,
        Err(error) => return Err(error),
    };
    let has_updated_at = before.as_ref().is_some_and(|schema| schema.has_updated_at);
    let mut plan = Plan::default();
    let marked = match before {
        Some(_) => Mark::read(session, &database.0.table).await.map_err(failed)?.is_some(),
        None => {
            plan.scripts.push(fill(MESSAGES));
            false
        }
    };
    if !has_helpers(session).await.map_err(failed)? {
        plan.scripts.push(HELPERS.to_owned());
    }

    let installed = schema::defaults(session).await.map_err(failed)?;
    if let Some(other) = installed.as_ref().filter(|installed| installed.messages != database.0.table) {
        return Err(SetupError::OtherTable(other.messages.clone()));
    }
    let prefix = match (&migration.default_prefix, &installed) {
        (DefaultPrefix::Initial(_), Some(installed)) => installed.prefix.clone(),
        (DefaultPrefix::Initial(prefix) | DefaultPrefix::Set(prefix), _) => prefix.clone(),
    };
    let (columns, now) = timestamps(has_updated_at);
    let with_body = |script: &str| {
        fill(&script.replace("{{body}}", BODY)).replace("{{timestamps}}", columns).replace("{{now}}", now)
    };
    let publish = with_body(PUBLISH).replace("{{default_prefix}}", &literal(prefix.as_str()));
    let version = format!("{:016x}", channel_hash([publish.as_str(), FENCE].concat().as_bytes()));
    let is_current = installed.is_some_and(|installed| installed.version == version);

    let there = fences(session).await.map_err(failed)?;
    for prefix in &there {
        let table = format!("tablecast_publish_{prefix}");
        if !is_current || !works(session, &table).await.map_err(failed)? {
            plan.scripts.push(with_body(FENCE).replace("{{prefix}}", prefix));
        }
    }
    for prefix in migration.fences.iter().map(Prefix::as_str) {
        fence_name(prefix, session)?;
        if !there.iter().any(|fence| fence == prefix) {
            plan.scripts.push(with_body(FENCE).replace("{{prefix}}", prefix));
        }
    }
    if !is_current || !works(session, "tablecast_publish").await.map_err(failed)? {
        plan.scripts.push(publish.replace("{{version}}", &version));
    }
    plan.makes_triggers = plan.scripts.iter().any(|script| script.contains("CREATE TRIGGER"));
    if !marked {
        plan.scripts
            .push(history::script(&database.0.table, has_updated_at, session.server.identity()) + ";\n");
    }
    Ok(plan)
}

async fn has_helpers(session: &mut Session) -> Result<bool, sqlx::Error> {
    let rows = session
        .rows("SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
               AND table_name IN ('tablecast_idempotency_keys', 'tablecast_prefixes')")
        .await?;
    Ok(rows.len() == 2)
}

/// The prefixes that have a table to publish by of their own.
async fn fences(session: &mut Session) -> Result<Vec<String>, sqlx::Error> {
    let rows = session
        .rows(
            r"SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()
              AND table_type = 'BASE TABLE' AND table_name LIKE 'tablecast\_publish\_%'",
        )
        .await?;
    let tables: Vec<Option<String>> = rows.iter().map(|row| text(row, 0)).collect::<Result<_, _>>()?;
    let prefixes = tables.iter().flatten().filter_map(|table| table.strip_prefix("tablecast_publish_"));
    Ok(prefixes.map(str::to_owned).collect())
}

/// Whether a table to publish by has its trigger, which Rails' schema.rb makes it without, and whose maker
/// may have been dropped.
async fn works(session: &mut Session, table: &str) -> Result<bool, sqlx::Error> {
    Ok(matches!(schema::trigger(session, table).await?, Trigger::Works))
}

/// Whether a prefix can be a part of a table's name, from which it is read again.
fn fence_name(prefix: &str, session: &Session) -> Result<(), SetupError> {
    let is_plain = prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let keeps_case = session.server.number("lower_case_table_names") == 0;
    if prefix.len() > MAX_FENCE_BYTES || !is_plain {
        return Err(SetupError::NotAFence(prefix.to_owned(), ""));
    }
    if !keeps_case && prefix.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(SetupError::NotAFence(
            prefix.to_owned(),
            ", in lower case on this server (lower_case_table_names)",
        ));
    }
    Ok(())
}
