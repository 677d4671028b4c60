//! Publishing: by SQL, with the rights that workers have, and by HTTP.

use super::{expect, listen, listening, migrate, migrated, publish, rows, serve};
use crate::support::{Answer, Database, PASSWORD, Server, mariadb, pubsub, request, until};

/// What an account sees of a statement that is refused.
fn refused(database: &Database, sql: &str) -> String {
    let output = database.try_sql(sql);
    assert!(!output.status.success(), "{sql}");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs SQL by an account's own rights.
fn try_sql_as(database: &Database, account: &str, sql: &str) -> std::process::Output {
    let mut shell = std::process::Command::new("mariadb");
    let (host, port) = (database.address.ip(), database.address.port());
    shell.args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--protocol=tcp"]);
    shell.args([format!("--host={host}"), format!("--port={port}"), format!("--user={account}")]);
    shell.args([format!("--password={PASSWORD}"), database.name.clone(), format!("--execute={sql}")]);
    shell.output().unwrap()
}

#[test]
fn a_worker_with_insert_on_the_publishing_table_alone_is_heard() {
    let (database, _server, mut socket) = listening();
    let worker = database.user("worker");
    database.sql(&format!("GRANT INSERT ON tablecast_publish TO {worker}"));
    for sql in [
        publish("1"),
        "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '2'), ('s', '3')".into(),
        "INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM (SELECT 4 AS n UNION ALL SELECT 5 UNION ALL SELECT 6) AS numbers ORDER BY n".into(),
        "PREPARE p FROM 'INSERT INTO tablecast_publish (data, stream) VALUES (?, ?)'; EXECUTE p USING '7', 's'".into(),
        "SET sql_mode = ''; SET NAMES latin1; SET time_zone = '+11:00'; INSERT INTO tablecast_publish (stream, data) VALUES ('s', 8)".into(),
    ] {
        let output = try_sql_as(&database, &worker, &sql);
        assert!(output.status.success(), "{sql}: {output:?}");
    }
    expect(&mut socket, &["1", "2", "3", "4", "5", "6", "7", "8"]);
    for sql in ["SELECT * FROM tablecast_publish", &super::row("s", "9"), "DELETE FROM solid_cable_messages"]
    {
        assert!(!try_sql_as(&database, &worker, sql).status.success(), "{sql}");
    }
    socket.nothing_else();
}

#[test]
fn a_fenced_worker_publishes_under_its_prefix_alone() {
    let database = migrated();
    migrate(&database, &["--fence", "staging"]);
    let worker = database.user("worker");
    database.sql(&format!("GRANT INSERT ON tablecast_publish_staging TO {worker}"));
    let (staging, production) =
        (serve(&database).with_prefix("staging").start(), serve(&database).with_prefix("production").start());
    let (mut of_staging, mut of_production) = (listen(&staging), listen(&production));
    let fenced = "INSERT INTO tablecast_publish_staging (stream, data) VALUES ('s', '1')";
    let set = format!("SET @tablecast_channel_prefix = 'production'; {fenced}");
    assert!(try_sql_as(&database, &worker, &set).status.success());
    expect(&mut of_staging, &["1"]);
    for sql in [
        publish("2"),
        "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '2', 'production')".into(),
        "INSERT INTO tablecast_publish_staging (stream, data, prefix) VALUES ('s', '2', 'production')".into(),
    ] {
        assert!(!try_sql_as(&database, &worker, &sql).status.success(), "{sql}");
    }
    of_production.nothing_else();
}

#[test]
fn an_insert_goes_to_the_prefix_that_it_names_or_that_its_session_does() {
    let database = migrated();
    migrate(&database, &["--default-prefix", "c"]);
    database.sql(
        "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '1', 'a');
         SET @tablecast_channel_prefix = 'b'; INSERT INTO tablecast_publish (stream, data) VALUES ('s', '2');
         INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '3', '');
         SET @tablecast_channel_prefix = ''; INSERT INTO tablecast_publish (stream, data) VALUES ('s', '4')",
    );
    let channels =
        "SELECT GROUP_CONCAT(channel ORDER BY id SEPARATOR ' ') FROM solid_cable_messages WHERE id > 0";
    assert_eq!(database.sql(channels), "a:s b:s s c:s");
}

#[test]
fn what_is_no_message_is_refused_inside_the_workers_transaction() {
    let database = migrated();
    for (values, said) in [
        ("('s', 'not JSON')", "data is not JSON"),
        ("('s', NULL)", "data is missing"),
        ("('', '1')", "stream is missing"),
        ("('action_cable/x', '1')", "are not for publishing"),
        ("(REPEAT('s', 1025), '1')", "longer than 1024 bytes"),
        ("('s\\0', '1')", "NUL character"),
    ] {
        let error =
            refused(&database, &format!("INSERT INTO tablecast_publish (stream, data) VALUES {values}"));
        assert!(error.contains(said), "{values}: {error}");
    }
    assert!(
        refused(&database, "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '1', 'a:b')")
            .contains("prefix holds a colon")
    );
    assert_eq!(rows(&database), "NULL");
}

