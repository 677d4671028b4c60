//! The table and its helpers: what is there, and whether it can be followed.

use sqlx::postgres::types::Oid;
use sqlx::{Executor, Row};

use super::Database;
use super::connect::Session;
use crate::bus::database;
use crate::stream::Prefix;

/// Where publishing transactions say that there is something, to servers that sleep.
pub const CHANNEL: &str = "tablecast_wake";

/// The oldest server with all that is used here (`pg_current_snapshot`).
const OLDEST: i32 = 13_00_00;

/// What a database holds, as this module needs it.
pub struct Schema {
    pub table: Table,
    pub made_by_tablecast: bool,
    pub has_updated_at: bool,
    /// Where a plain INSERT goes; none: SQL can't publish.
    pub defaults: Option<Defaults>,
    /// Idempotency keys and the register of prefixes.
    pub has_helpers: bool,
    /// What a server that goes to sleep sets, if it may.
    pub wake_sequence: Option<String>,
    /// Publishing by SQL heeds that.
    pub notifies: bool,
    pub has_replay_index: bool,
    pub advice: Vec<String>,
}

/// Names are quoted and qualified.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub schema: String,
    pub oid: Oid,
    pub sequence: String,
    pub sequence_oid: Oid,
    pub filenode: Oid,
}

#[derive(Debug, Clone)]
pub struct Defaults {
    pub prefix: Prefix,
    pub messages: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{0} can't be reached ({1}): check host and port in --database-url, and that the server runs")]
    Unreachable(String, String),
    #[error("{0} refused the login: check user and password in --database-url ({1})")]
    Login(String, String),
    #[error("{0} wants TLS: add ?sslmode=require to --database-url ({1})")]
    TlsRequired(String, String),
    #[error(
        "{0}: TLS failed ({1}): ?sslmode=require encrypts without checking the certificate, ?sslrootcert=FILE names who signed it"
    )]
    Tls(String, String),
    #[error(
        "{0} speaks no TLS: turn ssl on there, or drop sslmode from --database-url if the network is trusted"
    )]
    NoTls(String),
    #[error("{0}: there is no such database; create it, or name another in --database-url")]
    NoDatabase(String),
    #[error(
        "{0} takes no more connections (tablecast needs three): raise its max_connections or close others"
    )]
    TooManyConnections(String),
    #[error("this is PostgreSQL {0}; tablecast needs 13 or newer")]
    TooOld(String),
    #[error(
        "this is {0}, which hands out ids in an order that can't be followed; tablecast needs PostgreSQL itself"
    )]
    AnotherKind(&'static str),
    #[error("this server is a standby, which can't be written; name the primary in --database-url")]
    Standby,
    #[error("the database's encoding is {0}; only UTF8 works, since a channel's hash is taken over UTF-8")]
    Encoding(String),
    #[error(
        "extension {0} makes this a multi-primary cluster, where other nodes' open transactions can't be seen; tablecast can't follow it"
    )]
    MultiPrimary(String),
    #[error("there is no table {0} here: run `tablecast migrate`, or start with `serve --migrate`")]
    NoTable(String),
    #[error("{0} is {1}, not a plain table; choose another with --table")]
    NotATable(String, &'static str),
    #[error(
        "table {table} has no column {columns}; it isn't Solid Cable's, or an early one: run Solid Cable's update generator (bin/rails generate solid_cable:update), or choose another with --table"
    )]
    MissingColumns { table: String, columns: String },
    #[error("column {column} of table {table} is {found}, not {wanted}; choose another table with --table")]
    WrongType { table: String, column: String, found: String, wanted: &'static str },
    #[error(
        "table {table} has a column {column} that is NOT NULL without a default, so that nobody but its owner can insert; choose another table with --table"
    )]
    ForeignColumn { table: String, column: String },
    #[error(
        "the id of table {0} isn't drawn from a sequence, so rows can't be followed; choose another with --table"
    )]
    NoSequence(String),
    #[error(
        "sequence {sequence} has CACHE {cache}, so that ids come in no order and rows would be lost: run ALTER SEQUENCE {sequence} CACHE 1"
    )]
    Cache { sequence: String, cache: i64 },
    #[error("sequence {0} doesn't ascend; rows can't be followed")]
    Descends(String),
    #[error(
        "table {0} is the target of logical replication, whose rows come with ids of another server; follow the table there"
    )]
    LogicalTarget(String),
    #[error(
        "row level security hides rows of table {0} from this role: use its owner, or a role with BYPASSRLS"
    )]
    RowSecurity(String),
    #[error("role {role} may not {what}: {cure}")]
    NoRights { role: String, what: String, cure: String },
    #[error(
        "publishing by SQL in this schema goes into table {0}: use --table {0}, or run `tablecast migrate --uninstall` with it first"
    )]
    OtherTable(String),
    #[error("migrate needs a direct connection, and a pooler stands at {0}; name the server itself")]
    Pooled(String),
    #[error(
        "--wake notify: notifications do not come back from {0} (a pooler in transaction mode?); name the server itself, or use --wake auto"
    )]
    NoNotifications(String),
    #[error(
        "--wake notify: SQL publishing doesn't notify here yet: run `tablecast migrate --notify on`, as a role that owns the table"
    )]
    NoWake,
    #[error(
        "--wake-trigger would make PREPARE TRANSACTION fail, which this server allows (max_prepared_transactions): add --notify on if nobody uses it"
    )]
    WakeTriggerFailsPrepared,
    #[error("{0} can't be a schema or a default prefix: it holds {{{{, $tablecast$ or a quote")]
    UnfitName(String),
    #[error("another `tablecast migrate` is running and did not end in time: {0}")]
    Busy(String),
    #[error("another transaction holds a lock that this waited for ({0}); try again once it has ended")]
    Locked(String),
    #[error("--fence {0}: a prefix that gets a view of its own is at most 45 letters, digits, _ and -")]
    NotAFence(String),
    #[error("the database answered: {0}")]
    Sqlx(#[source] sqlx::Error),
}

