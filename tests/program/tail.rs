//! Following the table: what wakes the tail, what it skips, what it survives.

use std::time::{Duration, Instant};

use crate::support::{Frame, begin, get, pubsub, server, sqlite3, until};

#[test]
fn a_commit_of_another_process_is_delivered_whatever_wakes_the_tail() {
    for wake in ["auto", "notify", "poll"] {
        let server = server().open().arg("--wake").arg(wake).start();
        let mut socket = server.connect();
        socket.subscribe(&pubsub("s"));
        for n in 0..5 {
            server.insert("s", &n.to_string());
            assert_eq!(socket.message(&pubsub("s")), n.to_string(), "{wake}");
        }
    }
}

/// With `synchronous=FULL` the file changes before the commit can be seen. Were the tail to look
/// only then, it would find nothing and sleep for its ten minutes.
#[test]
fn a_change_that_is_reported_before_it_can_be_seen_is_found_all_the_same() {
    let server = server().open().arg("--poll-interval=10m").start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    for n in 0..20 {
        server.sql(&format!(
            "PRAGMA synchronous = {}; INSERT INTO tablecast_publish (stream, data) VALUES ('s', '{n}')",
            if n % 2 == 0 { "FULL" } else { "NORMAL" }
        ));
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }
}

#[test]
fn a_page_of_many_rows_arrives_whole_and_in_order() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));

    // More than a page by rows, in one commit.
    server.sql(
        "INSERT INTO tablecast_publish (stream, data)
         WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 4999) SELECT 's', n FROM n",
    );

    for n in 0..5000 {
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }
}

