//! What wakes a tail that sleeps, and what an idle one costs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{expect, listen, migrate, migrated, publish, row, serve};
use crate::support::{
    Database, Frame, PgBouncer, Server, Socket, Transaction, postgres, pubsub, request, tablecast, until,
};

/// Whether a statement notifies servers while one of them sleeps, and while none does.
fn notifies(database: &Database, publish: impl Fn()) -> (bool, bool) {
    let mut hearing = database.begin("");
    hearing.run("COMMIT; LISTEN tablecast_wake");
    let mut heard = |deadline: &str| {
        database.sql(&format!("SELECT setval('tablecast_wake', {deadline})"));
        publish();
        hearing.run("SELECT 1").contains("tablecast_wake")
            || hearing.run("SELECT 2").contains("tablecast_wake")
    };
    (heard("9000000000000"), heard("1000000000000"))
}

#[test]
fn publishing_notifies_only_while_a_server_sleeps() {
    let database = migrated();
    let by_view = || drop(database.sql(&publish("1")));
    let by_rails = || drop(database.sql(&row("s", "1")));
    assert_eq!(notifies(&database, by_view), (true, false));
    assert_eq!(notifies(&database, by_rails), (false, false));
    migrate(&database, &["--wake-trigger"]);
    assert_eq!(notifies(&database, by_rails), (true, false));
    let server = serve(&database).arg("--wake=poll").start();
    let by_http = || assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
    assert_eq!(notifies(&database, by_http), (true, false));
}

#[test]
fn where_transactions_can_be_prepared_nothing_notifies_unless_asked() {
    let postgres = postgres::server().with("max_prepared_transactions", "5").start();
    let database = postgres.database();
    migrate(&database, &[]);
    let by_view = || drop(database.sql(&publish("1")));
    assert_eq!(notifies(&database, by_view), (false, false));
    let refusal = serve(&database).arg("--wake=notify").try_start().err().unwrap();
    assert!(refusal.contains("tablecast migrate --notify"), "{refusal}");

    migrate(&database, &["--notify", "on"]);
    assert_eq!(notifies(&database, by_view), (true, false));
    serve(&database).arg("--wake=notify").start();
}