impl SetupError {
    pub(super) fn from_sqlx(error: sqlx::Error, database: &Database) -> Self {
        let place = database.to_string();
        let (code, message) = match &error {
            // rustls tells what it found wrong this way.
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Self::Tls(place, error.to_string());
            }
            sqlx::Error::Io(error) => return Self::Unreachable(place, error.to_string()),
            sqlx::Error::Tls(error) if error.to_string().contains("does not support TLS") => {
                return Self::NoTls(place);
            }
            sqlx::Error::Tls(error) => return Self::Tls(place, error.to_string()),
            sqlx::Error::Database(error) => {
                (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
            }
            _ => match error {
                // What inspecting found, on its way through the tail.
                sqlx::Error::Configuration(inner) if inner.is::<Self>() => {
                    return *inner.downcast().expect("it was just looked at");
                }
                other => return Self::Sqlx(other),
            },
        };
        match code.as_str() {
            "28000" if message.contains("no encryption") => Self::TlsRequired(place, message),
            "28000" | "28P01" => Self::Login(place, message),
            "3D000" => Self::NoDatabase(place),
            "55P03" => Self::Locked(message),
            "53300" => Self::TooManyConnections(place),
            "42501" => Self::NoRights {
                role: database.0.options.get_username().to_owned(),
                what: format!("do this ({message})"),
                cure: "grant it, or have what `tablecast migrate --print` shows run by a role that may"
                    .into(),
            },
            _ => Self::Sqlx(error),
        }
    }
}

const REQUIRED: [(&str, &str); 5] = [
    ("id", "bigint"),
    ("channel", "bytea"),
    ("payload", "bytea"),
    ("created_at", "timestamp"),
    ("channel_hash", "bigint"),
];

