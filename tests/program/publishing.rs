//! Every way of publishing, and what each refuses.

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection};

use crate::support::{Server, begin, get, pubsub, python, request, server, sqlite3, try_sqlite3, until};

/// What Solid Cable's listener does in a Rails process: it selects by hash and id, and then
/// compares the channel. SQL as in `solid_cable/message.rb`.
struct RailsReader {
    last_id: i64,
}

impl RailsReader {
    fn new(server: &Server) -> Self {
        Self { last_id: server.sql("SELECT coalesce(max(id), 0) FROM solid_cable_messages").parse().unwrap() }
    }

    fn poll(&mut self, server: &Server, channel: &str) -> Vec<String> {
        let program = r#"
import sqlite3, hashlib, struct, sys, os, json
channel, last_id = os.environ["CHANNEL"].encode(), int(os.environ["LAST_ID"])
channel_hash = struct.unpack(">q", hashlib.sha256(channel).digest()[:8])[0]
rows = sqlite3.connect(sys.argv[1], timeout=10).execute(
    'SELECT id, channel, payload FROM "solid_cable_messages" WHERE "channel_hash" IN (?) AND id >= ? ORDER BY id ASC',
    (channel_hash, last_id + 1)).fetchall()
print(json.dumps([[id, payload.decode()] for id, found, payload in rows if found == channel]))
"#;
        let output = std::process::Command::new("python3")
            .args(["-c", program])
            .arg(server.database())
            .env("CHANNEL", channel)
            .env("LAST_ID", self.last_id.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<(i64, String)> = serde_json::from_slice(&output.stdout).unwrap();
        self.last_id = rows.last().map_or(self.last_id, |(id, _)| *id);
        rows.into_iter().map(|(_, payload)| payload).collect()
    }
}

#[test]
fn a_rails_process_receives_what_is_published_by_every_way() {
    let server = server().open().with_prefix("staging").start();
    let mut rails = RailsReader::new(&server);
    let mut socket = server.connect();
    let identifier = pubsub("progress:é");
    socket.subscribe(&identifier);

    server.insert("progress:é", r#"{"by":"the sqlite3 shell"}"#);
    let python = python(
        &server.database(),
        r#"
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=10) as db:
    db.executemany("INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)",
                   [("progress:é", '{"by":"python"}'), ("progress:é".encode(), b'{"by":"python, bytes"}')])
"#,
    );
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    server.publish(r#"{"stream":"progress:é","data":{"by":"HTTP"}}"#);
    server.publish(
        r#"[{"stream":"progress:é","data":{"by":"HTTP, an array"}},{"stream":"progress:é","data":1}]"#,
    );
    let published = crate::support::tablecast()
        .args(["publish", "progress:é", r#"{"by":"tablecast publish"}"#])
        .current_dir(server.folder())
        .output()
        .unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));

    let expected = [
        r#"{"by":"the sqlite3 shell"}"#,
        r#"{"by":"python"}"#,
        r#"{"by":"python, bytes"}"#,
        r#"{"by":"HTTP"}"#,
        r#"{"by":"HTTP, an array"}"#,
        "1",
        r#"{"by":"tablecast publish"}"#,
    ];
    assert_eq!(rails.poll(&server, "staging:progress:é"), expected);
    for payload in expected {
        assert_eq!(socket.message(&identifier), payload);
    }
}

#[test]
fn a_row_that_rails_writes_is_delivered() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("room:1");
    socket.subscribe(&identifier);

    // As logged by Solid Cable: literals, blobs in hexadecimal.
    server.sql(
        r#"INSERT INTO "solid_cable_messages" ("created_at","channel","payload","channel_hash")
           VALUES ('2026-11-24 02:06:27.700832', x'726f6f6d3a31', x'7b2261223a317d', 4762459634708996067)
           ON CONFLICT DO NOTHING RETURNING "id""#,
    );

    assert_eq!(socket.message(&identifier), r#"{"a":1}"#);
}

#[tokio::test]
async fn sqlx_publishes_through_the_view_and_straight_into_the_table() -> Result<(), sqlx::Error> {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("room:1");
    socket.subscribe(&identifier);
    let options = SqliteConnectOptions::new().filename(server.database());
    let mut db = SqliteConnection::connect_with(&options).await?;
    let view = "INSERT INTO tablecast_publish (stream, data) VALUES (?, ?)";
    let table = "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                 VALUES (?1, ?2, datetime('now', 'subsec'), ?3), (?1, ?2, datetime('now', 'subsec'), ?3) RETURNING id";
    let hash = 4762459634708996067_i64;

    for (persistent, [first, second]) in [(true, ["1", "2"]), (false, ["3", "4"])] {
        let query = sqlx::query(view).bind("room:1").bind(first).persistent(persistent);
        query.execute(&mut db).await?;
        let query = sqlx::query_scalar(table).bind(&b"room:1"[..]).bind(second.as_bytes()).bind(hash);
        let ids: Vec<i64> = query.persistent(persistent).fetch_all(&mut db).await?;
        assert_eq!(ids[0] + 1, ids[1]);
    }
    QueryBuilder::<Sqlite>::new("INSERT INTO tablecast_publish (stream, data) ")
        .push_values(["5", "6"], |mut row, data| {
            row.push_bind("room:1").push_bind(data);
        })
        .build()
        .execute(&mut db)
        .await?;
    let mut transaction = db.begin().await?;
    sqlx::query(view).bind("room:1").bind("7").execute(&mut *transaction).await?;
    let refused = sqlx::query(view).bind("room:1").bind("nope").execute(&mut *transaction).await.unwrap_err();
    sqlx::raw_sql(
        "INSERT INTO tablecast_publish (stream, data) VALUES ('room:1', '8');
         INSERT INTO tablecast_publish (stream, data) VALUES ('room:1', '9')",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let mut dropped = db.begin().await?;
    sqlx::query(view).bind("room:1").bind("\"dropped\"").execute(&mut *dropped).await?;
    drop(dropped);
    sqlx::query(view).bind("room:1").bind("10").execute(&mut db).await?;

    assert!(refused.to_string().contains("data is not JSON"), "{refused}");
    for payload in ["1", "2", "2", "3", "4", "4", "5", "6", "7", "8", "9", "10"] {
        assert_eq!(socket.message(&identifier), payload);
    }
    socket.nothing_else();
    Ok(())
}

#[test]
fn an_insert_is_part_of_its_transaction() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("s");
    socket.subscribe(&identifier);
    server.sql("CREATE TABLE jobs (id, done)");

    server.sql(
        r#"BEGIN;
           INSERT INTO jobs VALUES (1, 0);
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '"rolled back"');
           ROLLBACK;
           BEGIN;
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1'), ('s', '2');
           INSERT INTO jobs VALUES (3, 1), (4, 1);
           SAVEPOINT p;
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '"also rolled back"');
           ROLLBACK TO p;
           INSERT INTO tablecast_publish (stream, data) SELECT 's', id FROM jobs ORDER BY id;
           COMMIT"#,
    );

