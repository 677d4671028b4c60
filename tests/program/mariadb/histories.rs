//! A table that leads another life is noticed, and one that goes on is not taken for another.

use super::{expect, listening, publish, row, serve, server_account};
use crate::support::{Database, PASSWORD, Socket, server, until};

const NEW_HISTORY: &str = r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#;

fn history(database: &Database) -> String {
    database.sql("SELECT payload FROM solid_cable_messages WHERE id = -1")
}

/// What a server goes on with, after a table was made anew.
fn is_another(change: &str) {
    let (database, server, mut socket) = listening();
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    database.sql(change);
    assert_eq!(socket.text(), NEW_HISTORY, "{change}");

    let mut socket = super::listen(&server);
    database.sql(&row("s", "2"));
    expect(&mut socket, &["2"]);
    // Its name is put back; that makes it no other one.
    let server = server.again();
    assert!(history(&database).contains("history"));
    let mut socket: Socket = super::listen(&server);
    database.sql(&row("s", "3"));
    expect(&mut socket, &["3"]);
}

#[test]
fn a_table_that_was_truncated_is_another() {
    is_another("TRUNCATE solid_cable_messages");
}

#[test]
fn a_table_that_rails_made_anew_is_another() {
    is_another(&format!("DROP TABLE solid_cable_messages; {}", super::RAILS));
}

#[test]
fn a_table_whose_ids_come_again_is_another() {
    is_another(
        "DELETE FROM solid_cable_messages WHERE id > 0; ALTER TABLE solid_cable_messages AUTO_INCREMENT = 1",
    );
}

#[test]
fn a_table_that_was_made_anew_and_filled_further_than_before_is_another() {
    // In a stream of its own: who listens by the time that the tail has read them would hear of them.
    let filled = super::publish_numbers(1, 50).replace("'s'", "'t'");
    is_another(&format!("TRUNCATE solid_cable_messages; {filled}"));
}

#[test]
fn a_table_that_is_truncated_again_and_again_is_another_each_time() {
    let (database, server, mut socket) = listening();
    for _ in 0..4 {
        database.sql(&row("s", "1"));
        expect(&mut socket, &["1"]);
        database.sql("TRUNCATE solid_cable_messages");
        assert_eq!(socket.text(), NEW_HISTORY);
        socket = super::listen(&server);
    }
}

#[test]
fn altering_and_emptying_a_table_changes_nothing() {
    let (database, _server, mut socket) = listening();
    let before = history(&database);
    for change in [
        "ALTER TABLE solid_cable_messages FORCE",
        "OPTIMIZE TABLE solid_cable_messages",
        "ANALYZE TABLE solid_cable_messages",
        "ALTER TABLE solid_cable_messages ADD COLUMN note varchar(10)",
        "CREATE INDEX later ON solid_cable_messages (created_at, channel_hash)",
        "DELETE FROM solid_cable_messages WHERE id > 0",
        "ALTER TABLE solid_cable_messages AUTO_INCREMENT = 5000",
    ] {
        database.sql(change);
        database.sql(&publish("1"));
        expect(&mut socket, &["1"]);
    }
    socket.nothing_else();
    assert_eq!(history(&database), before);
}

#[test]
fn a_server_that_may_not_write_the_name_says_so_and_goes_by_the_ids() {
    let (database, first, _) = listening();
    drop(first);
    database.sql("DELETE FROM solid_cable_messages");
    let account = server_account(&database);
    database.sql(&format!("REVOKE INSERT, DELETE ON solid_cable_messages FROM {account}"));
    let server = server().database_url(&database.url_as(&account, PASSWORD)).open().start();
    until("it says so", || server.log().contains("names the table's history"));
    let mut socket = super::listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    database.sql("TRUNCATE solid_cable_messages");
    assert_eq!(socket.text(), NEW_HISTORY);
}

#[test]
fn a_table_that_was_moved_to_another_server_gets_another_name() {
    let (database, server, _) = listening();
    let before = history(&database);
    drop(server);
    database.sql(
        "UPDATE solid_cable_messages SET payload = JSON_REPLACE(payload, '$.server', 'elsewhere') WHERE id = -1",
    );
    let _server = serve(&database).start();
    let after = history(&database);
    assert_ne!(after, before);
    assert!(!after.contains("elsewhere"), "{after}");
}
