//! The table and its helpers: what is there, and whether it can be followed.

use super::Database;
use super::connect::{Session, code, number, text};
use super::error::LACKS_RIGHTS;
pub use super::error::SetupError;
use super::server;
use crate::bus::database;
use crate::stream::Prefix;

/// What a database holds, as this module needs it.
pub struct Schema {
    pub made_by_tablecast: bool,
    pub has_updated_at: bool,
    /// Where a plain INSERT goes; none: SQL can't publish.
    pub defaults: Option<Defaults>,
    /// Idempotency keys and the register of prefixes, for one's use.
    pub has_helpers: bool,
    /// An index that begins with `created_at`.
    pub age_index: Option<String>,
    /// And one that begins with `channel_hash`.
    pub hash_index: Option<String>,
    /// Whether transactions can be listed.
    pub lists: bool,
    /// Tables to publish by, from which one may take away what publishing leaves there.
    pub tidied: Vec<String>,
    pub advice: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Defaults {
    pub prefix: Prefix,
    pub messages: String,
    pub version: String,
}

const BYTES: &[&str] = &["varbinary", "binary", "tinyblob", "blob", "mediumblob", "longblob"];
const REQUIRED: [(&str, &[&str], &str); 5] = [
    ("id", &["bigint"], "bigint"),
    ("channel", BYTES, "varbinary"),
    ("payload", BYTES, "longblob"),
    ("created_at", &["datetime", "timestamp"], "datetime(6)"),
    ("channel_hash", &["bigint"], "bigint"),
];

/// Reads what is there, and refuses what can't be followed.
pub async fn inspect(session: &mut Session, database: &Database) -> Result<Schema, SetupError> {
    server::refuse(&session.server)?;
    let table = table(session, database).await?;
    let found = objects(session, database, table).await;
    found.map_err(|error| SetupError::from_sqlx(error, database))
}

/// The table by its columns.
struct Table {
    made_by_tablecast: bool,
    has_updated_at: bool,
    age_index: Option<String>,
    hash_index: Option<String>,
}

struct Column {
    name: String,
    kind: String,
    is_required: bool,
    extra: String,
}

async fn table(session: &mut Session, database: &Database) -> Result<Table, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let name = &database.0.table;
    // Who has no right on a table doesn't find it below.
    if let Err(error) = session.run(format!("SELECT id FROM `{name}` LIMIT 0")).await {
        return Err(match code(&error) {
            Some(1146) => SetupError::NoTable(name.clone()),
            Some(code) if LACKS_RIGHTS.contains(&code) => SetupError::NoRights {
                account: session.server.account.clone(),
                what: format!("read table {name}"),
                cure: session.server.grant("SELECT, INSERT, DELETE", name),
            },
            Some(1054) => SetupError::MissingColumns { table: name.clone(), columns: "id".into() },
            _ => failed(error),
        });
    }
    let row = session
        .row(format!(
            "SELECT t.table_type, t.engine, t.create_options FROM information_schema.tables AS t
             WHERE t.table_schema = DATABASE() AND t.table_name = '{name}'"
        ))
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Err(SetupError::NoTable(name.clone())) };
    let [kind, engine, options] =
        [0, 1, 2].map(|column| text(&row, column).ok().flatten().unwrap_or_default());
    if kind != "BASE TABLE" {
        return Err(SetupError::NotATable(name.clone(), format!("a {}", kind.to_lowercase())));
    }
    if options.contains("partitioned") {
        return Err(SetupError::NotATable(name.clone(), "a partitioned table".into()));
    }
    if !engine.eq_ignore_ascii_case("InnoDB") {
        return Err(SetupError::NotInnoDb { table: name.clone(), engine });
    }
    let has_updated_at = columns(session, name).await.map_err(failed)??;

    let indexes = session
        .rows(format!(
            "SELECT index_name, column_name, index_comment FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name = '{name}' AND seq_in_index = 1"
        ))
        .await
        .map_err(failed)?;
    let mut found = Table { made_by_tablecast: false, has_updated_at, age_index: None, hash_index: None };
    let mut has_key = false;
    for index in &indexes {
        let [name, column, comment] = [0, 1, 2].map(|n| text(index, n).ok().flatten().unwrap_or_default());
        if name == "PRIMARY" {
            has_key = column == "id";
            found.made_by_tablecast = comment == "made by tablecast";
        } else if column == "created_at" {
            found.age_index = Some(name);
        } else if column == "channel_hash" {
            found.hash_index = Some(name);
        }
    }
    if has_key { Ok(found) } else { Err(SetupError::NoAutoIncrement(name.clone())) }
}

