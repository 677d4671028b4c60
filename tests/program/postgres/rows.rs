//! Rows as anybody may write them.

use super::{expect, listen, listening, migrated, publish, row, scanned, serve};

#[test]
fn rows_that_are_no_messages_are_skipped_counted_and_told_once() {
    let (database, server, mut socket) = listening();
    let insert = |channel: &str, payload: &str| {
        database.sql(&format!(
            "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
             VALUES ({channel}, {payload}, now(), 7)"
        ));
    };
    insert("decode(repeat('78', 1025), 'hex')", "'1'");
    for _ in 0..3 {
        insert("'s'", "'not json'");
        insert("'s'", r"'\x22ff22'");
        insert("'s'", "''");
        insert("'s'", "convert_to(repeat('x', 2000000), 'UTF8')");
        insert(r"'\xff'", "'1'");
    }
    insert("''", "'1'");
    database.sql(&row("s", "1"));
    expect(&mut socket, &["1"]);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_json"}"#), 9.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="too_large"}"#), 3.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_a_name"}"#), 4.0);
    assert_eq!(server.log().matches("was skipped").count(), 3, "a line for each stream: {}", server.log());
}

#[test]
fn a_wrong_hash_and_a_strange_time_do_not_keep_a_message_back() {
    let (database, server, mut socket) = listening();
    database.sql(
        "ALTER TABLE solid_cable_messages ALTER channel_hash DROP NOT NULL, ALTER created_at DROP NOT NULL,
           ALTER payload DROP NOT NULL, ALTER channel DROP NOT NULL",
    );
    for (data, channel, payload, created_at, hash) in [
        ("1", "'s'", "'1'", "now()", "NULL"),
        ("2", "'s'", "'2'", "NULL", "7"),
        ("3", "'s'", "'3'", "now() + interval '100 years'", "7"),
        ("4", "'s'", "'4'", "'infinity'", "-1"),
        ("5", "'s'", "'5'", "'4713-01-01 BC'", "0"),
        ("", "'s'", "NULL", "NULL", "NULL"),
        ("", "NULL", "'6'", "NULL", "NULL"),
        ("7", "'s'", "'7'", "now()", "7"),
    ] {
        database.sql(&format!(
            "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
             VALUES ({channel}, {payload}, {created_at}, {hash})"
        ));
        if !data.is_empty() {
            expect(&mut socket, &[data]);
        }
    }
    assert_eq!(server.metric(r#"tablecast_row_faults_total{fault="wrong_hash"}"#), 6.0);
}

#[test]
fn foreign_columns_with_defaults_do_no_harm() {
    let (database, server, mut socket) = listening();
    database.sql("ALTER TABLE solid_cable_messages ADD tenant text NOT NULL DEFAULT 'x', ADD note jsonb");
    database.sql(&publish("1"));
    database.sql(&row("s", "2"));
    assert_eq!(server.publish(r#"{"stream":"s","data":3}"#).status, 201);
    expect(&mut socket, &["1", "2", "3"]);
}

#[test]
fn huge_rows_and_many_large_ones_take_bounded_memory() {
    let (database, server, mut socket) = listening();
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    let before = server.peak_memory();

    database.sql(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         VALUES ('s', convert_to('\"' || repeat('x', 100000000) || '\"', 'UTF8'), now(), 7);
         INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT 'nobody listens', convert_to('\"' || repeat('x', 900000) || '\"', 'UTF8'), now(), 7
         FROM generate_series(1, 100)",
    );
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);

    assert_eq!(server.metric(r#"tablecast_rows_total{result="too_large"}"#), 1.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="released"}"#), 102.0);
    let grown = server.peak_memory() - before;
    assert!(grown < 40 << 20, "{} MiB for 190 MB of rows", grown >> 20);
}

/// A look's statement is planned once, and a table that has next to nothing is best read from its beginning.
#[test]
fn a_table_that_was_empty_at_the_first_look_is_not_scanned_when_it_has_grown() {
    let database = migrated();
    database.sql("VACUUM ANALYZE solid_cable_messages");
    let server = serve(&database).start();
    let mut socket = listen(&server);
    database.sql(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT 'nobody listens', '1', now() AT TIME ZONE 'UTC', 7 FROM generate_series(1, 5000)",
    );
    for data in 1..=30 {
        database.sql(&publish(&data.to_string()));
        expect(&mut socket, &[&data.to_string()]);
    }

    drop((socket, server));
    let scanned = scanned(&database, "solid_cable_messages");
    assert!(scanned < 4 * 5000, "{scanned} rows in 30 looks");
}
