//! Clients of `actioncable-v1-ext-json`, which give back where they were.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::position::forged;
use super::{
    Has, confirmed, events, expect, history_command, insert, last, message, on_each_database,
    publish_numbers, rejected, serve, state, subscribe_with, with_rules,
};
use crate::support::{Database, Frame, Server, Socket, Wire, postgres, pubsub, until};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A client that has this much of the stream, and is gone.
fn who_had(server: &Server, identifier: &str, insert: impl FnOnce()) -> Has {
    let mut socket = server.connect_extended();
    socket.subscribe(identifier);
    insert();
    message(&mut socket, identifier).1
}

#[test]
fn messages_say_where_they_stand_by_names_that_differ_by_identifier() {
    let server = with_rules().start();
    let mut socket = server.connect_extended();
    let identifiers = [events(1), pubsub("log:1")];
    for identifier in &identifiers {
        socket.subscribe(identifier);
    }
    publish_numbers(&server, "log:1", [1]);

    let mut all: Vec<Value> = vec![socket.json(), socket.json()];
    all.sort_by_key(|message| message["identifier"] == json!(identifiers[1]));
    for (message, identifier) in all.iter().zip(&identifiers) {
        assert_eq!(message["identifier"], json!(identifier));
        assert_eq!(message["message"], 1);
        let epoch = message["epoch"].as_str().unwrap();
        assert!(!epoch.contains('/') && epoch.len() <= 256, "{epoch}");
        assert!(message["offset"].as_u64().unwrap() < 1 << 53);
    }
    assert_eq!(all[0]["epoch"], all[1]["epoch"]);
    assert_ne!(all[0]["stream_id"], all[1]["stream_id"]);
}

#[test]
fn a_first_subscribe_says_when_its_page_was_made() {
    let server = with_rules().start();
    publish_numbers(&server, "log:1", 1..=5);
    publish_numbers(&server, "state:1", 1..=5);
    let since = json!({ "since": now() - 30 });
    let mut socket = server.connect_extended();

    subscribe_with(&mut socket, &events(1), &since);
    expect(&mut socket, &events(1), 1..=5);
    confirmed(&mut socket, &events(1));
    subscribe_with(&mut socket, &last(1), &since);
    expect(&mut socket, &last(1), 1..=5);
    confirmed(&mut socket, &last(1));
    subscribe_with(&mut socket, &state(1), &since);
    expect(&mut socket, &state(1), [5]);
    confirmed(&mut socket, &state(1));
    subscribe_with(&mut socket, &events(2), &since);
    confirmed(&mut socket, &events(2));

    // It goes on live, and all that it has been given can be gone on from.
    publish_numbers(&server, "log:2", [6]);
    let has = expect(&mut socket, &events(2), [6]);
    publish_numbers(&server, "log:2", [7]);
    let mut again = server.connect_extended();
    subscribe_with(&mut again, &events(2), &has.history());
    expect(&mut again, &events(2), [7]);
    confirmed(&mut again, &events(2));
}

#[test]
fn what_was_written_before_the_page_is_given_only_where_the_rule_says_so() {
    // Or what is dated back is trimmed.
    let server = with_rules().arg("--retention=off").start();
    publish_numbers(&server, "log:1", 1..=5);
    server.sql("UPDATE solid_cable_messages SET created_at = '2026-11-24 00:00:00.000000' WHERE id > 0");
    publish_numbers(&server, "log:1", [6]);
    let since = json!({ "since": now() - 30 });
    let mut socket = server.connect_extended();

    subscribe_with(&mut socket, &events(1), &since);
    expect(&mut socket, &events(1), [6]);
    confirmed(&mut socket, &events(1));
    subscribe_with(&mut socket, &last(1), &since);
    expect(&mut socket, &last(1), 4..=6);
    confirmed(&mut socket, &last(1));
}