#[test]
fn rows_that_are_no_messages_are_skipped_counted_and_told_once() {
    let server = server().open().arg("--max-payload-bytes=1KiB").start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let row = |channel: &str, payload: &str| {
        server.sql(&format!(
            "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
             VALUES ({channel}, {payload}, '2026-11-24 00:00:00.000000', 7)"
        ));
    };
    row("zeroblob(3000000)", "'1'");
    for _ in 0..3 {
        row("x'73'", "'not json'"); // s
        row("x'73'", "x'22ff22'");
        row("x'73'", "''");
        row("x'73'", "zeroblob(2000)");
        row("x'ff'", "'1'");
    }
    row("'s'", "'\"text, and a wrong hash\"'");
    row("x'73'", "x'31'");

    assert_eq!(socket.message(&pubsub("s")), r#""text, and a wrong hash""#);
    assert_eq!(socket.message(&pubsub("s")), "1");
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_json"}"#), 9.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="too_large"}"#), 3.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_a_name"}"#), 4.0);
    let wrong_hash = r#"tablecast_row_faults_total{fault="wrong_hash"}"#;
    assert_eq!(server.metric(wrong_hash), 2.0, "both that were delivered");
    assert_eq!(server.log().matches("was skipped").count(), 3, "a line for each stream: {}", server.log());
}

#[test]
fn a_newcomer_gets_nothing_from_before_its_confirm() {
    let server = server().open().start();
    let mut first = server.connect();
    first.subscribe(&pubsub("s"));
    server.insert("s", "1");
    assert_eq!(first.message(&pubsub("s")), "1");

    let mut second = server.connect();
    second.subscribe(&pubsub("s"));
    server.insert("s", "2");

    assert_eq!(second.message(&pubsub("s")), "2");
    assert_eq!(first.message(&pubsub("s")), "2");
}

#[test]
fn what_commits_after_the_confirm_is_never_missed() {
    let server = server().open().start();
    for round in 0..50 {
        let mut socket = server.connect();
        let identifier = pubsub(&format!("s{round}"));
        socket.subscribe(&identifier);
        server.publish(&format!(r#"{{"stream":"s{round}","data":{round}}}"#));
        assert_eq!(socket.message(&identifier), round.to_string());
    }
}

#[test]
fn a_locked_file_delays_and_loses_nothing() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let transaction =
        begin(&server.database(), "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1')");

    // Publishing waits its turn; the tail reads on.
    std::thread::scope(|scope| {
        let publish = scope.spawn(|| server.publish(r#"{"stream":"s","data":2}"#).status);
        assert_eq!(get(server.public, "/ready").status, 200);
        until("it waits", || server.metric("tablecast_publishes_pending") == 1.0);
        transaction.commit();
        assert_eq!(publish.join().unwrap(), 201);
    });

    assert_eq!(socket.message(&pubsub("s")), "1");
    assert_eq!(socket.message(&pubsub("s")), "2");
}

#[test]
fn a_lock_that_stays_is_a_503_and_leaves_nothing_behind() {
    let server = server().open().arg("--database-url=sqlite:tablecast.db?timeout=100").start();
    let transaction = begin(&server.database(), "");

    let started = Instant::now();
    let answer = server.publish(r#"{"stream":"s","data":1}"#);

    assert!(answer.problem(503).contains("locked"), "{answer:?}");
    assert!(answer.header("retry-after").is_some());
    assert!(started.elapsed() < Duration::from_secs(15));
    transaction.roll_back();
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
    assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
}

/// A limit on the size of files stands in for a full disk: writing fails all the same.
#[test]
fn a_full_disk_is_a_503_and_loses_nothing() {
    let server = server().open().after("trap '' XFSZ").start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    assert_eq!(server.publish(r#"{"stream":"s","data":0}"#).status, 201);
    let wal = server.database().with_extension("db-wal");
    server.limit_file_size(&(std::fs::metadata(wal).unwrap().len() + 20_000).to_string());

    let body = format!(r#"{{"stream":"s","data":"{}"}}"#, "x".repeat(10_000));
    let mut answered = 1;
    let refused = loop {
        let answer = server.publish(&body);
        if answer.status != 201 {
            break answer;
        }
        answered += 1;
    };

    assert!(refused.problem(503).contains("disk"), "{refused:?}");
    assert_eq!(get(server.public, "/health").status, 200);
    server.limit_file_size("unlimited");
    assert_eq!(server.publish(r#"{"stream":"s","data":"room again"}"#).status, 201);
    for _ in 0..answered {
        socket.message(&pubsub("s"));
    }
    assert_eq!(socket.message(&pubsub("s")), r#""room again""#);
    assert_eq!(
        server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"),
        (answered + 1).to_string()
    );
}

#[test]
fn a_table_that_rails_makes_anew_is_another_history() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    for n in 0..3 {
        server.insert("s", &n.to_string());
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }

    // What `db:schema:load` does.
    server.sql(
        r#"DROP TABLE IF EXISTS "solid_cable_messages";
           CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL, "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "channel_hash" integer(8) NOT NULL)"#,
    );

    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);
    assert_eq!(socket.next(), Frame::Close(1000, String::new()));
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    server.insert("s", "7");
    server.publish(r#"{"stream":"s","data":8}"#);
    assert_eq!(socket.message(&pubsub("s")), "7");
    assert_eq!(socket.message(&pubsub("s")), "8");
}

#[test]
fn a_sequence_that_was_forgotten_repeats_nothing() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    for n in 0..5 {
        server.insert("s", &n.to_string());
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }

    server.sql("DELETE FROM sqlite_sequence");
    server.insert("s", "5");

    assert_eq!(socket.message(&pubsub("s")), "5");
}

#[test]
fn another_file_is_another_history_also_if_it_could_not_be_read_at_first() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    server.insert("s", "1");
    assert_eq!(socket.message(&pubsub("s")), "1");
    let table = server.sql("SELECT sql FROM sqlite_master WHERE name = 'solid_cable_messages'");
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(server.folder().join(format!("tablecast.db{suffix}"))).unwrap();
    }

    server.sql("PRAGMA journal_mode = WAL; CREATE TABLE other (x)");
    until("it is looked at", || get(server.internal, "/ready").body.contains("no such table"));
    server.sql(&format!(
        "{table}; WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20)
         INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT CAST('s' AS BLOB), CAST(n AS BLOB), '2026-11-24', 0 FROM n"
    ));

    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);
}

#[test]
fn a_linked_file_is_watched_where_it_lies() {
    let target = server().open().arg("--poll-interval=10m");
    let folder = target.folder().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    sqlite3(&folder.join("real.db"), "PRAGMA journal_mode = WAL; CREATE TABLE t (x)");
    std::os::unix::fs::symlink(folder.join("real.db"), target.database()).unwrap();
    let server = target.start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    for n in 0..5 {
        server.insert("s", &n.to_string());
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }
}

#[test]
fn a_file_that_is_gone_is_said_and_another_in_its_place_is_followed() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let gone = server.folder().join("gone");
    std::fs::create_dir(&gone).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("tablecast.db{suffix}");
        std::fs::rename(server.folder().join(&name), gone.join(&name)).unwrap();
    }

    until("/ready says 503", || get(server.public, "/ready").status == 503);
    server.publish(r#"{"stream":"s","data":1}"#).problem(503);
    assert_eq!(get(server.public, "/health").status, 200);

    // A restored copy.
    let restored = server.folder().join("restored.db");
    sqlite3(&gone.join("tablecast.db"), &format!("VACUUM INTO '{}'", restored.display()));
    std::fs::rename(&restored, server.database()).unwrap();

    until("/ready says 200", || get(server.public, "/ready").status == 200);
    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    server.publish(r#"{"stream":"s","data":2}"#);
    server.insert("s", "3");
    assert_eq!(socket.message(&pubsub("s")), "2");
    assert_eq!(socket.message(&pubsub("s")), "3");
    assert_eq!(server.log().matches("lost the database").count(), 1, "{}", server.log());
}