/// Reads what is there, and refuses what can't be followed.
pub async fn inspect(session: &mut Session, database: &Database) -> Result<Schema, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    server(session).await.map_err(failed)??;
    let Some(table) = table(session, database).await? else {
        return Err(SetupError::NoTable(database.0.table.clone()));
    };
    objects(session, database, table).await
}

/// What kind of server it is, and whether it can be followed at all.
async fn server(session: &mut Session) -> Result<Result<(), SetupError>, sqlx::Error> {
    let row = session
        .connection
        .fetch_one(
            "SELECT version(), current_setting('server_version_num')::int4, current_setting('server_encoding'),
                    pg_is_in_recovery(),
                    (SELECT min(extname::text) FROM pg_extension WHERE extname IN ('bdr', 'spock'))",
        )
        .await?;
    let version: &str = row.try_get(0)?;
    let another = [("CockroachDB", "CockroachDB"), ("-YB-", "YugabyteDB"), ("Materialize", "Materialize")];
    Ok((|| {
        if let Some((_, kind)) = another.into_iter().find(|(mark, _)| version.contains(mark)) {
            return Err(SetupError::AnotherKind(kind));
        }
        if row.get::<i32, _>(1) < OLDEST {
            return Err(SetupError::TooOld(version.split(' ').nth(1).unwrap_or(version).to_owned()));
        }
        if row.get::<bool, _>(3) {
            return Err(SetupError::Standby);
        }
        let encoding: &str = row.get(2);
        if encoding != "UTF8" {
            return Err(SetupError::Encoding(encoding.to_owned()));
        }
        match row.get::<Option<String>, _>(4) {
            Some(extension) => Err(SetupError::MultiPrimary(extension)),
            None => Ok(()),
        }
    })())
}

/// The table with its sequence and columns.
struct Found {
    table: Table,
    made_by_tablecast: bool,
    has_updated_at: bool,
}

