//! The table in MariaDB: real servers, workers in the stock shell.

mod drivers;
mod gaps;
mod histories;
mod migrate;
mod outages;
mod publishing;
mod refusals;
mod starts;
mod trim;

use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::{Builder, Database, Server, Socket, mariadb, pubsub, server, tablecast};

/// Longer than a gap lives of which nobody knows whose it is.
const OLD: Duration = Duration::from_secs(7);

/// Solid Cable's table as Rails 8 makes it.
const RAILS: &str = "
    CREATE TABLE `solid_cable_messages` (`id` bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, `channel` varbinary(1024) NOT NULL, `payload` longblob NOT NULL, `created_at` datetime(6) NOT NULL, `channel_hash` bigint NOT NULL, INDEX `index_solid_cable_messages_on_channel` (`channel`), INDEX `index_solid_cable_messages_on_channel_hash` (`channel_hash`), INDEX `index_solid_cable_messages_on_created_at` (`created_at`)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;";

/// A new database of the shared server, with all that `migrate` makes.
fn migrated() -> Database {
    let database = mariadb::shared().database();
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

fn serve(database: &Database) -> Builder {
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

/// The next messages of stream `s` are the numbers from one to another.
fn expect_numbers(socket: &mut Socket, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        expect(socket, &[&number.to_string()]);
    }
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

/// Numbers for stream `s`, in one statement.
fn publish_numbers(first: u32, last: u32) -> String {
    format!(
        "INSERT INTO tablecast_publish (stream, data) SELECT 's', seq FROM seq_{first}_to_{last} ORDER BY seq"
    )
}

/// A row as Rails writes it: straight into the table.
fn row(channel: &str, payload: &str) -> String {
    format!(
        "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
         VALUES (UTC_TIMESTAMP(6), '{channel}', '{payload}',
           CAST(CONV(LEFT(SHA2('{channel}', 256), 16), 16, -10) AS SIGNED))"
    )
}

/// What the table holds, beside the row that names its history.
fn rows(database: &Database) -> String {
    database
        .sql("SELECT group_concat(payload ORDER BY id SEPARATOR ' ') FROM solid_cable_messages WHERE id > 0")
}

/// A server's account with the rights that the documentation names, but for PROCESS.
fn server_account(database: &Database) -> String {
    let account = database.user("server");
    for (rights, table) in [
        ("SELECT, INSERT, DELETE", "solid_cable_messages"),
        ("SELECT, INSERT, UPDATE, DELETE", "tablecast_idempotency_keys"),
        ("SELECT, INSERT", "tablecast_prefixes"),
        ("SELECT, INSERT, DELETE", "tablecast_publish"),
        ("SELECT", "tablecast_defaults"),
    ] {
        database.sql(&format!("GRANT {rights} ON {table} TO {account}"));
    }
    account
}

/// Others publish, and are delivered, until a gap of before is old.
fn others_go_on_until_it_is_old(database: &Database, socket: &mut Socket) {
    let started = Instant::now();
    while started.elapsed() < OLD {
        database.sql(&publish("0"));
        expect(socket, &["0"]);
    }
}