#[test]
fn rows_of_every_writer_arrive_whatever_wakes_the_tail() {
    let database = migrated();
    migrate(&database, &["--wake-trigger"]);
    for wake in ["auto", "notify", "poll"] {
        let server = serve(&database).arg("--wake").arg(wake).start();
        let mut socket = listen(&server);
        database.sql(&publish("1"));
        database.sql(&row("s", "2"));
        assert_eq!(server.publish(r#"{"stream":"s","data":3}"#).status, 201);
        expect(&mut socket, &["1", "2", "3"]);
    }
}

/// The tail has armed the wake-up, has waited for those who write, and sleeps.
fn until_it_sleeps(database: &Database) {
    until("the tail sleeps", || {
        database.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tablecast' AND datname = current_database()
               AND state = 'idle' AND query LIKE '%One look of the tail%' AND clock_timestamp() - state_change > interval '200 ms'",
        ) == "1"
    });
}

/// From COMMIT to socket.
fn delay(transaction: Transaction, socket: &mut Socket) -> Duration {
    let started = Instant::now();
    let committing = std::thread::spawn(move || transaction.commit());
    socket.message(&pubsub("s"));
    let delay = started.elapsed();
    committing.join().unwrap();
    delay
}

/// The median of nine: without what is tested it is half a second, the tail's next look.
fn usual(delay: impl FnMut(i32) -> Duration) -> Duration {
    let mut delays: Vec<Duration> = (0..9).map(delay).collect();
    delays.sort();
    delays[4]
}

#[test]
fn a_publish_wakes_a_server_that_would_sleep_for_half_a_minute() {
    let database = migrated();
    for wake in ["auto", "notify"] {
        let server = serve(&database).arg("--poll-interval=30s").arg("--wake").arg(wake).start();
        let mut socket = listen(&server);
        let usual = usual(|_| {
            until_it_sleeps(&database);
            delay(database.begin(&publish("1")), &mut socket)
        });
        assert!(usual < Duration::from_millis(100), "{wake}: {usual:?}");
    }
}

#[test]
fn a_transaction_that_was_open_when_the_tail_went_to_sleep_is_not_overslept() {
    let database = migrated();
    let server = serve(&database).arg("--poll-interval=30s").start();
    let mut socket = listen(&server);
    let usual = usual(|_| {
        // Kept awake, it lets its deadline pass: who publishes now doesn't notify.
        let is_over = "SELECT last_value < extract(epoch FROM clock_timestamp()) * 1000 FROM tablecast_wake";
        while database.sql(is_over) != "t" {
            database.sql(&publish("0"));
            expect(&mut socket, &["0"]);
        }
        database.sql(&publish("0"));
        expect(&mut socket, &["0"]);
        let early = database.begin(&publish("1"));
        let before = database.sql("SELECT last_value FROM tablecast_wake");
        until("the tail has armed", || database.sql("SELECT last_value FROM tablecast_wake") != before);
        delay(early, &mut socket)
    });
    assert!(usual < Duration::from_millis(400), "{usual:?}");
}

/// Statements a second of a server that has nothing to do, on a database server of its own: others' transactions are
/// waited for when the tail goes to sleep.
fn idle_rate(wake: &str) -> f64 {
    let postgres = postgres::server().start();
    let database = postgres.database();
    migrate(&database, &[]);
    database.sql(&format!("ALTER DATABASE {} SET log_statement = 'all'", database.name));
    let server = serve(&database).arg("--wake").arg(wake).start();
    let mut client = listen(&server);
    // Clients have one each three seconds.
    let mut beats = |count| (0..count).for_each(|_| assert!(matches!(client.frame(), Frame::Text(_))));
    let statements = || {
        let log = postgres.log();
        log.matches("LOG:  statement: ").count() + log.matches("LOG:  execute ").count()
    };
    beats(1);
    let (started, before) = (Instant::now(), statements());
    beats(3);
    (statements() - before) as f64 / started.elapsed().as_secs_f64()
}

#[test]
fn an_idle_server_asks_the_database_little() {
    let polling = idle_rate("auto");
    assert!((5.0..=20.0).contains(&polling), "{polling} statements a second");
    let sleeping = idle_rate("notify");
    assert!((1.0..=4.0).contains(&sleeping), "{sleeping} statements a second");
}

#[test]
fn through_pgbouncer_notify_is_refused_and_auto_polls() {
    let database = migrated();
    let pooler = PgBouncer::in_front_of(&database);
    let start =
        |wake: &str| crate::support::server().database_url(&pooler.url()).open().arg("--wake").arg(wake);
    let refusal = start("notify").try_start().err().unwrap();
    assert!(refusal.contains("pooler") && refusal.contains("--wake auto"), "{refusal}");

    let server = start("auto").with_prefix("p").start();
    until("it says that it polls", || server.log().contains("polls each --poll-interval"));
    let mut socket = listen(&server);
    let late = database.begin(&row("p:s", "1"));
    database.sql(&row("p:s", "2"));
    expect(&mut socket, &["2"]);
    late.commit();
    expect(&mut socket, &["1"]);
    let body = br#"{"stream":"s","data":3}"#;
    for _ in 0..3 {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
        assert_eq!(request(server.internal, "POST", "/broadcast", &headers, body).status, 201);
    }
    assert_eq!(server.publish(r#"{"stream":"s","data":4}"#).status, 201);
    expect(&mut socket, &["3", "4"]);
    socket.nothing_else();

    let output = super::try_migrate(&pooler.url(), &[]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("direct connection"), "{error}");
}

#[test]
fn through_pgbouncer_a_watcher_gets_a_writers_messages_in_order_under_load() {
    let database = migrated();
    let pooler = PgBouncer::in_front_of(&database);
    let server = crate::support::server().database_url(&pooler.url()).open().start();
    watched_in_order(&database, &server);
}

#[test]
fn a_watcher_gets_a_writers_messages_in_order_under_load() {
    let database = migrated();
    let server = serve(&database).start();
    watched_in_order(&database, &server);
}

/// Four writers, each of its own numbers, in short transactions and longer ones.
fn watched_in_order(database: &Database, server: &Server) {
    const MESSAGES: usize = 4 * 300;
    let mut watch = tablecast()
        .args([
            "watch",
            "s",
            "--count",
            &MESSAGES.to_string(),
            "--url",
            &format!("ws://{}/cable", server.public),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watching = BufReader::new(watch.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("subscribed") {
        assert_ne!(watching.read_line(&mut said).unwrap(), 0, "{said}");
    }
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                let mut sql = String::new();
                for n in 0..300 {
                    let (begin, end) = match n % 10 {
                        5 => ("BEGIN;", ""),
                        8 => ("", ";COMMIT"),
                        _ => ("", ""),
                    };
                    sql += &format!("{begin}{}{end};\n", publish(&format!("[{writer},{n}]")));
                }
                database.sql(&sql);
            });
        }
    });
    let output = watch.wait_with_output().unwrap();
    assert!(output.status.success());
    let mut next = [0; 4];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let [writer, n] = [0, 1].map(|index| line["data"][index].as_u64().unwrap() as usize);
        assert_eq!(n, next[writer], "of writer {writer}");
        next[writer] += 1;
    }
    assert_eq!(next, [300; 4]);
}
