//! The table and its helpers: what is there, what is missing, and making it.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};

use super::{Database, history, result_code, sha256};
use crate::bus::channel_hash;
use crate::bus::database::{DefaultPrefix, Schema};
use crate::stream::Prefix;

const MESSAGES: &str = include_str!("../../../migrations/sqlite/messages.sql");
const HELPERS: &str = include_str!("../../../migrations/sqlite/helpers.sql");
const PUBLISH: &str = include_str!("../../../migrations/sqlite/publish.sql");

/// The comment in the table's own definition that says whose it is.
const MADE_BY_TABLECAST: &str = "/* made by tablecast */";

const HELPER_TABLES: [&str; 3] =
    ["tablecast_stream_hashes", "tablecast_idempotency_keys", "tablecast_prefixes"];
const PUBLISH_OBJECTS: [&str; 5] = [
    "tablecast_defaults",
    "tablecast_publish",
    "tablecast_publish_insert",
    "tablecast_publish_channel",
    "tablecast_publish_channel_insert",
];
const VIEWS: [&str; 3] = ["tablecast_defaults", "tablecast_publish", "tablecast_publish_channel"];

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{} is not a SQLite database; name another file or move it away", .0.display())]
    NotADatabase(PathBuf),
    #[error("there is no file {}: `tablecast migrate` or `tablecast serve` creates it", .0.display())]
    NoFile(PathBuf),
    #[error("{} can't be written; tablecast publishes, trims and keeps its helpers there: check the permissions of the file and its folder", .0.display())]
    ReadOnly(PathBuf),
    #[error("{} can't be opened; check that its folder exists and may be written", .0.display())]
    CannotOpen(PathBuf),
    #[error("{} is locked by another process and stayed so; see who holds a transaction open, or give more time with ?timeout=<milliseconds> in the URL", .0.display())]
    Locked(PathBuf),
    #[error("{} is full, or its disk is", .0.display())]
    Full(PathBuf),
    #[error("the database's encoding is {0}; only UTF-8 works, since a channel's hash is taken over UTF-8")]
    Encoding(String),
    #[error("there is no table {0}: run `tablecast migrate`")]
    NoTable(String),
    #[error("{0} is a {1}, not a table; choose another with --table")]
    NotATable(String, String),
    #[error(
        "table {table} has no column {columns}; it isn't Solid Cable's, or an early one: run Solid Cable's update generator (bin/rails generate solid_cable:update), or choose another with --table"
    )]
    MissingColumns { table: String, columns: String },
    #[error(
        "table {table} has a column {column} that is NOT NULL without a default, so that nobody but its owner can insert; choose another table with --table"
    )]
    ForeignColumn { table: String, column: String },
    #[error(
        "table {0} reuses ids (its id is not AUTOINCREMENT), so rows can't be followed; choose another with --table"
    )]
    ReusesIds(String),
    #[error(
        "publishing by SQL in this database goes into table {0}: use --table {0}, or run `tablecast migrate --uninstall` with it first"
    )]
    OtherTable(String),
    #[error(
        "--fence and --wake-trigger are for databases with roles; who can open a SQLite file can write all of it"
    )]
    NotHere,
    #[error("watching the file's folder failed ({0}); --wake poll does without")]
    Watch(#[from] notify::Error),
    #[error("the database answered: {0}")]
    Sqlx(#[source] sqlx::Error),
}

impl SetupError {
    pub(super) fn from_sqlx(error: sqlx::Error, path: &Path) -> Self {
        let path = path.to_owned();
        match result_code(&error) {
            Some(5 | 6) => Self::Locked(path),
            Some(8) => Self::ReadOnly(path),
            Some(13) => Self::Full(path),
            Some(14) => Self::CannotOpen(path),
            Some(26) => Self::NotADatabase(path),
            _ => Self::Sqlx(error),
        }
    }
}

/// Makes what is missing, in one transaction, so that two processes can do it at once.
pub(super) async fn ensure(
    connection: &mut SqliteConnection,
    database: &Database,
    default_prefix: &DefaultPrefix,
) -> Result<Schema, SetupError> {
    // The usual start: all there, nothing locked, nothing written.
    if !missing(connection, database, default_prefix).await?.is_empty() {
        let run = async |connection: &mut SqliteConnection, sql: String| {
            let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
            result.map(drop).map_err(|error| SetupError::from_sqlx(error, database.path()))
        };
        run(connection, "BEGIN IMMEDIATE".into()).await?;
        let done = async {
            for script in missing(connection, database, default_prefix).await? {
                run(connection, script).await?;
            }
            run(connection, "COMMIT".into()).await
        };
        if let Err(error) = done.await {
            let _ = run(connection, "ROLLBACK".into()).await;
            return Err(error);
        }
    }
    inspect(connection, database).await
}

/// The SQL that [`ensure`] would run.
pub(super) async fn plan(
    connection: Option<SqliteConnection>,
    database: &Database,
    default_prefix: &DefaultPrefix,
) -> Result<String, SetupError> {
    let scripts = match connection {
        Some(mut connection) => missing(&mut connection, database, default_prefix).await?,
        None => {
            let (DefaultPrefix::Initial(prefix) | DefaultPrefix::Set(prefix)) = default_prefix;
            let table = &database.0.table;
            vec![
                MESSAGES.replace("{{table}}", table),
                HELPERS.into(),
                publish_script(table, false, prefix).1,
                history::script(table, false),
            ]
        }
    };
    Ok(scripts.join("\n"))
}

pub(super) async fn uninstall(
    connection: &mut SqliteConnection,
    database: &Database,
) -> Result<(), SetupError> {
    let views = VIEWS.map(|view| format!("DROP VIEW IF EXISTS {view};"));
    let tables = HELPER_TABLES.map(|table| format!("DROP TABLE IF EXISTS {table};"));
    let there = definition(connection, database).await?.is_some();
    let mark = format!(r#"DELETE FROM "{}" WHERE id = -1;"#, database.0.table);
    let mark = if there { mark.as_str() } else { "" };
    let script = format!("BEGIN IMMEDIATE;{}{}{mark}COMMIT;", views.concat(), tables.concat());
    let result = sqlx::raw_sql(AssertSqlSafe(script)).execute(connection).await;
    result.map(drop).map_err(|error| SetupError::from_sqlx(error, database.path()))
}

/// Reads what is there, and refuses what can't be served.
pub(super) async fn inspect(
    connection: &mut SqliteConnection,
    database: &Database,
) -> Result<Schema, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database.path());
    let table = database.0.table.as_str();
    let Some(definition) = definition(connection, database).await? else {
        return Err(SetupError::NoTable(table.to_owned()));
    };

    let columns = sqlx::query("SELECT name, \"notnull\", dflt_value IS NOT NULL FROM pragma_table_info(?)")
        .bind(table)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let columns: Vec<(String, bool, bool)> =
        columns.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let has = |name: &str| columns.iter().any(|(column, ..)| column == name);
    let missing: Vec<_> = REQUIRED.into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Err(SetupError::MissingColumns { table: table.to_owned(), columns: missing.join(", ") });
    }
    for (column, not_null, has_default) in &columns {
        let known = REQUIRED.contains(&column.as_str()) || column == "updated_at";
        if !known && *not_null && !has_default {
            return Err(SetupError::ForeignColumn { table: table.to_owned(), column: column.clone() });
        }
    }
    if !definition.to_ascii_uppercase().contains("AUTOINCREMENT") {
        return Err(SetupError::ReusesIds(table.to_owned()));
    }

    let defaults = defaults(connection).await.map_err(failed)?;
    Ok(Schema {
        made_by_tablecast: definition.contains(MADE_BY_TABLECAST),
        publishing: defaults.as_ref().is_some_and(|(_, messages)| messages == table),
        default_prefix: defaults.map(|(prefix, _)| prefix).unwrap_or_default(),
        has_updated_at: has("updated_at"),
        advice: Vec::new(),
    })
}

