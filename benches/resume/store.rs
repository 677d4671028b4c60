//! A database of any kind, with the table and the rules.

use std::path::Path;
use std::time::Instant;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, query_scalar};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::databases::connection::Stream;
use crate::databases::engine::Engine;
use crate::databases::server::{Database, DatabaseServer, migrate};
use crate::harness::clients::runtime;
use crate::harness::process::{Server, directory};
use crate::harness::report::Figure;
use crate::rules::RULES;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Sqlite,
    Server(Engine),
}

/// The database that is measured.
pub enum Store {
    Sqlite(TempDir),
    /// The database before its server, which ends with it.
    Server(Database, #[allow(dead_code, reason = "it is held")] DatabaseServer),
}

/// Rows of a statement that fills, and of how many one is deleted again.
const CHUNK: u64 = 500_000;
const DEAD: u64 = 100;
/// Other streams than those that are looked at.
const CHANNELS: u64 = 50_000;
/// Within the time for which rows are retained.
const AGE_S: u64 = 20 * 3600;

impl Kind {
    pub const ALL: [Self; 3] = [Self::Sqlite, Self::Server(Engine::Postgres), Self::Server(Engine::MariaDb)];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Server(engine) => engine.name(),
        }
    }

    pub fn figure(self) -> Figure {
        Figure::new().with("database", self.name())
    }

    pub fn store(self) -> Store {
        let store = match self {
            Self::Sqlite => Store::Sqlite(directory()),
            Self::Server(engine) => {
                let server = DatabaseServer::start(engine);
                Store::Server(server.database(), server)
            }
        };
        std::fs::write(store.directory().join("tablecast.toml"), RULES).expect("the folder is there");
        if let Store::Sqlite(directory) = &store {
            migrate(&store.url(), directory.path());
        }
        store
    }
}

impl Store {
    /// A server with nothing in its memory.
    pub fn serve(&self, settings: &[&str]) -> Server {
        Server::start(self.directory(), &self.url(), settings)
    }

    /// Lets the next row have this id, on a table that is empty and that nobody follows.
    pub fn jump(&self, id: i64) {
        self.run(&match self {
            Self::Sqlite(_) => format!(
                "INSERT INTO solid_cable_messages (id, channel, payload, created_at, channel_hash)
                 VALUES ({}, 'x', '1', CURRENT_TIMESTAMP, 0); DELETE FROM solid_cable_messages",
                id - 1
            ),
            Self::Server(Database { engine: Engine::Postgres, .. }, _) => {
                format!("SELECT setval(pg_get_serial_sequence('solid_cable_messages', 'id'), {id}, false)")
            }
            Self::Server(Database { engine: Engine::MariaDb, .. }, _) => {
                format!("ALTER TABLE solid_cable_messages AUTO_INCREMENT = {id}")
            }
        });
    }

    /// Rows for most of the retention time, of which none is the newest of anything that is looked at: `hot:0`
    /// has had a twentieth of all before the others began, `cold:0` one, `absent:0` none. Indexes are made
    /// last: in the other order random pages of each would be written all the while.
    pub fn fill(&self, rows: u64) -> f64 {
        let started = Instant::now();
        match self {
            Self::Sqlite(directory) => fill_sqlite(directory.path(), rows),
            Self::Server(database, _) => {
                fill_server(database, rows);
                database.settle();
            }
        }
        started.elapsed().as_secs_f64()
    }

    /// The look-up of a stream's latest row by itself, so many times.
    pub fn look_up(&self, stream: &str, count: usize) -> Vec<i64> {
        let Stream { name, hash } = Stream::new(stream);
        match self {
            Self::Sqlite(directory) => {
                let mut sqlite = Sqlite::open(directory.path());
                let sql = format!(
                    "SELECT id FROM solid_cable_messages
                     WHERE channel_hash = {hash} AND id BETWEEN 1 AND 4611686018427387904
                       AND CAST(channel AS BLOB) = CAST('{name}' AS BLOB) AND octet_length(payload) <= 1048576
                     ORDER BY id DESC LIMIT 1"
                );
                timed(count, || drop(sqlite.numbers(&sql)))
            }
            Self::Server(database, _) => {
                let mut session = database.session();
                let sql = match database.engine {
                    Engine::Postgres => format!(
                        "SELECT id FROM solid_cable_messages
                         WHERE (channel_hash, id) >= ({hash}, 1) AND (channel_hash, id) <= ({hash}, 4611686018427387904)
                           AND channel = convert_to('{name}', 'UTF8') AND octet_length(payload) <= 1048576
                         ORDER BY channel_hash DESC, id DESC LIMIT 1"
                    ),
                    Engine::MariaDb => {
                        let index = session.texts(
                            "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()
                               AND table_name = 'solid_cable_messages' AND column_name = 'channel_hash'",
                        );
                        format!(
                            "SELECT id FROM solid_cable_messages FORCE INDEX (`{}`)
                             WHERE channel_hash = {hash} AND id BETWEEN 1 AND 4611686018427387904
                               AND channel = '{name}' AND LENGTH(payload) <= 1048576
                             ORDER BY id DESC LIMIT 1",
                            index[0]
                        )
                    }
                };
                timed(count, || drop(session.numbers(&sql)))
            }
        }
    }

