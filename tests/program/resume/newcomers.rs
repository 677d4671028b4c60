//! Clients of `actioncable-v1-json`, which can say nothing of what they have.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use super::{channel, events, insert, last, on_each_database, publish_numbers, serve, state, with_rules};
use crate::support::{Database, DatabaseServer, Server, Socket, get, postgres, sqlite3, until};

fn messages(socket: &mut Socket, identifier: &str, expected: &[u32]) {
    for expected in expected {
        assert_eq!(socket.message(identifier), expected.to_string());
    }
}

#[test]
fn who_comes_to_a_state_gets_its_latest_and_then_what_is_newer() {
    let server = with_rules().start();
    publish_numbers(&server, "state:1", 1..=3);
    for round in 4..8 {
        let mut socket = server.connect();
        socket.subscribe(&state(1));
        messages(&mut socket, &state(1), &[round - 1]);
        socket.nothing_else();

        server.insert("state:1", &round.to_string());
        messages(&mut socket, &state(1), &[round]);
        socket.nothing_else();
    }
}

#[test]
fn who_comes_to_events_gets_the_last_ones_oldest_first() {
    let server = with_rules().start();
    publish_numbers(&server, "log:1", 1..=5);
    publish_numbers(&server, "log:2", 1..=2);
    let mut sockets = [server.connect(), server.connect()];
    for socket in &mut sockets {
        socket.subscribe(&last(1));
        messages(socket, &last(1), &[3, 4, 5]);
        // There are fewer.
        socket.subscribe(&last(2));
        messages(socket, &last(2), &[1, 2]);
        // Its rule gives none.
        socket.subscribe(&events(1));
        socket.nothing_else();
    }

    server.insert("log:1", "6");
    for socket in &mut sockets {
        let came = [socket.json(), socket.json()].map(|message| message["message"].clone());
        assert_eq!(came, [json!(6), json!(6)]);
        socket.nothing_else();
    }
}

#[test]
fn an_absent_stream_gives_nothing_and_then_what_comes() {
    let server = with_rules().start();
    let mut socket = server.connect();
    for identifier in [state(7), last(7)] {
        socket.subscribe(&identifier);
    }
    // The barrier of this is behind the one of those.
    super::caught_up(&server);
    socket.nothing_else();

    server.insert("state:7", "1");
    messages(&mut socket, &state(7), &[1]);
    server.insert("log:7", "2");
    messages(&mut socket, &last(7), &[2]);
    socket.nothing_else();
}

#[test]
fn one_stream_is_a_state_to_some_and_events_to_others() {
    let server = with_rules().start();
    let last_of_state = channel("LastOfStateChannel", 1);
    publish_numbers(&server, "state:1", 1..=5);
    // Whoever comes first.
    for first in [&state(1), &last_of_state] {
        let mut socket = server.connect();
        let second = if *first == state(1) { &last_of_state } else { &state(1) };
        for identifier in [first, second] {
            socket.subscribe(identifier);
            let expected: &[u32] = if *identifier == state(1) { &[5] } else { &[3, 4, 5] };
            messages(&mut socket, identifier, expected);
        }
        socket.nothing_else();
    }
}

#[test]
fn of_rules_with_different_counts_each_is_kept() {
    let server = with_rules().start();
    publish_numbers(&server, "log:1", 1..=5);
    let one = channel("LastOneChannel", 1);
    for identifiers in [[&one, &last(1)], [&last(1), &one]] {
        let mut socket = server.connect();
        for identifier in identifiers {
            socket.subscribe(identifier);
            let expected: &[u32] = if *identifier == one { &[5] } else { &[3, 4, 5] };
            messages(&mut socket, identifier, expected);
        }
        socket.nothing_else();
    }
}