const REQUIRED: [&str; 5] = ["id", "channel", "payload", "created_at", "channel_hash"];

/// The scripts that would make what isn't there, or is of an older version.
async fn missing(
    connection: &mut SqliteConnection,
    database: &Database,
    default_prefix: &DefaultPrefix,
) -> Result<Vec<String>, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database.path());
    let encoding: String =
        sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut *connection).await.map_err(failed)?;
    if encoding != "UTF-8" {
        return Err(SetupError::Encoding(encoding));
    }

    let table = database.0.table.as_str();
    let mut scripts = Vec::new();
    let (has_updated_at, has_mark) = match definition(connection, database).await? {
        Some(_) => {
            let has_updated_at = inspect(connection, database).await?.has_updated_at;
            (has_updated_at, history::read(connection, table).await.map_err(failed)?.is_some())
        }
        None => {
            scripts.push(MESSAGES.replace("{{table}}", table));
            (false, false)
        }
    };

    let present: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE name LIKE 'tablecast\\_%' ESCAPE '\\'")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let all_present = |names: &[&str]| names.iter().all(|name| present.iter().any(|there| there == name));
    if !all_present(&HELPER_TABLES) {
        scripts.push(HELPERS.to_owned());
    }

    let before = defaults(connection).await.map_err(failed)?;
    if let Some((_, messages)) = before.as_ref().filter(|(_, messages)| messages != table) {
        return Err(SetupError::OtherTable(messages.clone()));
    }
    let prefix = match (default_prefix, before) {
        (DefaultPrefix::Initial(_), Some((prefix, _))) => prefix,
        (DefaultPrefix::Initial(prefix) | DefaultPrefix::Set(prefix), _) => prefix.clone(),
    };
    let (version, script) = publish_script(table, has_updated_at, &prefix);
    let installed: Option<String> =
        sqlx::query_scalar("SELECT sql FROM sqlite_master WHERE name = 'tablecast_defaults'")
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
    if !all_present(&PUBLISH_OBJECTS) || !installed.is_some_and(|sql| sql.contains(&version)) {
        // A view's triggers go with it.
        scripts.extend(VIEWS.map(|view| format!("DROP VIEW IF EXISTS {view};\n")));
        scripts.push(script);
    }
    if !has_mark {
        scripts.push(history::script(table, has_updated_at));
    }
    Ok(scripts)
}

