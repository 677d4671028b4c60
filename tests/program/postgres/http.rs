//! Publishing by HTTP: requests share transactions, and a retry with a key is safe.

use std::time::{Duration, Instant};

use super::{expect, listen, listening, migrated, scanned, serve};
use crate::support::{Answer, Database, Proxy, Server, get, pubsub, request, until};

fn with_key(server: &Server, key: &str, body: &str) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    request(server.internal, "POST", "/broadcast", &headers, body.as_bytes())
}

fn rows(database: &Database) -> String {
    database
        .sql("SELECT string_agg(convert_from(payload, 'UTF8'), ' ' ORDER BY id) FROM solid_cable_messages")
}

fn id(answer: &Answer) -> i64 {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_i64().unwrap()
}

#[test]
fn requests_at_once_are_answered_with_their_own_ids() {
    let (database, server, mut socket) = listening();
    let answers: Vec<(usize, i64)> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..40)
            .map(|n| {
                let server = &server;
                scope.spawn(move || {
                    let publish = |n| id(&server.publish(&format!(r#"{{"stream":"s","data":{n}}}"#)));
                    [(n, publish(n)), (n + 40, publish(n + 40))]
                })
            })
            .collect();
        requests.into_iter().flat_map(|request| request.join().unwrap()).collect()
    });
    for (n, id) in answers {
        let sql = format!("SELECT convert_from(payload, 'UTF8') FROM solid_cable_messages WHERE id = {id}");
        assert_eq!(database.sql(&sql), n.to_string());
    }
    let mut arrived: Vec<u32> = (0..80).map(|_| socket.message(&pubsub("s")).parse().unwrap()).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..80).collect::<Vec<_>>());
    socket.nothing_else();
}