/// Clients that come while messages are published: what each sees is a run without a hole, to the end.
fn each_sees_a_run(server: &Server) {
    const COUNT: u64 = 300;
    const END: u64 = COUNT - 1;
    // Asked of the server by twenty each few milliseconds, it would keep the database from its work.
    let published = &AtomicU64::new(0);
    thread::scope(|scope| {
        for client in 0..20 {
            scope.spawn(move || {
                // Not all at the beginning.
                until("it is its turn", || published.load(Relaxed) >= client * 10);
                let mut socket = server.connect();
                let mut has = [None::<u64>; 2];
                for identifier in [state(1), last(1)] {
                    socket.subscribe_among(&identifier, |message| see(&mut has, message));
                }
                while has != [Some(END); 2] {
                    see(&mut has, &socket.json());
                }
                socket.nothing_else();
            });
        }
        for n in 0..COUNT {
            server.publish_all(["state:1", "log:1"].map(|stream| (stream, json!(n))));
            published.store(n, Relaxed);
        }
    });
}

fn see(has: &mut [Option<u64>; 2], message: &Value) {
    let n = message["message"].as_u64().unwrap_or_else(|| panic!("{message}"));
    let [of_state, of_log] = has;
    if message["identifier"] == state(1) {
        assert!(*of_state < Some(n), "{n} after {of_state:?}");
        *of_state = Some(n);
    } else {
        assert!(of_log.is_none_or(|before| n == before + 1), "{n} after {of_log:?}");
        *of_log = Some(n);
    }
}

#[test]
fn who_comes_while_messages_are_published_sees_a_run_of_them() {
    each_sees_a_run(&with_rules().start());
}

fn who_comes_while_messages_are_published_sees_a_run_of_them_there_too(database: &Database) {
    each_sees_a_run(&serve(database).start());
}

/// However little of the past it is given.
#[test]
fn what_commits_between_its_confirm_and_its_past_reaches_a_newcomer() {
    let database = postgres::shared().database();
    let server = serve(&database).start();
    let one = channel("LastOneChannel", 1);
    database.sql(&insert("log:1", 1));
    super::caught_up(&server);

    // What can't be read holds up the past, and not the confirm.
    let mut lock = database.begin("LOCK TABLE solid_cable_messages IN ACCESS EXCLUSIVE MODE");
    let mut socket = server.connect();
    socket.subscribe(&one);
    for n in 2..=4 {
        lock.run(&insert("log:1", n));
    }
    lock.commit();

    let first = socket.message(&one);
    if first == "1" {
        messages(&mut socket, &one, &[2]);
    } else {
        assert_eq!(first, "2");
    }
    messages(&mut socket, &one, &[3, 4]);
    socket.nothing_else();
}

on_each_database!(who_comes_while_messages_are_published_sees_a_run_of_them_there_too);

#[test]
fn what_was_forgotten_for_want_of_room_is_read_again() {
    let server = with_rules().arg("--replay-memory-bytes=2KiB").start();
    let text = "x".repeat(300);
    let payload = |stream: u32, n: u32| json!([stream, n, text]);
    for n in 0..3 {
        for stream in 0..30 {
            let names = [format!("state:{stream}"), format!("log:{stream}")];
            server.publish_all(names.iter().map(|name| (name.as_str(), payload(stream, n))));
        }
        let mut socket = server.connect();
        for stream in 0..30 {
            socket.subscribe(&state(stream));
            assert_eq!(socket.message(&state(stream)), payload(stream, n).to_string());
            socket.subscribe(&last(stream));
            for n in n.saturating_sub(2)..=n {
                assert_eq!(socket.message(&last(stream)), payload(stream, n).to_string());
            }
        }
        socket.nothing_else();
    }
}

#[test]
fn after_a_new_history_nothing_of_the_old_one_is_given() {
    let server = with_rules().start();
    publish_numbers(&server, "state:1", [1]);
    publish_numbers(&server, "log:1", [1]);
    let mut before = server.connect();
    for identifier in [state(1), last(1)] {
        before.subscribe(&identifier);
        messages(&mut before, &identifier, &[1]);
    }
    let table = server.sql("SELECT sql FROM sqlite_master WHERE name = 'solid_cable_messages'");

    server.sql(&format!("DROP TABLE solid_cable_messages; {table}"));
    assert_eq!(before.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);

    let mut after = server.connect();
    for identifier in [state(1), last(1)] {
        after.subscribe(&identifier);
    }
    super::caught_up(&server);
    after.nothing_else();
    server.insert("state:1", "2");
    messages(&mut after, &state(1), &[2]);
    server.insert("log:1", "3");
    messages(&mut after, &last(1), &[3]);
}