#[test]
fn without_a_word_of_history_it_is_a_client_like_others() {
    let server = with_rules().start();
    publish_numbers(&server, "log:1", 1..=5);
    publish_numbers(&server, "state:1", 1..=5);
    let mut socket = server.connect_extended();
    for (identifier, expected) in [(events(1), vec![]), (last(1), vec![3, 4, 5]), (state(1), vec![5])] {
        socket.subscribe(&identifier);
        for expected in expected {
            assert_eq!(message(&mut socket, &identifier).0, json!(expected));
        }
    }
    socket.nothing_else();
    // And the plain protocol takes no notice of it.
    let mut plain = server.connect();
    subscribe_with(&mut plain, &events(1), &json!({ "since": now() - 30 }));
    plain.nothing_else();
}

#[test]
fn who_says_that_it_is_new_hears_when_it_has_been_given_what_newcomers_are() {
    let server = with_rules().start();
    publish_numbers(&server, "log:1", 1..=5);
    publish_numbers(&server, "state:1", 1..=5);
    let new = json!({ "streams": {} });
    // What is not in the memory yet, and what is.
    for _ in 0..2 {
        let mut socket = server.connect_extended();
        for (identifier, expected) in [(events(1), vec![]), (last(1), vec![3, 4, 5]), (state(1), vec![5])] {
            subscribe_with(&mut socket, &identifier, &new);
            for expected in expected {
                assert_eq!(message(&mut socket, &identifier).0, json!(expected));
            }
            confirmed(&mut socket, &identifier);
        }
        socket.nothing_else();
        history_command(&mut socket, &events(1), &new);
        rejected(&mut socket, &events(1));
    }
    assert_eq!(server.resumes("position_malformed"), 2.0, "of the commands");
}

#[test]
fn commands_for_what_a_table_cannot_do_harm_nobody() {
    let server = with_rules().start();
    let mut socket = server.connect_extended();
    socket.subscribe(&events(1));
    socket.send(r#"{"type":"pong"}"#);
    socket.send(r#"{"command":"pong"}"#);
    for command in ["whisper", "join", "leave"] {
        let text = json!({ "command": command, "identifier": events(1), "data": { "a": 1 } });
        socket.send(&text.to_string());
    }
    socket.nothing_else();
    socket.command("presence", &events(1));
    let presence = socket.json();
    assert_eq!((&presence["type"], &presence["identifier"]), (&json!("presence"), &json!(events(1))));
    publish_numbers(&server, "log:1", [1]);
    expect(&mut socket, &events(1), [1]);
}

/// Transactions that were open when the client left, or that begin and end while it is away.
fn who_comes_back_gets_what_it_missed_and_no_more(database: &Database) {
    let server = serve(database).start();
    let second = with_rules().database_url(&database.url()).start();
    let mut socket = server.connect_extended();
    socket.subscribe(&events(1));
    let (late, later) = (database.begin(&insert("log:1", 1)), database.begin(&insert("log:1", 2)));
    let latest = database.begin(&insert("log:1", 3));
    let rolled_back = database.begin(&insert("log:1", 99));
    database.sql(&insert("log:1", 4));
    expect(&mut socket, &events(1), [4]);
    late.commit();
    let has = expect(&mut socket, &events(1), [1]);
    drop(socket);

    later.commit();
    rolled_back.roll_back();
    database.sql(&format!("{}; {}", insert("log:1", 5), insert("log:2", 98)));

    let server = server.again();
    for server in [&server, &second] {
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &has.history());
        let after_two = expect(&mut socket, &events(1), [2]);
        expect(&mut socket, &events(1), [5]);
        confirmed(&mut socket, &events(1));
        socket.nothing_else();

        // Halfway through it is gone again.
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &after_two.history());
        expect(&mut socket, &events(1), [5]);
        confirmed(&mut socket, &events(1));
    }
    // One transaction of before is still open, after a restart of the server that gave the position.
    let mut live = server.connect_extended();
    subscribe_with(&mut live, &events(1), &has.history());
    let with_five = expect(&mut live, &events(1), [2, 5]);
    confirmed(&mut live, &events(1));
    latest.commit();
    expect(&mut live, &events(1), [3]);
    live.nothing_else();
    let mut hopped = second.connect_extended();
    subscribe_with(&mut hopped, &events(1), &with_five.history());
    expect(&mut hopped, &events(1), [3]);
    confirmed(&mut hopped, &events(1));
    hopped.nothing_else();
    assert_eq!(server.resumes("resumed"), 3.0);
}

