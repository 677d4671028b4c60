//! Trimming: one's own old rows, and never more.

use super::{RAILS, expect, listen, migrate, migrated, publish, serve, server_account};
use crate::support::{Database, PASSWORD, mariadb, server, until};

/// Old and young rows of two prefixes and of none.
fn seed(database: &Database) {
    database.sql(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT CONCAT(prefix, 's'), '1', UTC_TIMESTAMP(6) - INTERVAL age HOUR, 0
         FROM seq_1_to_1500, (SELECT 'a:' AS prefix UNION ALL SELECT 'b:' UNION ALL SELECT '') AS p,
           (SELECT 48 AS age UNION ALL SELECT 1) AS a",
    );
}

/// Rows by prefix, old and all.
fn counts(database: &Database) -> String {
    database.sql(
        "SELECT GROUP_CONCAT(prefix, ' ', n ORDER BY prefix SEPARATOR ', ') FROM (
           SELECT SUBSTRING_INDEX(channel, 's', 1) AS prefix,
                  CONCAT(SUM(created_at < UTC_TIMESTAMP(6) - INTERVAL 1 DAY), '/', COUNT(*)) AS n
           FROM solid_cable_messages WHERE id > 0 GROUP BY 1) AS counted",
    )
}

#[test]
fn a_server_with_a_prefix_trims_its_own_old_rows_alone() {
    let database = migrated();
    seed(&database);
    assert_eq!(counts(&database), " 1500/3000, a: 1500/3000, b: 1500/3000");
    let _server = serve(&database).with_prefix("a").start();
    until("a's old rows are gone", || counts(&database) == " 1500/3000, a: 0/1500, b: 1500/3000");
}

#[test]
fn a_server_without_prefix_trims_a_table_of_its_own_and_not_rails() {
    let database = mariadb::shared().database();
    database.sql(RAILS);
    migrate(&database, &[]);
    seed(&database);
    database.sql(
        "INSERT INTO tablecast_idempotency_keys VALUES ('', 'old', '', '[]', UTC_TIMESTAMP(6) - INTERVAL 2 DAY), ('', 'young', '', '[]', UTC_TIMESTAMP(6))",
    );
    let server = serve(&database).start();
    // Keys are trimmed after the messages: once an old one is gone, messages would be too.
    until("a round is over", || {
        database.sql("SELECT GROUP_CONCAT(idempotency_key) FROM tablecast_idempotency_keys") == "young"
    });
    assert_eq!(counts(&database), " 1500/3000, a: 1500/3000, b: 1500/3000");
    drop(server);
    let _owner = serve(&database).arg("--owns-table").start();
    until("old rows are gone", || counts(&database) == " 0/1500, a: 0/1500, b: 0/1500");
    assert_eq!(database.sql("SELECT COUNT(*) FROM solid_cable_messages WHERE id = -1"), "1");
}

#[test]
fn rows_that_somebody_else_holds_are_passed_and_not_waited_for() {
    let database = migrated();
    seed(&database);
    let held = database.begin(
        "SELECT MAX(id) FROM (SELECT id FROM solid_cable_messages WHERE channel = 'a:s'
           AND created_at < UTC_TIMESTAMP(6) - INTERVAL 1 DAY ORDER BY id LIMIT 700 FOR UPDATE) AS held",
    );
    let _server = serve(&database).with_prefix("a").start();
    until("the others are gone", || counts(&database) == " 1500/3000, a: 700/2200, b: 1500/3000");
    held.roll_back();
}

#[test]
fn what_publishing_by_sql_leaves_behind_is_taken_away() {
    let database = migrated();
    migrate(&database, &["--fence", "a"]);
    database.sql("INSERT INTO tablecast_publish_a (stream, data) SELECT 's', seq FROM seq_1_to_1200");
    database.sql(&super::publish_numbers(1, 1200));
    // None that is younger than a second is touched: its worker may want to see it.
    for table in ["tablecast_publish", "tablecast_publish_a"] {
        database.sql(&format!("UPDATE {table} SET created_at = created_at - INTERVAL 1 MINUTE"));
    }
    let left = || {
        database.sql(
            "SELECT (SELECT COUNT(*) FROM tablecast_publish), (SELECT COUNT(*) FROM tablecast_publish_a)",
        )
    };
    assert_eq!(left(), "1200\t1200");
    let server = serve(&database).start();
    until("it is", || left() == "0\t0");
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
}

#[test]
fn who_may_not_tidy_up_says_so_and_trims_the_rest() {
    let database = migrated();
    seed(&database);
    let account = server_account(&database);
    database.sql(&format!("REVOKE DELETE ON tablecast_publish FROM {account}"));
    let url = database.url_as(&account, PASSWORD);
    let server = server().database_url(&url).with_prefix("a").start();
    until("a's old rows are gone", || counts(&database) == " 1500/3000, a: 0/1500, b: 1500/3000");
    assert!(server.log().contains("GRANT SELECT, DELETE ON"), "{}", server.log());
    assert!(!server.log().contains("trimming failed"), "{}", server.log());
}