    fn run(&self, sql: &str) {
        match self {
            Self::Sqlite(directory) => Sqlite::open(directory.path()).run(sql),
            Self::Server(database, _) => database.session().run(sql),
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Sqlite(directory) => directory.path(),
            Self::Server(database, _) => database.directory(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Sqlite(directory) => format!("sqlite://{}", file(directory.path())),
            Self::Server(database, _) => database.url.clone(),
        }
    }
}

fn timed(count: usize, mut work: impl FnMut()) -> Vec<i64> {
    (0..count)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_nanos() as i64
        })
        .collect()
}

fn fill_server(database: &Database, rows: u64) {
    let engine = database.engine;
    let mut session = database.session();
    let [drop_indexes, make_indexes] = engine.indexes().map(|sql| session.texts(sql));
    for sql in drop_indexes {
        session.run(&sql);
    }
    session.run(&engine.insert_rows("cold:", 1, (1, 1), rows, AGE_S));
    session.run(&engine.insert_rows("hot:", 1, (1, rows / 20), rows, AGE_S));
    for first in (rows / 20 + 1..=rows).step_by(CHUNK as usize) {
        let last = rows.min(first + CHUNK - 1);
        session.run(&engine.insert_rows("progress:", CHANNELS, (first, last), rows, AGE_S));
    }
    session.run(&format!("DELETE FROM solid_cable_messages WHERE id % {DEAD} = 0"));
    for sql in make_indexes {
        session.run(&sql);
    }
    session.run(engine.tidy());
}

/// The hashes of those that aren't looked at are as scattered as a digest's, and SQLite has no SHA-256.
fn fill_sqlite(directory: &Path, rows: u64) {
    let mut sqlite = Sqlite::open(directory);
    let of_indexes =
        "FROM sqlite_master WHERE type = 'index' AND tbl_name = 'solid_cable_messages' AND sql IS NOT NULL";
    let drop_indexes = sqlite.texts(&format!(r#"SELECT 'DROP INDEX "' || name || '"' {of_indexes}"#));
    let make_indexes = sqlite.texts(&format!("SELECT sql {of_indexes}"));
    drop_indexes.iter().for_each(|sql| sqlite.run(sql));
    let one = |name: &str| {
        let Stream { name, hash } = Stream::new(name);
        (format!("CAST('{name}' AS BLOB)"), hash.to_string())
    };
    let other = "printf('progress:%d', i % 50000)".to_owned();
    let scattered = "(((i % 50000) * 2654435761 & 4294967295) << 31) - (i % 50000)".to_owned();
    let parts =
        [(one("cold:0"), 1, 1), (one("hot:0"), 1, rows / 20), ((other, scattered), rows / 20 + 1, rows)];
    for ((channel, hash), first, last) in parts {
        sqlite.run(&format!(
            r#"INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
            WITH RECURSIVE numbers (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM numbers WHERE i < {last})
            SELECT CAST({channel} AS BLOB),
                   CAST(printf('{{"percent":%d,"text":"%.*c"}}', i % 100, 100, 'x') AS BLOB),
                   strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('-%f seconds', ({rows} - i) * {AGE_S}.0 / {rows})),
                   {hash}
            FROM numbers"#
        ));
    }
    sqlite.run(&format!("DELETE FROM solid_cable_messages WHERE id % {DEAD} = 0"));
    make_indexes.iter().for_each(|sql| sqlite.run(sql));
    // Else the first who opens it copies gigabytes.
    sqlite.run("PRAGMA wal_checkpoint(TRUNCATE)");
}

struct Sqlite {
    connection: SqliteConnection,
    runtime: Runtime,
}

impl Sqlite {
    fn open(directory: &Path) -> Self {
        let runtime = runtime();
        let options = SqliteConnectOptions::new().filename(file(directory)).disable_statement_logging();
        let connection = runtime.block_on(options.connect()).expect("the table is there");
        Self { connection, runtime }
    }

    fn run(&mut self, sql: &str) {
        let result = self.runtime.block_on(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection));
        result.unwrap_or_else(|error| panic!("{error}\n{sql}"));
    }

    fn numbers(&mut self, sql: &str) -> Vec<i64> {
        let result = query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.connection);
        self.runtime.block_on(result).unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    fn texts(&mut self, sql: &str) -> Vec<String> {
        let result = query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.connection);
        self.runtime.block_on(result).unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }
}

fn file(directory: &Path) -> String {
    directory.join("bench.db").into_os_string().into_string().expect("the target's path is UTF-8")
}