/// A state that came late is no news.
fn of_a_state_it_gets_the_latest_if_that_is_newer(database: &Database) {
    let server = serve(database).start();
    let late = database.begin(&insert("state:1", 0));
    let has = who_had(&server, &state(1), || drop(database.sql(&insert("state:1", 1))));
    let resume = |has: &Has, expected: &[u32]| {
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &state(1), &has.history());
        for expected in expected {
            assert_eq!(message(&mut socket, &state(1)).0, json!(expected));
        }
        confirmed(&mut socket, &state(1));
        socket.nothing_else();
    };
    resume(&has, &[]);
    late.commit();
    resume(&has, &[]);
    for n in 2..=4 {
        database.sql(&insert("state:1", n));
    }
    resume(&has, &[4]);
}

on_each_database!(
    who_comes_back_gets_what_it_missed_and_no_more,
    of_a_state_it_gets_the_latest_if_that_is_newer,
);

#[test]
fn on_a_file_too_it_goes_on_exactly_over_a_restart_and_on_another_server() {
    let server = with_rules().start();
    let has = who_had(&server, &events(1), || server.insert("log:1", "1"));
    publish_numbers(&server, "log:1", 2..=200);
    let server = server.again();
    let beside = server.beside().open().start();
    for server in [&server, &beside] {
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &has.history());
        expect(&mut socket, &events(1), 2..=200);
        confirmed(&mut socket, &events(1));
    }
}

#[test]
fn what_cannot_be_gone_on_from_is_said_and_counted_and_what_is_new_comes_all_the_same() {
    let server = with_rules().arg("--max-replay=10").start();
    publish_numbers(&server, "log:1", 1..=3);
    publish_numbers(&server, "state:1", 1..=3);
    let good = who_had(&server, &events(1), || server.insert("log:1", "4"));
    let of_state = who_had_state(&server);
    let elsewhere = with_rules().start();
    let foreign = who_had(&elsewhere, &events(1), || elsewhere.insert("log:1", "1"));
    let with = |epoch: &str| good.with_epoch(epoch).history();
    let streams = |of: Value| json!({ "streams": { &good.stream_id: of } });
    let cases = [
        ("garbage", with("garbage"), "position_malformed"),
        ("nothing", with(""), "position_malformed"),
        ("a number", streams(json!({ "epoch": 7, "offset": 7 })), "position_malformed"),
        ("half a position", streams(json!({ "offset": 7 })), "position_malformed"),
        ("no position", streams(json!(7)), "position_malformed"),
        ("another stream's", of_state.history(), "position_malformed"),
        ("an empty history", json!({}), "position_malformed"),
        ("no history", json!("none"), "position_malformed"),
        ("none", with("none"), "position_too_many_gaps"),
        ("another table's", with(&foreign.epoch), "position_another_history"),
        ("ahead", with(&forged(&good.epoch, |_, high| *high += 1000)), "position_ahead"),
        ("far ahead", with(&forged(&good.epoch, |_, high| *high = i64::MAX as u64)), "position_ahead"),
        ("old", with(&forged(&good.epoch, |time, _| *time -= 90_000)), "position_too_old"),
        ("of 1970", with(&forged(&good.epoch, |time, _| *time = 0)), "position_too_old"),
        ("a clock that is ahead", json!({ "since": now() + 3600 }), "since_ahead"),
        ("a clock of the far future", json!({ "since": i64::MAX }), "since_ahead"),
        ("a clock of 1970", json!({ "since": 0 }), "position_too_old"),
        ("a clock of before", json!({ "since": -1 }), "position_too_old"),
    ];
    for (number, (what, history, reason)) in (5u32..).zip(cases) {
        let before = server.resumes(reason);
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &history);
        assert_eq!(socket.json()["type"], "reject_history", "{what}");
        assert_eq!(server.resumes(reason), before + 1.0, "{what}");
        server.insert("log:1", &number.to_string());
        expect(&mut socket, &events(1), [number]);
        socket.nothing_else();
    }

    // Whose rule gives newcomers something gets it.
    let mut socket = server.connect_extended();
    let history = of_state.with_epoch("garbage").history();
    subscribe_with(&mut socket, &state(1), &history);
    expect(&mut socket, &state(1), [4]);
    rejected(&mut socket, &state(1));
    socket.nothing_else();
    let of_last = who_had(&server, &last(2), || server.insert("log:2", "1"));
    publish_numbers(&server, "log:2", 2..=9);
    subscribe_with(&mut socket, &last(2), &of_last.with_epoch("garbage").history());
    expect(&mut socket, &last(2), 7..=9);
    rejected(&mut socket, &last(2));
    socket.nothing_else();
}