/// Whether there is an `updated_at`, if the columns are Solid Cable's.
async fn columns(session: &mut Session, table: &str) -> Result<Result<bool, SetupError>, sqlx::Error> {
    let rows = session
        .rows(format!(
            "SELECT column_name, data_type, extra, is_nullable = 'NO' AND column_default IS NULL
             FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = '{table}' ORDER BY ordinal_position"
        ))
        .await?;
    let mut columns = Vec::new();
    for row in &rows {
        columns.push(Column {
            name: text(row, 0)?.unwrap_or_default(),
            kind: text(row, 1)?.unwrap_or_default(),
            extra: text(row, 2)?.unwrap_or_default(),
            is_required: number(row, 3)? == Some(1),
        });
    }
    Ok(judge(table, &columns))
}

fn judge(table: &str, columns: &[Column]) -> Result<bool, SetupError> {
    let table = table.to_owned();
    let has = |name: &str| columns.iter().any(|column| column.name == name);
    let missing: Vec<&str> = REQUIRED.iter().map(|(name, ..)| *name).filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Err(SetupError::MissingColumns { table, columns: missing.join(", ") });
    }
    for column in columns {
        let is_generated = column.extra.to_uppercase().contains("GENERATED")
            && !column.extra.to_uppercase().contains("DEFAULT_GENERATED");
        match REQUIRED.iter().find(|(name, ..)| *name == column.name) {
            Some((_, kinds, wanted)) if is_generated || !kinds.contains(&column.kind.as_str()) => {
                let found = if is_generated { "generated" } else { &column.kind }.to_owned();
                return Err(SetupError::WrongType { table, column: column.name.clone(), found, wanted });
            }
            Some(("id", ..)) if !column.extra.contains("auto_increment") => {
                return Err(SetupError::NoAutoIncrement(table));
            }
            None if column.name != "updated_at" && column.is_required && !is_generated => {
                return Err(SetupError::ForeignColumn { table, column: column.name.clone() });
            }
            _ => {}
        }
    }
    Ok(has("updated_at"))
}

/// What stands beside the table, and what one may do with it.
async fn objects(session: &mut Session, database: &Database, table: Table) -> Result<Schema, sqlx::Error> {
    let name = &database.0.table;
    let (columns, now) = timestamps(table.has_updated_at);
    let known = session.server.clone();
    let account = &known.account;
    let mut advice = Vec::new();

    let insert =
        format!("INSERT INTO `{name}` (channel, payload, {columns}, channel_hash) VALUES ('', '', {now}, 0)");
    if !may(session, insert).await? {
        advice.push(format!("{account} may not publish: {}", known.grant("INSERT", name)));
    }
    if !may(session, format!("DELETE FROM `{name}` WHERE id = 0")).await? {
        advice.push(format!("{account} may not trim: {}, or --retention off", known.grant("DELETE", name)));
    }
    let lists = match session.run("SELECT 1 FROM information_schema.innodb_trx LIMIT 1").await {
        Ok(()) => true,
        Err(error) if code(&error) == Some(1227) => false,
        Err(error) => return Err(error),
    };
    if !lists {
        advice.push(format!(
            "{account} may not see who has a transaction open, so that ids which were rolled back are waited for \
             for 15 minutes each: GRANT PROCESS ON *.* TO {account}"
        ));
    }

    let mut defaults = defaults(session).await?;
    let mut has_helpers = true;
    for statement in [
        "UPDATE tablecast_idempotency_keys SET ids = '' WHERE prefix = ''",
        "DELETE FROM tablecast_idempotency_keys WHERE prefix = ''",
        "INSERT INTO tablecast_prefixes (prefix, created_at) VALUES ('', UTC_TIMESTAMP(6))",
    ] {
        has_helpers &= may(session, statement.into()).await?;
    }
    if defaults.is_some() && !has_helpers {
        advice.push(format!(
            "{account} may not use the helper tables, so that no Idempotency-Key works: {}; {}",
            known.grant("SELECT, INSERT, UPDATE, DELETE", "tablecast_idempotency_keys"),
            known.grant("SELECT, INSERT", "tablecast_prefixes")
        ));
    }
    let mut tidied = Vec::new();
    // Fences on which one has no right at all aren't among them.
    let fences = session
        .rows(
            r"SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()
              AND table_type = 'BASE TABLE' AND table_name LIKE 'tablecast\_publish\_%' ORDER BY 1",
        )
        .await?;
    let mut publish_tables = vec!["tablecast_publish".to_owned()];
    for row in &fences {
        publish_tables.extend(text(row, 0)?);
    }
    for name in &publish_tables {
        match right(session, format!("DELETE FROM `{name}` WHERE id = 0")).await? {
            Right::Given => tidied.push(name.clone()),
            Right::Denied if defaults.is_some() => advice.push(format!(
                "{account} may not tidy up what publishing by SQL leaves behind: {}",
                known.grant("SELECT, DELETE", name)
            )),
            Right::Denied => {}
            Right::NoTable => defaults = None,
        }
    }
    for name in &publish_tables {
        match trigger(session, name).await? {
            Trigger::Works | Trigger::Unseen => {}
            Trigger::Missing if name == "tablecast_publish" => defaults = None,
            Trigger::Missing => advice.push(format!(
                "table {name} has lost its trigger, so that each INSERT into it fails: run `tablecast migrate`"
            )),
            Trigger::Fails(answer) => advice.push(format!(
                "each INSERT into {name} fails, by its trigger's account ({answer}): run `tablecast migrate` with an account that stays"
            )),
        }
    }
    advice.extend(server::advice_on(&known, database.0.max_payload_bytes, defaults.is_some()));
    Ok(Schema {
        made_by_tablecast: table.made_by_tablecast,
        has_updated_at: table.has_updated_at,
        defaults,
        has_helpers,
        age_index: table.age_index,
        hash_index: table.hash_index,
        lists,
        tidied,
        advice,
    })
}