/// The publishing views and triggers for a table, and the mark by which to tell
/// whether exactly these are installed.
fn publish_script(table: &str, has_updated_at: bool, default_prefix: &Prefix) -> (String, String) {
    let (timestamps, now) = timestamps(has_updated_at);
    let script = PUBLISH
        .replace("{{table}}", table)
        .replace("{{timestamps}}", timestamps)
        .replace("{{now}}", now)
        .replace("{{sha256}}", &sha256::first_64_bits("NEW.channel"))
        .replace("{{default_prefix}}", &format!("'{}'", default_prefix.as_str().replace('\'', "''")));
    let version = format!("/* version {:016x} */", channel_hash(script.as_bytes()));
    let script = script.replace(
        "CREATE VIEW tablecast_defaults AS",
        &format!("CREATE VIEW tablecast_defaults {version} AS"),
    );
    (version, script)
}

/// The columns that say when a row was written, and the present for each, as Rails writes it: UTC,
/// microseconds, no zone. SQLite's clock has milliseconds.
pub(super) fn timestamps(has_updated_at: bool) -> (&'static str, &'static str) {
    if has_updated_at {
        (
            "created_at, updated_at",
            "strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        )
    } else {
        ("created_at", "strftime('%Y-%m-%d %H:%M:%f000', 'now')")
    }
}

/// The statement that made the table.
async fn definition(
    connection: &mut SqliteConnection,
    database: &Database,
) -> Result<Option<String>, SetupError> {
    let table = &database.0.table;
    let row = sqlx::query("SELECT type, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE")
        .bind(table)
        .fetch_optional(connection)
        .await
        .map_err(|error| SetupError::from_sqlx(error, database.path()))?;
    match row {
        None => Ok(None),
        Some(row) if row.get::<&str, _>(0) == "table" => Ok(Some(row.get(1))),
        Some(row) => Err(SetupError::NotATable(table.clone(), row.get(0))),
    }
}

/// Where a plain INSERT goes: the prefix and the table, if SQL can publish.
async fn defaults(connection: &mut SqliteConnection) -> Result<Option<(Prefix, String)>, sqlx::Error> {
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'tablecast_defaults')")
            .fetch_one(&mut *connection)
            .await?;
    if !there {
        return Ok(None);
    }
    let row = sqlx::query("SELECT prefix, messages FROM tablecast_defaults").fetch_one(connection).await?;
    Ok(Some((Prefix::new(row.get(0)).unwrap_or_default(), row.get(1))))
}