fn who_had_state(server: &Server) -> Has {
    let mut socket = server.connect_extended();
    socket.subscribe(&state(1));
    expect(&mut socket, &state(1), [3]);
    server.insert("state:1", "4");
    expect(&mut socket, &state(1), [4])
}

#[test]
fn a_position_that_was_cut_short_is_none() {
    let server = with_rules().start();
    let good = who_had(&server, &events(1), || server.insert("log:1", "1"));
    let mut socket = server.connect_extended();
    for length in 0..good.epoch.len() {
        subscribe_with(&mut socket, &events(1), &good.with_epoch(&good.epoch[..length]).history());
        rejected(&mut socket, &events(1));
        socket.command("unsubscribe", &events(1));
    }
    assert_eq!(server.resumes("position_malformed"), good.epoch.len() as f64);
}

#[test]
fn who_missed_more_than_is_given_is_told_so_and_given_nothing() {
    let server = with_rules().arg("--max-replay=10").start();
    let has = who_had(&server, &events(1), || server.insert("log:1", "0"));
    publish_numbers(&server, "log:1", 1..=10);
    let mut socket = server.connect_extended();
    subscribe_with(&mut socket, &events(1), &has.history());
    expect(&mut socket, &events(1), 1..=10);
    confirmed(&mut socket, &events(1));

    publish_numbers(&server, "log:1", [11]);
    expect(&mut socket, &events(1), [11]);
    let mut socket = server.connect_extended();
    subscribe_with(&mut socket, &events(1), &has.history());
    rejected(&mut socket, &events(1));
    socket.nothing_else();
    assert_eq!(server.resumes("max_replay"), 1.0);

    // And by its clock.
    subscribe_with(&mut socket, &last(1), &json!({ "since": now() - 30 }));
    expect(&mut socket, &last(1), 9..=11);
    rejected(&mut socket, &last(1));
    assert_eq!(server.resumes("max_replay"), 2.0);
}

#[test]
fn with_a_window_of_nothing_everything_is_too_old_soon() {
    let server = with_rules().arg("--resume-window=0s").start();
    let has = who_had(&server, &events(1), || server.insert("log:1", "1"));
    until("a second has passed", || {
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &has.history());
        socket.json()["type"] == "reject_history"
    });
    assert_eq!(server.resumes("position_too_old"), 1.0);
}

#[test]
fn history_can_be_asked_for_by_a_command_of_what_is_subscribed_alone() {
    let server = with_rules().start();
    let mut socket = server.connect_extended();
    history_command(&mut socket, &events(1), &json!({ "since": now() - 30 }));
    rejected(&mut socket, &events(1));
    assert_eq!(server.resumes("not_subscribed"), 1.0);

    socket.subscribe(&events(1));
    publish_numbers(&server, "log:1", 1..=5);
    let has = expect(&mut socket, &events(1), [1]);
    expect(&mut socket, &events(1), 2..=5);
    history_command(&mut socket, &events(1), &has.history());
    expect(&mut socket, &events(1), 2..=5);
    confirmed(&mut socket, &events(1));
    history_command(&mut socket, &events(1), &has.with_epoch("x").history());
    rejected(&mut socket, &events(1));
    publish_numbers(&server, "log:1", [6]);
    expect(&mut socket, &events(1), [6]);
    socket.nothing_else();
}

