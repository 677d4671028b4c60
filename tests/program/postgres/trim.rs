//! Trimming: one's own old rows, and never more.

use super::{expect, listen, migrate, migrated, publish, serve};
use crate::support::{Database, postgres, until};

/// Old and young rows of two prefixes and of none.
fn seed(database: &Database) {
    database.sql(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT convert_to(prefix || 's', 'UTF8'), '1', now() AT TIME ZONE 'UTC' - age, 0
         FROM generate_series(1, 1500), (VALUES ('a:'), ('b:'), ('')) AS p(prefix), (VALUES (interval '2 days'), ('1 hour')) AS a(age)",
    );
}

/// Rows by prefix, old and young.
fn counts(database: &Database) -> String {
    database.sql(
        "SELECT string_agg(prefix || ' ' || n, ', ') FROM (
           SELECT split_part(convert_from(channel, 'UTF8'), 's', 1) AS prefix,
                  count(*) FILTER (WHERE created_at < now() AT TIME ZONE 'UTC' - interval '1 day') || '/' || count(*) AS n
           FROM solid_cable_messages GROUP BY 1 ORDER BY 1) AS counted",
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
    let database = postgres::shared().database();
    database.sql(super::RAILS);
    migrate(&database, &[]);
    seed(&database);
    database.sql("INSERT INTO tablecast_idempotency_keys VALUES ('', 'old', '', '[]', now() - interval '2 days'), ('', 'young', '', '[]', now() AT TIME ZONE 'UTC')");
    let server = serve(&database).start();
    // Keys are trimmed after the messages: once an old one is gone, messages would be too.
    until("a round is over", || {
        database.sql("SELECT string_agg(idempotency_key, ' ') FROM tablecast_idempotency_keys") == "young"
    });
    assert_eq!(counts(&database), " 1500/3000, a: 1500/3000, b: 1500/3000");
    drop(server);
    let _owner = serve(&database).arg("--owns-table").start();
    until("old rows are gone", || counts(&database) == " 0/1500, a: 0/1500, b: 0/1500");
}

#[test]
fn the_oldest_rows_go_first_a_few_at_a_time() {
    let database = migrated();
    // The youngest has the lowest id.
    database.sql(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT 's', '1', '2000-01-01'::timestamp - n * interval '1 minute', 0 FROM generate_series(1, 6000) AS n;
         CREATE TABLE batches ();
         CREATE FUNCTION count_batch() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN INSERT INTO batches DEFAULT VALUES; RETURN NULL; END';
         CREATE TRIGGER count_batch AFTER DELETE ON solid_cable_messages EXECUTE FUNCTION count_batch();",
    );
    let _server = serve(&database).start();
    until("all are gone", || {
        let left = database.sql("SELECT count(*), coalesce(max(id), 0) FROM solid_cable_messages");
        let (count, last) = left.split_once('|').unwrap();
        assert_eq!(count, last, "those with the highest ids are the oldest");
        count == "0"
    });
    assert!(database.sql("SELECT count(*) FROM batches").parse::<u32>().unwrap() > 3, "in one go");
}

#[test]
fn rows_that_somebody_else_holds_are_passed_and_not_waited_for() {
    let database = migrated();
    seed(&database);
    let held = database.begin(
        "SELECT id FROM solid_cable_messages WHERE channel = 'a:s' AND created_at < now() - interval '1 day' ORDER BY id LIMIT 700 FOR UPDATE",
    );
    let server = serve(&database).with_prefix("a").start();
    until("the others are gone", || counts(&database) == " 1500/3000, a: 700/2200, b: 1500/3000");
    assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
    drop(held);
}

#[test]
fn an_old_row_that_commits_late_is_delivered_before_it_is_trimmed() {
    let database = migrated();
    let server = serve(&database).arg("--retention=1s").start();
    let mut socket = listen(&server);
    let late = database.begin(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT 's', convert_to(n::text, 'UTF8'), '2000-01-01', 0 FROM generate_series(1, 3) AS n",
    );
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    late.commit();
    expect(&mut socket, &["1", "2", "3"]);
    let _server = server.again();
    until("it is over", || {
        database.sql("SELECT count(*) FROM solid_cable_messages WHERE created_at < '2001-01-01'") == "0"
    });
}

#[test]
fn retention_can_be_off() {
    let database = migrated();
    seed(&database);
    database.sql(
        "INSERT INTO tablecast_idempotency_keys VALUES ('', 'old', '', '[]', now() - interval '2 days')",
    );
    let _server = serve(&database).arg("--retention=off").start();
    until("a round is over", || database.sql("SELECT count(*) FROM tablecast_idempotency_keys") == "0");
    assert_eq!(counts(&database), " 1500/3000, a: 1500/3000, b: 1500/3000");
}