enum Right {
    Given,
    Denied,
    NoTable,
}

/// Whether one has the rights for a statement, which isn't run. (A table on which one has none
/// may be there or not.)
async fn right(session: &mut Session, statement: String) -> Result<Right, sqlx::Error> {
    match session.run(format!("EXPLAIN {statement}")).await {
        Ok(()) => Ok(Right::Given),
        Err(error) if code(&error).is_some_and(|code| LACKS_RIGHTS.contains(&code)) => Ok(Right::Denied),
        Err(error) if code(&error) == Some(1146) => Ok(Right::NoTable),
        Err(error) => Err(error),
    }
}

async fn may(session: &mut Session, statement: String) -> Result<bool, sqlx::Error> {
    Ok(matches!(right(session, statement).await?, Right::Given))
}

/// Whether a table to publish by publishes.
pub enum Trigger {
    Works,
    Missing,
    /// For each who inserts, since it runs with its maker's rights: with this answer.
    Fails(String),
    /// Who may not insert can't tell.
    Unseen,
}

/// Asks by an INSERT that fails whatever there is, and so leaves nothing: triggers and accounts are listed
/// for few, and who may be a trigger's maker is the server's to say.
pub async fn trigger(session: &mut Session, table: &str) -> Result<Trigger, sqlx::Error> {
    let without_data = format!("INSERT INTO `{table}` (stream) VALUES ('s')");
    if !may(session, without_data.clone()).await? {
        return Ok(Trigger::Unseen);
    }
    session.run("BEGIN").await?;
    let answer = session.run(without_data).await;
    // For a table that lost its CHECK as well.
    session.roll_back().await;
    let Err(error) = answer else { return Ok(Trigger::Missing) };
    match code(&error) {
        // The trigger's SIGNAL.
        Some(1644) => Ok(Trigger::Works),
        // The table's CHECK, by MariaDB and by MySQL.
        Some(4025 | 3819) => Ok(Trigger::Missing),
        // Its maker is gone, or has lost a right.
        Some(code) if code == 1449 || LACKS_RIGHTS.contains(&code) => Ok(Trigger::Fails(
            error.as_database_error().map_or_else(String::new, |error| error.message().to_owned()),
        )),
        _ => Err(error),
    }
}

pub async fn defaults(session: &mut Session) -> Result<Option<Defaults>, sqlx::Error> {
    match session.row("SELECT prefix, messages, version FROM tablecast_defaults").await {
        Ok(Some(row)) => Ok(Some(Defaults {
            prefix: Prefix::new(&text(&row, 0)?.unwrap_or_default()).unwrap_or_default(),
            messages: text(&row, 1)?.unwrap_or_default(),
            version: text(&row, 2)?.unwrap_or_default(),
        })),
        Ok(None) => Ok(None),
        // Not there, or not for this role to see.
        Err(error) if code(&error).is_some_and(|code| code == 1146 || LACKS_RIGHTS.contains(&code)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Schema {
    /// As the commands see it.
    pub fn summary(&self, database: &Database) -> database::Schema {
        let own = self.defaults.as_ref().filter(|defaults| defaults.messages == database.0.table);
        database::Schema {
            made_by_tablecast: self.made_by_tablecast,
            publishing: own.is_some(),
            default_prefix: own.map(|defaults| defaults.prefix.clone()).unwrap_or_default(),
            has_updated_at: self.has_updated_at,
            advice: self.advice.clone(),
        }
    }
}

/// The columns that say when a row was written, and the present for each, as Rails writes it: UTC.
pub fn timestamps(has_updated_at: bool) -> (&'static str, &'static str) {
    if has_updated_at {
        ("created_at, updated_at", "UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)")
    } else {
        ("created_at", "UTC_TIMESTAMP(6)")
    }
}
