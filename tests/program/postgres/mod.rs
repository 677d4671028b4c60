//! The table in PostgreSQL: real servers, workers in `psql` and in real drivers.

mod drivers;
mod failover;
mod gaps;
mod histories;
mod http;
mod migrate;
mod outages;
mod publishing;
mod refusals;
mod rows;
mod servers;
mod states;
mod trim;
mod versions;
mod waking;

use std::process::Output;

use crate::support::{Database, Server, Socket, postgres, pubsub, server, tablecast, until};

/// Solid Cable's table as Rails 8 makes it.
const RAILS: &str = r#"
    CREATE TABLE "solid_cable_messages" ("id" bigserial primary key, "channel" bytea NOT NULL, "payload" bytea NOT NULL, "created_at" timestamp(6) NOT NULL, "channel_hash" bigint NOT NULL);
    CREATE INDEX "index_solid_cable_messages_on_channel" ON "solid_cable_messages" ("channel");
    CREATE INDEX "index_solid_cable_messages_on_channel_hash" ON "solid_cable_messages" ("channel_hash");
    CREATE INDEX "index_solid_cable_messages_on_created_at" ON "solid_cable_messages" ("created_at");"#;

/// A new database of the shared server, with all that `migrate` makes.
pub fn migrated() -> Database {
    let database = postgres::shared().database();
    migrate(&database, &[]);
    database
}

/// A database, a server on it, and a client that listens to stream `s`.
fn listening() -> (Database, Server, Socket) {
    let database = migrated();
    let server = serve(&database).start();
    let socket = listen(&server);
    (database, server, socket)
}

pub fn serve(database: &Database) -> crate::support::Builder {
    server().database_url(&database.url()).open()
}

/// A new client that listens to stream `s`.
fn listen(server: &Server) -> Socket {
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    socket
}

/// The next messages of stream `s` are these.
fn expect(socket: &mut Socket, messages: &[&str]) {
    for message in messages {
        assert_eq!(socket.message(&pubsub("s")), *message);
    }
}

/// How many rows of a table were read without an index, once all who have done so are gone and have told.
fn scanned(database: &Database, table: &str) -> u64 {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until("they are gone", || database.sql(others) == "0");
    let rows = format!("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = '{table}'");
    database.sql(&rows).parse().unwrap()
}

/// Runs `tablecast migrate`, and gives what it prints.
fn migrate(database: &Database, arguments: &[&str]) -> String {
    let output = try_migrate(&database.url(), arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn try_migrate(url: &str, arguments: &[&str]) -> Output {
    tablecast().args(["migrate", "--database-url", url]).args(arguments).output().unwrap()
}

/// A worker's statement: a message for stream `s`.
fn publish(data: &str) -> String {
    format!("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '{data}')")
}

/// A row as Rails writes it: straight into the table, and its sequence draws the id.
fn row(channel: &str, payload: &str) -> String {
    format!(
        "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
         VALUES (now() AT TIME ZONE 'UTC', convert_to('{channel}', 'UTF8'), convert_to('{payload}', 'UTF8'),
           ('x' || encode(substr(sha256(convert_to('{channel}', 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint)
         ON CONFLICT DO NOTHING RETURNING id"
    )
}