#[test]
fn a_rails_process_finds_what_is_published_by_its_hash() {
    let (database, server, _) = listening();
    server.publish(r#"{"stream":"room:1","data":1}"#);
    database.sql("INSERT INTO tablecast_publish (stream, data) VALUES ('room:1', '2')");
    let found = "SELECT GROUP_CONCAT(payload ORDER BY id SEPARATOR ' '),
                   MAX(ABS(TIMESTAMPDIFF(SECOND, created_at, UTC_TIMESTAMP(6)))) < 60
                 FROM solid_cable_messages WHERE channel_hash IN (4762459634708996067)";
    assert_eq!(database.sql(found), "1 2\t1");
}

#[test]
fn documents_are_kept_byte_for_byte() {
    let (database, server, mut socket) = listening();
    let document = r#"{"n":12345678901234567890.10, "s": "é 😀 \" \\ \u0000","k":  1}"#;
    assert_eq!(server.publish(&format!(r#"{{"stream":"s","data":{document}}}"#)).status, 201);
    let quoted = document.replace('\\', r"\\").replace('\'', "''");
    database.sql(&publish(&quoted));
    expect(&mut socket, &[document, document]);
}

fn with_key(server: &Server, key: &str, body: &str) -> Answer {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    request(server.internal, "POST", "/broadcast", &headers, body.as_bytes())
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
        assert_eq!(
            database.sql(&format!("SELECT payload FROM solid_cable_messages WHERE id = {id}")),
            n.to_string()
        );
    }
    let mut arrived: Vec<u32> = (0..80).map(|_| socket.message(&pubsub("s")).parse().unwrap()).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..80).collect::<Vec<_>>());
    socket.nothing_else();
}

#[test]
fn an_array_of_any_size_is_one_transaction_with_its_ids_in_order() {
    let (database, server, mut socket) = listening();
    let body: Vec<String> = (1..=700).map(|n| format!(r#"{{"stream":"s","data":{n}}}"#)).collect();
    let answer = server.publish(&format!("[{}]", body.join(",")));
    let ids: Vec<i64> = serde_json::from_value(answer.json()["ids"].clone()).unwrap();
    assert_eq!(ids.len(), 700);
    for (n, id) in [(1, ids[0]), (129, ids[128]), (700, ids[699])] {
        assert_eq!(
            database.sql(&format!("SELECT payload FROM solid_cable_messages WHERE id = {id}")),
            n.to_string()
        );
    }
    super::expect_numbers(&mut socket, 1..=700);
}

/// While somebody locks the table requests gather, and then share a transaction.
fn at_once(database: &Database, server: &Server, keys: bool, data: &[&str]) -> Vec<u16> {
    let mut lock = database.begin("LOCK TABLES solid_cable_messages READ");
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
        lock.run("UNLOCK TABLES");
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
fn a_message_that_fits_into_no_packet_fails_alone() {
    let mariadb = mariadb::server().with("max-allowed-packet", "1M").start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).arg("--max-payload-bytes=4MiB").start();
    until("it is said", || server.log().contains("max_allowed_packet"));
    let mut socket = listen(&server);
    let large = format!("\"{}\"", "x".repeat(2 << 20));
    let half = format!("\"{}\"", "x".repeat(600 << 10));
    let statuses = at_once(&database, &server, false, &[&half, &large, &half, "1"]);
    assert_eq!(statuses, [201, 422, 201, 201]);
    let mut sizes: Vec<usize> = (0..3).map(|_| socket.message(&pubsub("s")).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, half.len(), half.len()]);
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
fn many_keys_at_once_on_two_servers_publish_once_each() {
    let (database, first, mut socket) = listening();
    let second = serve(&database).start();
    std::thread::scope(|scope| {
        for n in 0..48 {
            let server = if n % 2 == 0 { &first } else { &second };
            scope.spawn(move || {
                let key = (n / 4).to_string();
                id(&with_key(server, &key, &format!(r#"{{"stream":"s","data":{key}}}"#)))
            });
        }
    });
    let mut arrived: Vec<u32> = (0..12).map(|_| socket.message(&pubsub("s")).parse().unwrap()).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..12).collect::<Vec<_>>());
    socket.nothing_else();
    assert_eq!(database.sql("SELECT COUNT(*) FROM solid_cable_messages WHERE id > 0"), "12");
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
fn a_publish_under_the_binary_log_of_statements_goes_through() {
    let mariadb = mariadb::server()
        .with("log-bin", "log")
        .with("server-id", "1")
        .with("binlog-format", "STATEMENT")
        .with("log-bin-trust-function-creators", "1")
        .start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    for _ in 0..2 {
        id(&with_key(&server, "k", r#"{"stream":"s","data":1}"#));
    }
    expect(&mut socket, &["1"]);
    socket.nothing_else();
}