#[test]
fn of_a_state_the_latest_answers_a_command_for_history_since_when() {
    let server = with_rules().start();
    let mut socket = server.connect_extended();
    socket.subscribe(&state(1));
    for number in 1..=3 {
        publish_numbers(&server, "state:1", [number]);
        expect(&mut socket, &state(1), [number]);
    }
    history_command(&mut socket, &state(1), &json!({ "since": now() - 30 }));
    expect(&mut socket, &state(1), [3]);
    confirmed(&mut socket, &state(1));
    socket.nothing_else();
}

/// What commits while a client's position is looked at follows the answer, whichever it is.
#[test]
fn what_commits_while_a_position_is_looked_at_reaches_also_who_is_rejected() {
    let database = postgres::shared().database();
    let server = serve(&database).arg("--max-replay=3").start();
    let has = who_had(&server, &events(1), || drop(database.sql(&insert("log:1", 0))));
    let of_last = who_had(&server, &last(1), || drop(database.sql(&insert("log:1", 1))));
    let cases = [
        (events(1), has.with_epoch("garbage").history()),
        (last(1), of_last.with_epoch("garbage").history()),
        // By then more has been missed than is given.
        (events(1), has.history()),
    ];
    for (round, (identifier, history)) in (1u32..).zip(cases) {
        let mut lock = database.begin("LOCK TABLE solid_cable_messages IN ACCESS EXCLUSIVE MODE");
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &identifier, &history);
        let numbers: Vec<u32> = (0..5).map(|n| round * 10 + n).collect();
        for n in &numbers {
            lock.run(&insert("log:1", n));
        }
        lock.commit();

        let mut came = Vec::new();
        let mut is_rejected = false;
        while !is_rejected || came.last() != numbers.last() {
            let json = socket.json();
            if json["type"] == "reject_history" {
                is_rejected = true;
            } else {
                came.push(json["message"].as_u64().unwrap_or_else(|| panic!("{json}")) as u32);
            }
        }
        assert!(came.ends_with(&numbers), "{came:?}");
        socket.nothing_else();
    }
}

const LARGE: usize = 500;

fn large(n: usize) -> Value {
    json!([n, "x".repeat(10_000)])
}

/// One that has missed five megabytes, and reads no faster than it can be given 64 KiB.
fn who_missed_much() -> (Server, Has) {
    let server = with_rules().arg("--send-buffer-bytes=64KiB").start();
    let has = who_had(&server, &events(1), || server.insert("log:1", "\"first\""));
    server.publish_all((0..LARGE).map(|n| ("log:1", large(n))));
    super::caught_up(&server);
    (server, has)
}

#[test]
fn a_slow_reader_gets_all_that_it_missed_through_a_small_buffer() {
    let (server, has) = who_missed_much();
    let mut socket = server.extended_over(Wire::narrow(server.public));
    socket.subscribe(&events(2));
    subscribe_with(&mut socket, &events(1), &has.history());
    // Live messages of this one and another stream, while most is still to be given.
    let (first, _) = message(&mut socket, &events(1));
    assert_eq!(first, large(0));
    for n in 0..20u32 {
        server.publish_all([("log:2", json!(n)), ("log:1", json!(n))]);
    }
    super::caught_up(&server);

    for n in 1..LARGE {
        assert_eq!(message(&mut socket, &events(1)).0, large(n));
    }
    confirmed(&mut socket, &events(1));
    for n in 0..20u32 {
        expect(&mut socket, &events(2), [n]);
        expect(&mut socket, &events(1), [n]);
    }
    socket.nothing_else();
    assert_eq!(server.closed("disconnected"), 0.0);
}