/// While somebody locks the table requests gather, and then share a transaction.
fn at_once(database: &Database, server: &Server, keys: bool, data: &[&str]) -> Vec<u16> {
    let lock = database.begin("LOCK TABLE solid_cable_messages IN EXCLUSIVE MODE");
    std::thread::scope(|scope| {
        let requests: Vec<_> = data
            .iter()
            .enumerate()
            .map(|(n, data)| {
                scope.spawn(move || {
                    let body = format!(r#"{{"stream":"s","data":{data}}}"#);
                    let answer =
                        if keys { with_key(server, &n.to_string(), &body) } else { server.publish(&body) };
                    answer.status
                })
            })
            .collect();
        until("all wait", || server.metric("tablecast_publishes_pending") == data.len() as f64);
        lock.roll_back();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    })
}

#[test]
fn a_message_that_the_database_refuses_fails_alone() {
    for keys in [false, true] {
        let (database, server, mut socket) = listening();
        database.sql("ALTER TABLE solid_cable_messages ADD CHECK (payload <> '\"poison\"')");
        let statuses = at_once(&database, &server, keys, &["1", "\"poison\"", "2", "3", "\"poison\"", "4"]);
        assert_eq!(statuses, [201, 422, 201, 201, 422, 201]);
        let mut arrived: Vec<String> = (0..4).map(|_| socket.message(&pubsub("s"))).collect();
        arrived.sort();
        assert_eq!(arrived, ["1", "2", "3", "4"]);
        socket.nothing_else();
    }
}

#[test]
fn a_key_publishes_once_on_every_server() {
    let (database, first, mut socket) = listening();
    let second = serve(&database).start();
    let body = r#"[{"stream":"s","data":1},{"stream":"s","data":2}]"#;
    for server in [&first, &first, &second] {
        let answer = with_key(server, "k", body);
        assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"ids":[1,2]}"#));
    }
    assert!(with_key(&second, "k", r#"{"stream":"s","data":3}"#).problem(422).contains("another message"));
    let at_once: Vec<String> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..16)
            .map(|n| {
                let server = if n % 2 == 0 { &first } else { &second };
                scope.spawn(move || with_key(server, "at once", r#"{"stream":"s","data":3}"#).body)
            })
            .collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    assert!(at_once.iter().all(|body| *body == at_once[0] && body.starts_with(r#"{"id":"#)), "{at_once:?}");
    expect(&mut socket, &["1", "2", "3"]);
    socket.nothing_else();
    assert_eq!(rows(&database), "1 2 3");
}

#[test]
fn a_key_whose_first_request_failed_is_free_again() {
    let (database, server, _) = listening();
    database.sql("ALTER TABLE solid_cable_messages ADD CONSTRAINT no CHECK (payload <> '1')");
    assert_eq!(with_key(&server, "k", r#"{"stream":"s","data":1}"#).status, 422);
    database.sql("ALTER TABLE solid_cable_messages DROP CONSTRAINT no");
    let first = id(&with_key(&server, "k", r#"{"stream":"s","data":1}"#));
    assert_eq!(id(&with_key(&server, "k", r#"{"stream":"s","data":1}"#)), first);
    assert_eq!(rows(&database), "1");
}

#[test]
fn a_lock_that_stays_is_a_503_within_seconds_and_a_retry_publishes_once() {
    let (database, server, mut socket) = listening();
    let lock = database.begin("LOCK TABLE solid_cable_messages IN EXCLUSIVE MODE");
    let started = Instant::now();
    let answer = with_key(&server, "k", r#"{"stream":"s","data":1}"#);
    assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
    answer.problem(503);
    assert!(answer.header("retry-after").is_some());
    // Reading goes on.
    assert_eq!(get(server.public, "/ready").status, 200);
    lock.roll_back();

    let first = id(&with_key(&server, "k", r#"{"stream":"s","data":1}"#));
    assert_eq!(id(&with_key(&server, "k", r#"{"stream":"s","data":1}"#)), first);
    assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201);
    expect(&mut socket, &["1", "2"]);
    socket.nothing_else();
    assert_eq!(rows(&database), "1 2");
}

#[test]
fn what_hangs_is_a_503_and_is_in_the_table_once_or_not_at_all() {
    let database = super::migrated();
    let proxy = Proxy::to(database.address);
    let server = crate::support::server().database_url(&proxy.url(&database.url())).open().start();
    let mut socket = listen(&server);
    assert_eq!(id(&with_key(&server, "first", r#"{"stream":"s","data":0}"#)), 1);
    for (n, fault) in
        [Proxy::freeze, Proxy::half_close, Proxy::reset_all, Proxy::refuse].into_iter().enumerate()
    {
        let (key, body) = (format!("k{n}"), format!(r#"{{"stream":"s","data":{}}}"#, n + 1));
        fault(&proxy);
        let started = Instant::now();
        let status = with_key(&server, &key, &body).status;
        assert!(status == 503 || status == 201, "{status}");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        match n {
            0 => proxy.thaw(),
            3 => proxy.accept_again(),
            _ => {}
        }
        until("it works again", || with_key(&server, &key, &body).status == 201);
    }
    expect(&mut socket, &["0", "1", "2", "3", "4"]);
    assert_eq!(rows(&database), "0 1 2 3 4");
}

#[test]
fn a_trigger_that_drops_rows_is_told_and_not_answered_with_ids() {
    let (database, server, _) = listening();
    database.sql(
        "CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER drop_it BEFORE INSERT ON solid_cable_messages FOR EACH ROW EXECUTE FUNCTION drop_it()",
    );
    assert!(server.publish(r#"{"stream":"s","data":1}"#).problem(422).contains("drops rows"));
}

#[test]
fn tablecast_publish_writes_as_a_worker_does() {
    let (database, _server, mut socket) = listening();
    let url = database.url();
    let output =
        crate::support::tablecast().args(["publish", "s", "1", "--database-url", &url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect(&mut socket, &["1"]);
}

/// The statement that looks a key up is planned when there are next to none.
#[test]
fn a_day_of_keys_is_not_scanned_for_each() {
    let database = migrated();
    database.sql("VACUUM ANALYZE tablecast_idempotency_keys");
    let server = serve(&database).start();
    let publish = |n| id(&with_key(&server, &format!("key {n}"), r#"{"stream":"s","data":1}"#));
    for n in 0..10 {
        publish(n);
    }
    database.sql(
        "INSERT INTO tablecast_idempotency_keys (prefix, idempotency_key, fingerprint, ids, created_at)
         SELECT '', 'other ' || n, '', '[]', now() AT TIME ZONE 'UTC' FROM generate_series(1, 5000) AS n",
    );
    for n in 10..40 {
        publish(n);
    }

    drop(server);
    let scanned = scanned(&database, "tablecast_idempotency_keys");
    assert!(scanned < 4 * 5000, "{scanned} rows for 40 keys");
}