    for payload in ["1", "2", "3", "4"] {
        assert_eq!(socket.message(&identifier), payload);
    }
    socket.nothing_else();
}

#[test]
fn what_is_no_message_is_refused_inside_the_insert() {
    let server = server().open().start();
    let refused = |values: &str, message: &str| {
        let sql = format!("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ({values})");
        let output = try_sqlite3(&server.database(), &sql);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(message), "{values}: {error}");
    };
    for data in [
        "'nope'",
        "''",
        "NULL",
        "'{'",
        "'{}{}'",
        "'{\"a\":1'||char(0)||'}'",
        "x'ff'",
        "'[1,]'",
        "'NaN'",
        "9e999",
    ] {
        refused(&format!("'s', {data}, NULL"), "tablecast_publish: data is not JSON");
    }
    refused("NULL, '1', NULL", "stream is missing");
    refused("'', '1', NULL", "stream is missing");
    refused("'a'||char(0), '1', NULL", "stream holds a NUL character");
    refused("'action_cable/1', '1', NULL", "action_cable/");
    refused("'staging:action_cable/1', '1', ''", "action_cable/");
    refused("'s', '1', 'a:b'", "prefix holds a colon");
    refused(&format!("'{}', '1', NULL", "x".repeat(1025)), "longer than 1024 bytes");
    refused(&format!("'{}', '1', 'p'", "x".repeat(1023)), "longer than 1024 bytes");
    // One bad row takes its statement along.
    let output = try_sqlite3(
        &server.database(),
        "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1'), ('s', 'nope')",
    );
    assert!(!output.status.success());
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
}

#[test]
fn an_untrusted_schema_fails_closed() {
    let server = server().open().start();
    let output = try_sqlite3(
        &server.database(),
        "PRAGMA trusted_schema = OFF; INSERT INTO tablecast_publish (stream, data) VALUES ('s', 'nope')",
    );
    assert!(!output.status.success());
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
}

