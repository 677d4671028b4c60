//! Committed means delivered, once and in order, however late a transaction commits.

use std::time::{Duration, Instant};

use super::{expect, listen, listening, migrate, publish, row, serve};
use crate::support::{Database, Socket, Transaction, postgres, pubsub, signal, until};

/// Longer than a gap lives of which nobody knows whose it is.
const OLD: Duration = Duration::from_secs(7);

/// Others publish, and are delivered, until a gap of before is old.
fn others_go_on_until_it_is_old(database: &Database, socket: &mut Socket) {
    let started = Instant::now();
    while started.elapsed() < OLD {
        database.sql(&publish("0"));
        expect(socket, &["0"]);
    }
}

#[test]
fn a_late_commit_comes_after_the_early_one_and_once() {
    let (database, _server, mut socket) = listening();
    let late = database.begin(&publish("1"));
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);

    late.commit();
    expect(&mut socket, &["1"]);
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    socket.nothing_else();
}

#[test]
fn of_two_late_transactions_each_comes_when_it_commits() {
    let (database, _server, mut socket) = listening();
    let first = database.begin(&publish("1"));
    let second = database.begin(&publish("2"));
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    second.commit();
    expect(&mut socket, &["2"]);
    first.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn a_transaction_that_was_open_when_the_server_started_is_delivered() {
    let database = super::migrated();
    let late = database.begin(&publish("1"));
    database.sql(&publish("\"before\""));
    let server = serve(&database).start();
    let mut socket = listen(&server);
    others_go_on_until_it_is_old(&database, &mut socket);
    late.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn what_is_rolled_back_is_never_seen() {
    let (database, _server, mut socket) = listening();
    let rolled_back = database.begin(&publish("1"));
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);
    rolled_back.roll_back();
    others_go_on_until_it_is_old(&database, &mut socket);
    socket.nothing_else();
}

#[test]
fn savepoints_are_parts_of_their_transaction() {
    let (database, _server, mut socket) = listening();
    let mut late = database.begin(&publish("1"));
    for sql in ["SAVEPOINT a", &publish("2"), "ROLLBACK TO a", &publish("3"), "SAVEPOINT b"] {
        late.run(sql);
    }
    late.run(&publish("4"));
    late.run("RELEASE b");
    database.sql(&publish("5"));
    expect(&mut socket, &["5"]);
    late.commit();
    expect(&mut socket, &["1", "3", "4"]);
    database.sql(&publish("6"));
    expect(&mut socket, &["6"]);
}

#[test]
fn late_rows_of_every_kind_of_statement_arrive_in_their_order() {
    let (database, _server, mut socket) = listening();
    for statement in [
        "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1'), ('s', '2'), ('s', '3')",
        "INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM generate_series(1, 3) AS n",
        "COPY tablecast_publish (stream, data) FROM STDIN;\ns\t1\ns\t2\ns\t3\n\\.",
    ] {
        let late = database.begin(statement);
        database.sql(&publish("0"));
        expect(&mut socket, &["0"]);
        late.commit();
        expect(&mut socket, &["1", "2", "3"]);
    }
}

#[test]
fn a_transaction_with_an_old_gap_and_new_rows_stays_in_order() {
    let (database, _server, mut socket) = listening();
    for _ in 0..10 {
        let mut late = database.begin(&publish("1"));
        database.sql(&publish("0"));
        expect(&mut socket, &["0"]);
        late.run(&publish("2"));
        late.commit();
        database.sql(&publish("3"));
        expect(&mut socket, &["1", "2", "3"]);
    }
}

#[test]
fn a_late_transaction_of_many_pages_arrives_whole_and_in_order() {
    let (database, _server, mut socket) = listening();
    let late = database.begin(
        "INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM generate_series(1, 5000) AS n",
    );
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    late.commit();
    let numbers: Vec<String> = (1..=5000).map(|n| n.to_string()).collect();
    expect(&mut socket, &numbers.iter().map(String::as_str).collect::<Vec<_>>());
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
}

/// A trigger that waits for a lock: by then the id is drawn, and there is neither row nor xid.
fn stalled_after_the_draw(
    database: &Database,
    socket: &mut Socket,
) -> (Transaction, std::thread::JoinHandle<()>) {
    database.sql(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_lock(7); PERFORM pg_advisory_unlock(7); RETURN NEW; END $$;
         CREATE TRIGGER stall BEFORE INSERT ON solid_cable_messages FOR EACH ROW
           WHEN (NEW.payload = convert_to('\"stalled\"', 'UTF8')) EXECUTE FUNCTION stall()",
    );
    // The first draw is logged, and that takes an xid; the next 32 are not.
    database.sql(&publish("0"));
    expect(socket, &["0"]);
    let gate = database.begin("SELECT pg_advisory_lock(7)");
    let writer = database.at(database.address);
    let writing = std::thread::spawn(move || {
        writer.sql(&publish("\"stalled\""));
    });
    until("the id is drawn", || !waiting_backends(database).is_empty());
    (gate, writing)
}

fn waiting_backends(database: &Database) -> String {
    database.sql(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
}

#[test]
fn a_row_that_stalls_for_long_between_its_id_and_itself_is_delivered() {
    // Alone: a transaction of another test would hold each gap open.
    let postgres = postgres::server().start();
    let database = postgres.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    let (gate, writing) = stalled_after_the_draw(&database, &mut socket);
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    others_go_on_until_it_is_old(&database, &mut socket);

    gate.commit();
    expect(&mut socket, &["\"stalled\""]);
    writing.join().unwrap();
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
}

#[test]
fn a_writer_that_is_stopped_between_its_id_and_its_row_is_waited_for() {
    // Alone: a transaction of another test would hold each gap open.
    let postgres = postgres::server().start();
    let database = postgres.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    let (mut gate, writing) = stalled_after_the_draw(&database, &mut socket);
    let writer = waiting_backends(&database);
    assert_ne!(writer, gate.backend_pid());
    signal("STOP", &writer);
    gate.commit();
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    others_go_on_until_it_is_old(&database, &mut socket);

    signal("CONT", &writer);
    expect(&mut socket, &["\"stalled\""]);
    writing.join().unwrap();
}

/// Who draws first and inserts later, as some ORMs do, has no lock at first.
#[test]
fn an_id_that_was_drawn_by_a_select_is_waited_for_if_its_insert_follows_soon() {
    let (database, _server, mut socket) = listening();
    let id = database.sql("SELECT nextval('solid_cable_messages_id_seq')");
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    let late = database.begin(
        &row("s", "\"drawn before\"")
            .replace("(created_at", "(id, created_at")
            .replace("(now()", &format!("({id}, now()")),
    );
    others_go_on_until_it_is_old(&database, &mut socket);
    late.commit();
    expect(&mut socket, &["\"drawn before\""]);
}

/// The second look is a minute after a gap was given up.
#[test]
fn a_row_whose_id_was_given_up_is_delivered_late_and_told_as_a_fault() {
    // Alone: a transaction of another test would hold the gap open.
    let postgres = postgres::server().start();
    let database = postgres.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    let id = database.sql("SELECT nextval('solid_cable_messages_id_seq')");
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    others_go_on_until_it_is_old(&database, &mut socket);
    database.sql(
        &row("s", "\"far too late\"")
            .replace("(created_at", "(id, created_at")
            .replace("(now()", &format!("({id}, now()")),
    );

    let given_up = Instant::now();
    let fault = r#"tablecast_row_faults_total{fault="after_giving_up"}"#;
    let found = loop {
        assert!(given_up.elapsed() < Duration::from_secs(100), "it never came");
        database.sql(&publish("0"));
        let message = socket.message(&pubsub("s"));
        if message != "0" {
            break message;
        }
    };
    assert_eq!(found, "\"far too late\"");
    assert_eq!(server.metric(fault), 1.0);
    assert_eq!(server.log().matches("after their ids had been given up").count(), 1);
}

#[test]
fn a_prepared_transaction_that_commits_after_a_restart_is_delivered() {
    let mut postgres = postgres::server().with("max_prepared_transactions", "5").start();
    let database = postgres.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    database.begin(&publish("1")).prepare("p");
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);

    postgres.restart();
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    others_go_on_until_it_is_old(&database, &mut socket);
    database.sql("COMMIT PREPARED 'p'");
    expect(&mut socket, &["1"]);
    database.sql(&publish("4"));
    expect(&mut socket, &["4"]);
}

#[test]
fn rows_of_other_prefixes_are_neither_messages_nor_gaps() {
    let database = super::migrated();
    let server = serve(&database).with_prefix("a").start();
    let mut socket = listen(&server);
    let other = database.begin(&row("b:s", "1"));
    database.sql(&row("b:s", "2"));
    database.sql(&row("s", "3"));
    let last = database.sql(&row("a:s", "4"));
    expect(&mut socket, &["4"]);
    other.commit();
    database.sql(&row("a:s", "5"));
    expect(&mut socket, &["5"]);
    socket.nothing_else();
    assert_eq!(server.metric(r#"tablecast_rows_total{result="released"}"#), 2.0);
    assert!(server.metric("tablecast_tail_position") > last.parse().unwrap());
}