async fn table(session: &mut Session, database: &Database) -> Result<Option<Found>, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let name = &database.0.table;
    let row = sqlx::query(
        "SELECT c.oid, quote_ident(n.nspname), c.relkind::text, c.relhassubclass, row_security_active(c.oid),
                has_table_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'INSERT'),
                EXISTS (SELECT FROM pg_subscription_rel AS r WHERE r.srrelid = c.oid)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE quote_ident(n.nspname) = $1 AND c.relname = $2",
    )
    .persistent(false)
    .bind(&session.schema)
    .bind(name)
    .fetch_optional(&mut session.connection)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let oid: Oid = row.get(0);
    let schema: String = row.get(1);
    let kind = match row.get::<&str, _>(2) {
        "r" if row.get(3) => "a table with heirs",
        "r" => "",
        "p" => "a partitioned table",
        "v" | "m" => "a view",
        "f" => "a foreign table",
        _ => "something else",
    };
    if !kind.is_empty() {
        return Err(SetupError::NotATable(name.clone(), kind));
    }
    // Of what is dropped while this is asked, what tells rights and files says NULL: an error that passes.
    if row.try_get(4).map_err(failed)? {
        return Err(SetupError::RowSecurity(name.clone()));
    }
    if row.get(7) {
        return Err(SetupError::LogicalTarget(name.clone()));
    }
    let full_name = format!("{schema}.\"{name}\"");
    let no_rights = |what: String, right: &str, of: &str| {
        let role = database.0.options.get_username();
        SetupError::NoRights { role: role.to_owned(), what, cure: format!("GRANT {right} ON {of} TO {role}") }
    };
    if !row.try_get::<bool, _>(5).map_err(failed)? {
        return Err(no_rights(format!("read table {name}"), "SELECT, INSERT, UPDATE, DELETE", &full_name));
    }

    let columns = sqlx::query(
        "SELECT a.attname::text, format_type(a.atttypid, NULL), a.attnotnull, a.atthasdef OR a.attidentity <> ''
         FROM pg_attribute AS a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .persistent(false)
    .bind(oid)
    .fetch_all(&mut session.connection)
    .await
    .map_err(failed)?;
    let columns: Vec<(String, String, bool, bool)> =
        columns.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let missing: Vec<&str> = REQUIRED
        .into_iter()
        .map(|(required, _)| required)
        .filter(|required| !columns.iter().any(|(column, ..)| column == required))
        .collect();
    if !missing.is_empty() {
        return Err(SetupError::MissingColumns { table: name.clone(), columns: missing.join(", ") });
    }
    for (column, found, not_null, has_default) in &columns {
        match REQUIRED.into_iter().find(|(required, _)| required == column) {
            Some((_, wanted)) if !found.starts_with(wanted) => {
                let (table, column, found) = (name.clone(), column.clone(), found.clone());
                return Err(SetupError::WrongType { table, column, found, wanted });
            }
            None if column != "updated_at" && *not_null && !has_default => {
                return Err(SetupError::ForeignColumn { table: name.clone(), column: column.clone() });
            }
            _ => {}
        }
    }

    // The sequence that the column really draws from, by dependency and not by its name.
    let row = sqlx::query(
        "SELECT s.oid, format('%I.%I', n.nspname, s.relname), q.seqcache, q.seqincrement > 0 AND NOT q.seqcycle,
                pg_relation_filenode(s.oid), coalesce(obj_description(s.oid, 'pg_class') = 'made by tablecast', false),
                has_sequence_privilege(s.oid, 'SELECT')
         FROM pg_attribute AS a
         LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.deptype = 'n'
             AND p.refclassid = 'pg_class'::regclass
           OR a.attidentity <> '' AND p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
             AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.deptype = 'i'
         JOIN pg_sequence AS q ON q.seqrelid IN (p.refobjid, p.objid)
         JOIN pg_class AS s ON s.oid = q.seqrelid JOIN pg_namespace AS n ON n.oid = s.relnamespace
         WHERE a.attrelid = $1 AND a.attname = 'id'",
    )
    .persistent(false)
    .bind(oid)
    .fetch_optional(&mut session.connection)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Err(SetupError::NoSequence(name.clone())) };
    let sequence: String = row.get(1);
    let cache: i64 = row.get(2);
    if cache > 1 {
        return Err(SetupError::Cache { sequence, cache });
    }
    if !row.get::<bool, _>(3) {
        return Err(SetupError::Descends(sequence));
    }
    if !row.try_get::<bool, _>(6).map_err(failed)? {
        return Err(no_rights(
            format!("read sequence {sequence}"),
            "USAGE, SELECT",
            &format!("SEQUENCE {sequence}"),
        ));
    }
    let filenode = row.try_get(4).map_err(failed)?;
    let table = Table { name: full_name, schema, oid, sequence, sequence_oid: row.get(0), filenode };
    let has_updated_at = columns.iter().any(|(column, ..)| column == "updated_at");
    Ok(Some(Found { table, made_by_tablecast: row.get(5), has_updated_at }))
}