#[test]
fn another_file_in_the_place_of_the_old_one_gives_its_own_past() {
    let server = with_rules().start();
    publish_numbers(&server, "state:1", [1]);
    let mut before = server.connect();
    before.subscribe(&state(1));
    messages(&mut before, &state(1), &[1]);
    let restored = server.folder().join("restored.db");
    server.sql(&format!("VACUUM INTO '{}'", restored.display()));
    sqlite3(&restored, &insert("state:1", 7));
    server.insert("state:1", "2");
    messages(&mut before, &state(1), &[2]);

    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(server.folder().join(format!("tablecast.db{suffix}")));
    }
    std::fs::rename(&restored, server.database()).unwrap();
    assert_eq!(before.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);

    let mut after = server.connect();
    after.subscribe(&state(1));
    messages(&mut after, &state(1), &[7]);
    after.nothing_else();
}

#[test]
fn while_the_database_is_away_a_newcomer_is_confirmed_and_given_its_past_when_it_is_back() {
    let mut postgres = postgres::server().start();
    let database = postgres.database();
    let server = serve(&database).start();
    for n in 1..=4 {
        database.sql(&insert("state:1", n));
        database.sql(&insert("log:1", n));
    }
    super::caught_up(&server);
    type Change = fn(&mut DatabaseServer);
    let outages: [(Change, Change); 2] = [
        (DatabaseServer::stop, DatabaseServer::start_again),
        (DatabaseServer::pause, DatabaseServer::resume),
    ];
    for (round, (begin, end)) in (0..).zip(outages) {
        begin(&mut postgres);
        until("it says so", || get(server.public, "/ready").status == 503);
        let mut socket = server.connect();
        // The second round's streams are remembered, and other ones are not.
        let (cold_state, cold_log) = (state(10 + round), last(10 + round));
        for identifier in [&cold_state, &cold_log, &state(1), &last(1)] {
            socket.command("subscribe", identifier);
        }
        let mut confirmed = 0;
        let mut came = Vec::new();
        while confirmed < 4 {
            let json = socket.json();
            if json["type"] == "confirm_subscription" {
                confirmed += 1;
            } else {
                came.push(json["message"].clone());
            }
        }
        end(&mut postgres);
        while came.len() < 4 {
            came.push(socket.json()["message"].clone());
        }
        came.sort_by_key(Value::as_u64);
        assert_eq!(came, [2, 3, 4, 4].map(Value::from));
        database.sql(&insert(&format!("state:{}", 10 + round), 9));
        messages(&mut socket, &cold_state, &[9]);
        socket.nothing_else();
    }
}

/// A page that all look at, on a server that has just been restarted.
#[test]
fn a_crowd_that_comes_to_one_stream_costs_one_read_and_nobody_else_anything() {
    const CROWD: usize = 2000;
    let postgres = postgres::server().with("log_statement", "all").start();
    let database = postgres.database();
    let server = serve(&database).start();
    for n in 1..=5 {
        database.sql(&insert("log:1", n));
    }
    super::caught_up(&server);
    let mut established = server.connect();
    established.subscribe(&events(2));
    let mut crowd: Vec<Socket> = (0..CROWD).map(|_| server.connect()).collect();

    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..50 {
                assert_eq!(established.message(&events(2)), n.to_string());
            }
        });
        scope.spawn(|| {
            for n in 0..50 {
                publish_numbers(&server, "log:2", [n]);
            }
        });
        for socket in &mut crowd {
            socket.command("subscribe", &last(1));
        }
        for socket in &mut crowd {
            assert_eq!(socket.json()["type"], "confirm_subscription");
            messages(socket, &last(1), &[3, 4, 5]);
        }
    });
    established.nothing_else();

    let reads = || postgres.log().matches("(t.channel_hash, t.id) >=").count();
    assert_eq!(reads(), 1);
    // Nor does who comes after them cost one.
    let mut socket = server.connect();
    socket.subscribe(&last(1));
    messages(&mut socket, &last(1), &[3, 4, 5]);
    assert_eq!(reads(), 1);
}