#[test]
fn who_unsubscribes_while_it_is_given_what_it_missed_gets_no_more_of_it() {
    let (server, has) = who_missed_much();
    let mut socket = server.extended_over(Wire::narrow(server.public));
    subscribe_with(&mut socket, &events(1), &has.history());
    message(&mut socket, &events(1));

    socket.command("unsubscribe", &events(1));
    let mut came = 0;
    socket.subscribe_among(&events(2), |message| {
        assert_eq!(message["identifier"], json!(events(1)));
        came += 1;
    });
    assert!(came < LARGE - 1, "all came");
    publish_numbers(&server, "log:2", [1]);
    expect(&mut socket, &events(2), [1]);

    // It comes again, and is given all.
    subscribe_with(&mut socket, &events(1), &has.history());
    for n in 0..LARGE {
        assert_eq!(message(&mut socket, &events(1)).0, large(n));
    }
    confirmed(&mut socket, &events(1));
    socket.nothing_else();
}

#[test]
fn what_a_connection_asks_for_at_once_is_given_one_after_the_other() {
    let server = with_rules().start();
    let mut socket = server.connect_extended();
    let mut has = Vec::new();
    for id in 0..50 {
        socket.subscribe(&events(id));
        server.insert(&format!("log:{id}"), "0");
        has.push(expect(&mut socket, &events(id), [0]));
    }
    drop(socket);
    for id in 0..50 {
        publish_numbers(&server, &format!("log:{id}"), 1..=3);
    }

    let mut socket = server.connect_extended();
    let streams: serde_json::Map<String, Value> = has
        .iter()
        .map(|has| (has.stream_id.clone(), json!({ "epoch": has.epoch, "offset": has.offset })))
        .collect();
    for id in 0..50 {
        // All that it has of all of them, as the client says it.
        let command = json!({
            "command": "subscribe", "identifier": events(id), "history": { "since": now(), "streams": streams },
        });
        socket.send(&command.to_string());
    }
    let mut came = vec![Vec::new(); 50];
    let (mut confirms, mut histories) = (0, 0);
    while histories < 50 {
        let json = socket.json();
        match json["type"].as_str() {
            Some("confirm_subscription") => confirms += 1,
            Some("confirm_history") => histories += 1,
            None => {
                let id = (0..50).find(|id| json["identifier"] == json!(events(*id))).unwrap();
                came[id as usize].push(json["message"].clone());
            }
            Some(_) => panic!("{json}"),
        }
    }
    assert_eq!(confirms, 50);
    assert!(came.iter().all(|came| *came == [1, 2, 3]), "{came:?}");
}

/// AnyCable's client closes a channel for ever whose subscribe is not answered.
#[test]
fn every_subscribe_is_answered_before_the_server_closes() {
    const EACH: u32 = 50;
    let mut server = with_rules().start();
    let mut sockets: Vec<Socket> = (0..20).map(|_| server.connect_extended()).collect();

    // All of it is there when it goes on.
    server.signal("STOP");
    for socket in &mut sockets {
        for id in 0..EACH {
            socket.command("subscribe", &events(id));
            socket.command("subscribe", &json!({ "channel": "Unknown", "id": id }).to_string());
        }
    }
    server.signal("TERM");
    server.signal("CONT");

    for socket in &mut sockets {
        let (mut confirms, mut rejects) = (0, 0);
        loop {
            match socket.json() {
                json if json["type"] == "confirm_subscription" => confirms += 1,
                json if json["type"] == "reject_subscription" => rejects += 1,
                json => {
                    let reason =
                        json!({ "type": "disconnect", "reason": "server_restart", "reconnect": true });
                    assert_eq!(json, reason);
                    break;
                }
            }
        }
        assert_eq!((confirms, rejects), (EACH, EACH));
        assert_eq!(socket.next(), Frame::Close(1000, String::new()));
        socket.close();
    }
    assert_eq!(server.wait().code(), Some(0));
}