/// What stands beside the table.
async fn objects(session: &mut Session, database: &Database, found: Found) -> Result<Schema, SetupError> {
    let failed = |error| SetupError::from_sqlx(error, database);
    let Found { table, made_by_tablecast, has_updated_at } = found;
    let row = sqlx::query(
        "SELECT
           coalesce(has_table_privilege(to_regclass($2 || '.tablecast_defaults'), 'SELECT'), false),
           EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($2 || '.tablecast_publish')
             AND tgname = 'tablecast_publish_insert'),
           (SELECT coalesce(bool_and(has_table_privilege(to_regclass($2 || h.name), h.wanted)), false)
            FROM (VALUES ('.tablecast_idempotency_keys', 'SELECT'), ('.tablecast_idempotency_keys', 'INSERT'),
              ('.tablecast_idempotency_keys', 'UPDATE'), ('.tablecast_idempotency_keys', 'DELETE'),
              ('.tablecast_prefixes', 'SELECT'), ('.tablecast_prefixes', 'INSERT')) AS h(name, wanted)),
           coalesce(has_sequence_privilege(to_regclass($2 || '.tablecast_wake'), 'UPDATE'), false),
           has_table_privilege($1, 'INSERT'),
           has_table_privilege($1, 'DELETE') AND has_any_column_privilege($1, 'UPDATE'),
           EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL
             AND pg_get_indexdef(i.indexrelid, 1, true) = 'channel_hash'
             AND pg_get_indexdef(i.indexrelid, 2, true) = 'id'),
           current_setting('max_prepared_transactions')::int4,
           to_regclass($2 || '.tablecast_idempotency_keys') IS NOT NULL,
           (SELECT has_table_privilege(p.proowner, $1, 'INSERT') FROM pg_proc AS p
            WHERE p.oid = to_regproc($2 || '.tablecast_publish_insert')),
           (SELECT p.prosrc LIKE '%pg_notify%' FROM pg_proc AS p
            WHERE p.oid = to_regproc($2 || '.tablecast_publish_insert'))",
    )
    .persistent(false)
    .bind(table.oid)
    .bind(&table.schema)
    .fetch_one(&mut session.connection)
    .await
    .map_err(failed)?;
    let publishing: bool = row.get(1);
    let defaults = if row.get(0) && publishing {
        let sql = format!("SELECT prefix, messages FROM {}.tablecast_defaults", table.schema);
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut session.connection)
            .await
            .map_err(failed)?;
        Some(Defaults { prefix: Prefix::new(row.get(0)).unwrap_or_default(), messages: row.get(1) })
    } else {
        None
    };

    let (role, name) = (database.0.options.get_username(), &table.name);
    let has_helpers: bool = row.get(2);
    let may_wake: bool = row.get(3);
    let has_replay_index: bool = row.get(6);
    let mut advice = Vec::new();
    if !row.try_get::<bool, _>(4).map_err(failed)? {
        advice.push(format!("role {role} may not publish: GRANT INSERT ON {name} TO {role}"));
    }
    if !row.try_get::<bool, _>(5).map_err(failed)? {
        // UPDATE is for FOR UPDATE SKIP LOCKED.
        advice.push(format!(
            "role {role} may not trim: GRANT UPDATE, DELETE ON {name} TO {role}, or --retention off"
        ));
    }
    let schema = &table.schema;
    if row.get::<bool, _>(8) && !has_helpers {
        advice.push(format!(
            "role {role} may not use the helper tables, so that no Idempotency-Key works: GRANT SELECT, INSERT, UPDATE, \
             DELETE ON {schema}.tablecast_idempotency_keys, {schema}.tablecast_prefixes TO {role}"
        ));
    }
    if publishing && !may_wake {
        advice.push(format!(
            "role {role} can't ask to be notified, and polls: GRANT USAGE, SELECT, UPDATE ON SEQUENCE {schema}.tablecast_wake TO {role}"
        ));
    }
    if publishing && row.get::<Option<bool>, _>(9) == Some(false) {
        advice.push(format!(
            "the owner of {schema}.tablecast_publish may not insert into {name}, which was made anew by another role: grant it, or run `tablecast migrate` as that"
        ));
    }
    if !has_replay_index {
        advice.push("there is no index on (channel_hash, id): run `tablecast migrate`".into());
    }
    let wake_sequence = (may_wake && publishing).then(|| format!("{schema}.tablecast_wake"));
    Ok(Schema {
        table,
        made_by_tablecast,
        has_updated_at,
        defaults,
        has_helpers,
        wake_sequence,
        notifies: row.get::<Option<bool>, _>(10) == Some(true),
        has_replay_index,
        advice,
    })
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
pub fn timestamps(has_updated_at: bool) -> (&'static str, String) {
    if has_updated_at {
        ("created_at, updated_at", format!("{}, {}", now(), now()))
    } else {
        ("created_at", now().to_owned())
    }
}

/// The present, whatever the transaction's beginning.
pub fn now() -> &'static str {
    "pg_catalog.timezone('UTC', pg_catalog.clock_timestamp())"
}