#[test]
fn scalars_of_sql_are_json_too() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("7");
    socket.subscribe(&identifier);
    server.sql(
        "INSERT INTO tablecast_publish (stream, data) VALUES (7, 42), ('7', 1.5), ('7', json_object('a', 1))",
    );
    for payload in ["42", "1.5", r#"{"a":1}"#] {
        assert_eq!(socket.message(&identifier), payload);
    }
}

#[test]
fn http_answers_after_the_commit_with_the_ids() {
    let server = server().open().start();

    let one = server.publish(r#"{"stream":"progress:42","data":{"percent":50}}"#);
    assert_eq!((one.status, one.body.as_str()), (201, r#"{"id":1}"#));
    assert_eq!(one.header("content-type"), Some("application/json"));
    let two = server.publish(r#" [{"data":1,"stream":"a"},{"stream":"b","data":null}]"#);
    assert_eq!((two.status, two.body.as_str()), (201, r#"{"ids":[2,3]}"#));
    let none = server.publish("[]");
    assert_eq!((none.status, none.body.as_str()), (201, r#"{"ids":[]}"#));

    assert_eq!(
        sqlite3(
            &server.database(),
            "SELECT id, channel, payload FROM solid_cable_messages WHERE id > 0 ORDER BY id"
        ),
        "1|progress:42|{\"percent\":50}\n2|a|1\n3|b|null"
    );
}

#[test]
fn every_error_of_http_is_a_problem_that_says_what_and_where() {
    let server = server()
        .open()
        .arg("--max-payload-bytes=1KiB")
        .arg("--max-broadcast-bytes=8KiB")
        .arg("--max-broadcast-messages=3")
        .start();
    let problem = |body: &str, status: u16| {
        let answer = server.publish(body);
        (answer.problem(status), answer.json()["pointer"].as_str().unwrap_or("-").to_owned())
    };

    assert!(problem("{", 400).0.contains("line 1 column 1"));
    assert!(problem(r#"{"stream":"a","data":1"#, 400).0.contains("EOF"));
    assert!(problem(r#"{"stream":"a","data":[1,}"#, 400).0.contains("column 25"));
    problem("", 400);
    problem("[", 400);
    problem(r#"[{"stream":"a","data":1},"#, 400);
    for not_an_object in ["7", "null", r#""text""#] {
        assert!(problem(not_an_object, 422).0.contains("a message is an object"));
    }
    assert_eq!(problem(r#"[{"stream":"a","data":1},7]"#, 422).1, "/1");
    let (detail, pointer) = problem(r#"[{"stream":"a","data":1},{"strem":"a","data":1}]"#, 422);
    assert!(detail.contains("unknown field strem") && pointer == "/1", "{detail}");
    assert!(problem(r#"{"data":1}"#, 422).0.contains("stream is missing"));
    assert!(problem(r#"{"stream":"a"}"#, 422).0.contains("data is missing"));
    problem(r#"{"stream":7,"data":1}"#, 422);
    problem(r#"{"stream":null,"data":1}"#, 422);
    assert!(problem(r#"{"stream":"","data":1}"#, 422).0.contains("empty"));
    assert!(problem(r#"{"stream":"a\u0000","data":1}"#, 422).0.contains("NUL"));
    assert!(problem(r#"{"stream":"action_cable/1","data":1}"#, 422).0.contains("action_cable/"));
    let (detail, pointer) = problem(&format!(r#"{{"stream":"{}","data":1}}"#, "x".repeat(1025)), 422);
    assert!(detail.contains("1024") && pointer == "/stream", "{detail} {pointer}");
    let (detail, pointer) = problem(&format!(r#"{{"stream":"a","data":"{}"}}"#, "x".repeat(1023)), 413);
    assert!(detail.contains("--max-payload-bytes") && pointer == "/data", "{detail}");
    let messages = [r#"{"stream":"a","data":1}"#; 4].join(",");
    assert!(problem(&format!("[{messages}]"), 413).0.contains("--max-broadcast-messages"));
    assert!(problem(&" ".repeat(9 << 10), 413).0.contains("--max-broadcast-bytes"));

    let with = |method: &str, headers: &[(&str, &str)], body: &[u8]| {
        request(server.internal, method, "/broadcast", headers, body)
    };
    let json = ("Content-Type", "application/json");
    let answer = with("GET", &[json], b"");
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("POST"));
    with("POST", &[("Content-Type", "text/plain")], br#"{"stream":"a","data":1}"#).problem(415);
    with("POST", &[], br#"{"stream":"a","data":1}"#).problem(415);
    with("POST", &[json], b"\"\xff\"").problem(400);
    with("POST", &[json, ("Idempotency-Key", &"k".repeat(256))], br#"{"stream":"a","data":1}"#).problem(400);
    let chunked = [json, ("Transfer-Encoding", "chunked")];
    let mut body = format!("{:x}\r\n", 9 << 10).into_bytes();
    body.extend(vec![b' '; 9 << 10]);
    body.extend(b"\r\n0\r\n\r\n");
    assert!(with("POST", &chunked, &body).problem(413).contains("--max-broadcast-bytes"));

    // All or nothing: none of these left a row.
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
    assert_eq!(server.publish(r#"{"stream":"a","data":1}"#).status, 201);
}

#[test]
fn a_json_content_type_may_have_parameters() {
    let server = server().start();
    let headers = [("Content-Type", "Application/JSON; charset=utf-8")];
    assert_eq!(
        request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"a","data":1}"#).status,
        201
    );
}

#[test]
fn an_idempotency_key_publishes_once_on_every_server() {
    let first = server().open().start();
    let second = first.beside().open().start();
    let mut socket = first.connect();
    let identifier = pubsub("s");
    socket.subscribe(&identifier);
    let publish = |server: &Server, key: &str, body: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        request(server.internal, "POST", "/broadcast", &headers, body.as_bytes())
    };
    let body = r#"[{"stream":"s","data":1},{"stream":"s","data":2}]"#;

    let answers = [publish(&first, "k", body), publish(&first, "k", body), publish(&second, "k", body)];
    for answer in answers {
        assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"ids":[1,2]}"#));
    }
    let spaced = body.replace(',', " , ");
    assert_eq!(publish(&second, "k", &spaced).body, r#"{"ids":[1,2]}"#);
    assert!(publish(&second, "k", r#"{"stream":"s","data":3}"#).problem(422).contains("another message"));
    assert_eq!(publish(&second, "other", r#"{"stream":"s","data":3}"#).body, r#"{"id":3}"#);

    for payload in ["1", "2", "3"] {
        assert_eq!(socket.message(&identifier), payload);
    }
    socket.nothing_else();
}

#[test]
fn requests_with_one_key_at_once_publish_once() {
    let server = server().start();
    let bodies: Vec<String> = std::thread::scope(|scope| {
        let requests: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
                    request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"s","data":1}"#)
                        .body
                })
            })
            .collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    assert!(bodies.iter().all(|body| body == r#"{"id":1}"#), "{bodies:?}");
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "1");
}

#[test]
fn a_message_that_the_database_refuses_does_not_fail_its_neighbours() {
    let server = server().start();
    server.sql(
        "CREATE TRIGGER no_poison BEFORE INSERT ON solid_cable_messages WHEN NEW.payload = CAST('\"poison\"' AS BLOB)
         BEGIN SELECT RAISE(ABORT, 'no poison here'); END",
    );
    // While the lock is held the requests gather, and then share a transaction.
    let transaction = begin(&server.database(), "");
    let statuses = std::thread::scope(|scope| {
        let data = ["1", "\"poison\"", "2", "3", "\"poison\"", "4"];
        let requests = data.map(|data| {
            let server = &server;
            scope.spawn(move || server.publish(&format!(r#"{{"stream":"s","data":{data}}}"#)))
        });
        until("all wait", || server.metric("tablecast_publishes_pending") == 6.0);
        transaction.roll_back();
        requests.map(|request| {
            let answer = request.join().unwrap();
            if answer.status != 201 {
                assert!(answer.problem(422).contains("no poison here"));
            }
            answer.status
        })
    });

    assert_eq!(statuses, [201, 422, 201, 201, 422, 201]);
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "4");
}

#[test]
fn rows_that_a_trigger_drops_are_not_answered_as_published() {
    let server = server().start();
    server.sql(
        "CREATE TRIGGER drops BEFORE INSERT ON solid_cable_messages WHEN NEW.payload = CAST('2' AS BLOB)
         BEGIN SELECT RAISE(IGNORE); END",
    );
    let answer =
        server.publish(r#"[{"stream":"s","data":1},{"stream":"s","data":2},{"stream":"s","data":3}]"#);
    assert!(answer.problem(422).contains("drops rows"));
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
    assert_eq!(server.publish(r#"{"stream":"s","data":3}"#).status, 201);
}

#[test]
fn a_publish_key_is_asked_for_where_one_is_set() {
    let own = server().arg("--publish-key=s3cret").start();
    // AnyCable derives it: hex HMAC-SHA256(secret, "broadcast-cable").
    let derived = server().arg("--secret=s3Krit").start();
    let derived_key = "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716";
    for (server, key) in [(&own, "s3cret"), (&derived, derived_key)] {
        let publish = |authorization: Option<&str>| {
            let mut headers = vec![("Content-Type", "application/json")];
            headers.extend(authorization.map(|value| ("Authorization", value)));
            request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"a","data":1}"#)
        };
        let refused = publish(None);
        assert!(refused.problem(401).contains("--publish-key"));
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        publish(Some("Bearer wrong")).problem(401);
        publish(Some(&format!("Basic {key}"))).problem(401);
        assert_eq!(publish(Some(&format!("Bearer {key}"))).status, 201);
        assert_eq!(publish(Some(&format!("bearer {key}"))).status, 201);
    }
    assert!(!own.log().contains("s3cret") && !own.said.concat().contains("s3cret"));
}

#[test]
fn publishing_is_on_the_public_listener_only_where_it_was_opened() {
    let closed = server().start();
    assert_eq!(request(closed.public, "POST", "/broadcast", &[], b"{}").status, 404);
    assert_eq!(get(closed.public, "/metrics").status, 404);

    let open = server().arg("--public-publish").arg("--publish-key=k").start();
    let headers = [("Content-Type", "application/json"), ("Authorization", "Bearer k")];
    assert_eq!(
        request(open.public, "POST", "/broadcast", &headers, br#"{"stream":"a","data":1}"#).status,
        201
    );
    request(open.public, "POST", "/broadcast", &headers[..1], br#"{"stream":"a","data":1}"#).problem(401);
}

#[test]
fn pages_of_other_sites_and_foreign_hosts_are_refused() {
    let server = server().start();
    let publish = |headers: &[(&str, &str)]| {
        let mut headers = headers.to_vec();
        headers.push(("Content-Type", "application/json"));
        request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"a","data":1}"#)
    };
    publish(&[("Origin", "http://evil.example")]).problem(403);
    publish(&[("Sec-Fetch-Site", "cross-site")]).problem(403);
    publish(&[("Sec-Fetch-Site", "same-site")]).problem(403);
    assert_eq!(publish(&[("Sec-Fetch-Site", "none")]).status, 201);
    assert!(publish(&[("Host", "rebound.evil.example:8081")]).problem(421).contains("--allowed-hosts"));
    for path in ["/health", "/cable"] {
        request(server.public, "GET", path, &[("Host", "rebound.evil.example")], b"").problem(421);
    }
    assert_eq!(publish(&[("Host", "app.localhost:3000")]).status, 201);
    publish(&[("Host", "localhost"), ("Host", "evil.example")]).problem(421);
    request(server.public, "GET", "http://evil.example/health", &[], b"").problem(421);

    let listed = server.beside().arg("--allowed-hosts=app.example.com").start();
    assert_eq!(request(listed.public, "GET", "/health", &[("Host", "app.example.com")], b"").status, 200);
    assert_eq!(get(listed.public, "/health").status, 200);
    request(listed.public, "GET", "/health", &[("Host", "other.example.com")], b"").problem(421);
}

#[test]
fn concurrent_requests_share_transactions_and_keep_each_callers_order() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("s");
    socket.subscribe(&identifier);
    let (callers, each) = (16, 50);

    std::thread::scope(|scope| {
        for caller in 0..callers {
            let server = &server;
            scope.spawn(move || {
                for n in 0..each {
                    let body = json!({ "stream": "s", "data": [caller, n] }).to_string();
                    assert_eq!(server.publish(&body).status, 201);
                }
            });
        }
    });

    let mut next = vec![0; callers];
    for _ in 0..callers * each {
        let (caller, n): (usize, usize) = serde_json::from_str(&socket.message(&identifier)).unwrap();
        assert_eq!(n, next[caller], "the order of caller {caller}");
        next[caller] += 1;
    }
    socket.nothing_else();
    assert_eq!(server.metric(r#"tablecast_publishes_total{result="committed"}"#), (callers * each) as f64);
}
