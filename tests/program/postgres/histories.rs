//! What becomes of clients when the table leads another life, and of ids that come from nowhere.

use super::{RAILS, expect, listen, listening, publish, row, serve};
use crate::support::{Frame, get, postgres, until};

#[test]
fn a_table_whose_ids_start_anew_asks_clients_to_reconnect() {
    let rails = format!("DROP TABLE IF EXISTS \"solid_cable_messages\" CASCADE; {RAILS}");
    for anew in [
        "TRUNCATE solid_cable_messages RESTART IDENTITY",
        &rails,
        "DELETE FROM solid_cable_messages; SELECT setval('solid_cable_messages_id_seq', 1, false)",
    ] {
        let (database, server, mut socket) = listening();
        for message in ["1", "2", "3"] {
            database.sql(&publish(message));
            expect(&mut socket, &[message]);
        }

        database.sql(anew);

        assert_eq!(
            socket.text(),
            r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#,
            "{anew}"
        );
        assert_eq!(socket.next(), Frame::Close(1000, String::new()));
        let mut newcomer = listen(&server);
        database.sql(&publish("4"));
        assert_eq!(server.publish(r#"{"stream":"s","data":5}"#).status, 201);
        database.sql(&row("s", "6"));
        expect(&mut newcomer, &["4", "5", "6"]);
    }
}

#[test]
fn a_table_that_was_emptied_is_still_the_same() {
    let (database, _server, mut socket) = listening();
    for emptied in ["TRUNCATE solid_cable_messages", "DELETE FROM solid_cable_messages", "VACUUM FULL"] {
        database.sql(&publish("1"));
        expect(&mut socket, &["1"]);
        database.sql(emptied);
        database.sql(&publish("2"));
        expect(&mut socket, &["2"]);
    }
}

#[test]
fn a_row_with_an_id_far_ahead_is_delivered_and_does_not_make_the_tail_deaf() {
    let (database, server, mut socket) = listening();
    database.sql(
        "INSERT INTO solid_cable_messages (id, channel, payload, created_at, channel_hash)
         VALUES (9000000000000000000, 's', '\"far ahead\"', now(), 7), (-5, 's', '\"negative\"', now(), 7)",
    );
    expect(&mut socket, &["\"far ahead\""]);
    database.sql(&publish("1"));
    assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201);
    expect(&mut socket, &["1", "2"]);
    assert_eq!(server.metric(r#"tablecast_row_faults_total{fault="above_sequence"}"#), 1.0);

    // It was for those who listened then.
    let server = server.again();
    let mut socket = listen(&server);
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    socket.nothing_else();
}

#[test]
fn a_sequence_with_a_cache_is_refused_with_the_statement_that_mends_it() {
    let database = super::migrated();
    database.sql("ALTER SEQUENCE solid_cable_messages_id_seq CACHE 10");
    let mend = "ALTER SEQUENCE public.solid_cable_messages_id_seq CACHE 1";
    let refusal = serve(&database).try_start().err().unwrap();
    assert!(refusal.contains(mend) && refusal.contains("CACHE 10"), "{refusal}");

    database.sql(mend);
    let server = serve(&database).start();
    database.sql("ALTER SEQUENCE solid_cable_messages_id_seq CACHE 10");
    until("it says so", || {
        let ready = get(server.internal, "/ready");
        ready.status == 503 && ready.body.contains(mend)
    });
    database.sql(mend);
    until("it follows again", || get(server.public, "/ready").status == 200);
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
}

#[test]
fn a_cache_that_comes_during_an_outage_is_found_out_after_it() {
    let mut postgres = postgres::server().start();
    let database = postgres.database();
    super::migrate(&database, &[]);
    let server = serve(&database).start();
    database.sql("ALTER SEQUENCE solid_cable_messages_id_seq CACHE 10");
    postgres.restart();
    until("it says so", || {
        let ready = get(server.internal, "/ready");
        ready.status == 503 && ready.body.contains("CACHE 1")
    });
    database.sql("ALTER SEQUENCE solid_cable_messages_id_seq CACHE 1");
    until("it follows again", || get(server.public, "/ready").status == 200);
}
