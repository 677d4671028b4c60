//! Starting on a table that lacks many ids.

use std::thread;

use super::{
    expect, expect_numbers, listen, migrate, migrated, others_go_on_until_it_is_old, publish, row, serve,
    server_account,
};
use crate::support::{Database, PASSWORD, mariadb, server, until};

/// More than are ever gaps of which nobody can tell whose they are.
const DEAD: u32 = 3000;
const YOUNGEST: f64 = 1000.0;

/// Rows of before, with a dead id below each.
fn wear(database: &Database) {
    let all = 2 * DEAD;
    database.sql(&format!(
        "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
         SELECT UTC_TIMESTAMP(6), 'before', '0', 7 FROM seq_1_to_{all} ORDER BY seq;
         DELETE FROM solid_cable_messages WHERE id > 0 AND id % 2 = 1"
    ));
}

#[test]
fn dead_ids_are_asked_about_once_though_a_transaction_stays_open() {
    let mariadb = mariadb::server().start();
    mariadb.sql("SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1");
    let database = mariadb.database();
    migrate(&database, &[]);
    wear(&database);
    database.sql("CREATE TABLE other (n INT) ENGINE = InnoDB");
    let open = database.begin("INSERT INTO other VALUES (1)");
    let server = serve(&database).start();
    let mut socket = listen(&server);
    assert_eq!(server.metric("tablecast_gaps"), 0.0);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);

    // 1,000 ids, as the server was asked for them, take some 6,000 bytes.
    let longest = |what: &str| -> usize {
        let sql = format!(
            "SELECT COALESCE(MAX(LENGTH(argument)), 0) FROM mysql.general_log
             WHERE argument LIKE '%{what}%' AND argument NOT LIKE '%general_log%'"
        );
        database.sql(&sql).parse().unwrap()
    };
    let (look, question) = (longest("bytes_before"), longest("NOWAIT"));
    assert!((1..4000).contains(&look), "{look}");
    assert!((4000..10_000).contains(&question), "{question}");
    open.commit();
}

#[test]
fn of_many_missing_ids_those_that_a_transaction_holds_are_delivered_in_order() {
    let database = migrated();
    wear(&database);
    let mut late = database.begin(&publish("1"));
    database.sql(&publish("\"before\""));
    let server = serve(&database).start();
    let mut socket = listen(&server);
    others_go_on_until_it_is_old(&database, &mut socket);
    late.run(&publish("2"));
    late.commit();
    expect(&mut socket, &["1", "2"]);
    socket.nothing_else();
}

#[test]
fn a_row_that_is_deleted_under_a_savepoint_at_the_start_and_comes_back_is_delivered() {
    let database = migrated();
    wear(&database);
    let mut late = database.begin(&row("s", "1"));
    for sql in ["SAVEPOINT a", "DELETE FROM solid_cable_messages WHERE id = LAST_INSERT_ID()"] {
        late.run(sql);
    }
    database.sql(&publish("\"before\""));
    let server = serve(&database).start();
    let mut socket = listen(&server);
    others_go_on_until_it_is_old(&database, &mut socket);
    late.run("ROLLBACK TO a");
    late.commit();
    expect(&mut socket, &["1"]);
}

/// It has drawn ids, and writes their rows only after the server has started.
#[test]
fn a_statement_that_was_under_way_when_the_server_started_is_delivered() {
    let mariadb = mariadb::server().with("innodb-autoinc-lock-mode", "2").start();
    let database = mariadb.database();
    migrate(&database, &[]);
    wear(&database);
    // Half of them it writes before the gate is opened.
    let slow = "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
                SELECT UTC_TIMESTAMP(6), IF(seq = 51 AND GET_LOCK('gate', 100) = 0, '', 's'), seq, 7
                FROM seq_1_to_100 ORDER BY seq";
    let gate = database.begin("SELECT GET_LOCK('gate', 0)");
    thread::scope(|scope| {
        scope.spawn(|| database.sql(slow));
        let waits = "SELECT count(*) FROM information_schema.processlist WHERE state = 'User lock'";
        until("it waits at the gate", || database.sql(waits) == "1");
        database.sql(&row("other", "0"));
        let server = serve(&database).start();
        let mut socket = listen(&server);
        drop(gate);
        expect_numbers(&mut socket, 1..=100);
        socket.nothing_else();
        let given_up = server.metric(r#"tablecast_gaps_total{result="capped"}"#);
        assert!(given_up > 0.0 && given_up < f64::from(DEAD), "{given_up}");
    });
}

#[test]
fn without_the_process_privilege_few_of_many_missing_ids_are_asked_for() {
    let database = migrated();
    wear(&database);
    let mut late = database.begin(&publish("1"));
    database.sql(&publish("\"before\""));
    let account = server_account(&database);
    let server = server().database_url(&database.url_as(&account, PASSWORD)).open().start();
    let mut socket = listen(&server);
    until("it has looked", || server.metric("tablecast_gaps") > 0.0);
    let gaps = server.metric("tablecast_gaps");
    assert!((YOUNGEST..YOUNGEST + 10.0).contains(&gaps), "{gaps}");

    late.run(&publish("2"));
    late.commit();
    expect(&mut socket, &["1", "2"]);
}
