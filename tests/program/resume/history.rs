//! `GET /position` and `GET /history`, for pages that are made on a server and for scripts.

use std::net::SocketAddr;
use std::sync::mpsc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::position::forged;
use super::{insert, on_each_database, publish_numbers, serve, state, with_rules};
use crate::support::{Answer, Database, Events, Server, get, postgres, request, server, tablecast, until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn position(address: SocketAddr) -> String {
    let answer = get(address, "/position");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()["position"].as_str().unwrap().to_owned()
}

fn history(address: SocketAddr, query: &str) -> Answer {
    get(address, &format!("/history?{query}"))
}

fn page(address: SocketAddr, query: &str) -> Value {
    let answer = history(address, query);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn data(page: &Value) -> Vec<Value> {
    page["messages"].as_array().unwrap().iter().map(|message| message["data"].clone()).collect()
}

/// Page by page, from there to the end; gives where that is.
fn pages(server: &Server, stream: &str, from: &str, limit: usize) -> (Vec<Value>, String) {
    let (mut all, mut from) = (Vec::new(), from.to_owned());
    loop {
        let page = page(server.internal, &format!("stream={stream}&from={from}&limit={limit}"));
        let some = data(&page);
        assert!(some.len() <= limit);
        all.extend(some);
        from = page["position"].as_str().unwrap().to_owned();
        if page["more"] == false {
            return (all, from);
        }
    }
}

#[test]
fn pages_together_are_the_stream() {
    let server = with_rules().start();
    publish_numbers(&server, "s", 0..5);
    let start = position(server.internal);
    for n in 5..30 {
        publish_numbers(&server, "s", [n]);
        publish_numbers(&server, "another", [n]);
    }

    let all: Vec<Value> = (5..30).map(Value::from).collect();
    for limit in [1, 7, 24, 25, 26, 1000] {
        let (came, end) = pages(&server, "s", &start, limit);
        assert_eq!(came, all, "by {limit}");
        assert_eq!(pages(&server, "s", &end, limit).0, Vec::<Value>::new());
    }
    // Where each message stands, one goes on as well.
    let first = page(server.internal, &format!("stream=s&from={start}&limit=3"));
    assert_eq!(first["more"], true);
    assert_eq!(first["position"], first["messages"][2]["position"]);
    let second = first["messages"][1]["position"].as_str().unwrap();
    assert_eq!(pages(&server, "s", second, 10).0, all[2..]);

    // Without a beginning it is the end.
    let last = page(server.internal, "stream=s&limit=4");
    assert_eq!(data(&last), all[21..]);
    assert_eq!(last["more"], false);
    assert_eq!(data(&page(server.internal, "stream=s")).len(), 30);
    assert_eq!(data(&page(server.internal, "stream=nobody")), Vec::<Value>::new());
}

fn what_commits_late_is_on_the_next_page(database: &Database) {
    let server = serve(database).start();
    let start = position(server.internal);
    let late = database.begin(&insert("s", 1));
    for n in 2..=6 {
        database.sql(&insert("s", n));
    }
    let first = page(server.internal, &format!("stream=s&from={start}&limit=3"));
    assert_eq!(data(&first), [2, 3, 4]);
    late.commit();
    let (rest, end) = pages(&server, "s", first["position"].as_str().unwrap(), 2);
    assert_eq!(rest, [1, 5, 6]);
    assert_eq!(pages(&server, "s", &end, 2).0, Vec::<Value>::new());
}

on_each_database!(what_commits_late_is_on_the_next_page);

#[test]
fn a_page_is_made_with_a_position_and_goes_on_from_there() {
    let server = with_rules().start();
    publish_numbers(&server, "s", 0..3);
    let start = position(server.public);
    publish_numbers(&server, "s", 3..6);
    let mut events = Events::open(server.public, &format!("stream=s&from={start}"), &[]);
    for n in 3..6 {
        assert_eq!(events.message(), n.to_string());
    }
    events.up_to_date();
    let end = page(server.public, "stream=s")["position"].as_str().unwrap().to_owned();
    publish_numbers(&server, "s", 6..7);
    let mut events = Events::open(server.public, &format!("stream=s&from={end}"), &[]);
    assert_eq!(events.message(), "6");
}

#[test]
fn data_keeps_its_digits_and_its_spelling() {
    let server = with_rules().start();
    let payloads = ["123456789012345678901234567890", "1.0e+30", "{ \"z\":1,\"a\": 2.50 }", r#""\u003cé\/""#];
    for payload in payloads {
        server.insert("s", payload);
    }
    for query in ["stream=s".to_owned(), "stream=s&limit=4".into()] {
        let body = history(server.internal, &query).body;
        for payload in payloads {
            assert!(
                body.contains(&format!("\"data\":{payload},\"position\":")),
                "{payload} is not in {body}"
            );
        }
    }
}

#[test]
fn what_cannot_be_gone_on_from_is_gone() {
    let server = with_rules().start();
    let elsewhere = with_rules().start();
    let good = position(server.internal);
    let foreign = position(elsewhere.internal);
    for (from, status, reason) in [
        ("garbage".to_owned(), 400, None),
        (String::new(), 400, None),
        (good[..good.len() - 1].to_owned(), 400, None),
        ("none".into(), 410, Some("position_too_many_gaps")),
        (foreign, 410, Some("position_another_history")),
        (forged(&good, |_, high| *high += 1000), 410, Some("position_ahead")),
        (forged(&good, |time, _| *time -= 90_000), 410, Some("position_too_old")),
    ] {
        for address in [server.internal, server.public] {
            let before = reason.map(|reason| server.resumes(reason));
            let problem = history(address, &format!("stream=s&from={from}")).problem(status);
            assert!(problem.contains("from"), "{problem}");
            if let Some(reason) = reason {
                assert_eq!(server.resumes(reason), before.unwrap() + 1.0, "{reason}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_a_bad_request() {
    let server = with_rules().start();
    for query in [
        "",
        "stream=",
        "stream=a&stream=b",
        "stream=s&limit=0",
        "stream=s&limit=1001",
        "stream=s&limit=-1",
        "stream=s&limit=x",
        "stream=s&limit=1&limit=2",
        "stream=s&since=7",
        "stream=%ff",
        "identifier=%7B%7D",
    ] {
        history(server.internal, query).problem(400);
    }
    get(server.internal, "/position?from=x").problem(400);
    for path in ["/history?stream=s", "/position"] {
        let answer = request(server.internal, "POST", path, &[], b"");
        answer.problem(405);
        assert_eq!(answer.header("allow"), Some("GET"));
    }
}

#[test]
fn a_worker_reads_what_its_key_opens() {
    let server = server()
        .config(
            r#"
            [[publish_key]]
            key = "for everything"

            [[publish_key]]
            key = "for progress"
            streams = ["progress:*"]
            "#,
        )
        .start();
    let ask = |path: &str, key: Option<&str>| {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        request(server.internal, "GET", path, &headers, b"")
    };
    for path in ["/history?stream=progress:1", "/position"] {
        for key in [None, Some("another"), Some("")] {
            ask(path, key).problem(401);
        }
        for key in ["for everything", "for progress"] {
            assert_eq!(ask(path, Some(key)).status, 200, "{path} {key}");
        }
    }
    assert_eq!(ask("/history?stream=other", Some("for everything")).status, 200);
    assert!(ask("/history?stream=other", Some("for progress")).problem(403).contains("other"));
    assert_eq!(server.refused("publish_key_scope"), 1.0);
}

#[test]
fn a_page_reads_what_it_may_listen_to() {
    let rules = "[[channel]]\nname = \"MineChannel\"\nstream = \"mine:{user.id}\"\nallow = \"identified\"\n";
    let jwt = format!("--jwt-key={SECRET}");
    let server = server().config(rules).arg("--public-streams=open:*").arg(&jwt).start();
    let output = tablecast().arg("token").args([&jwt, r#"{"id":7}"#]).output().unwrap();
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    server.insert("mine:7", "1");
    server.insert("open:7", "2");
    server.insert("closed", "3");

    let mine = r#"{"channel":"MineChannel"}"#;
    let mine = format!("identifier={}", utf8_percent_encode(mine, NON_ALPHANUMERIC));
    assert_eq!(data(&page(server.public, &format!("{mine}&jid={token}"))), [1]);
    assert_eq!(data(&page(server.public, &format!("stream=open:7&jid={token}"))), [2]);
    history(server.public, &format!("stream=closed&jid={token}")).problem(403);
    history(server.public, &format!("stream=mine:7&jid={token}")).problem(403);
    for path in ["/position", "/history?stream=open:7"] {
        let refused = get(server.public, path);
        refused.problem(401);
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    // A worker's listener asks for no token.
    assert_eq!(data(&page(server.internal, "stream=closed")), [3]);
    history(server.internal, &mine).problem(400);
}

#[test]
fn pages_of_other_origins_are_let_in_where_they_are_listed() {
    let server = with_rules().arg("--allowed-origins=https://app.example").start();
    for path in ["/position", "/history?stream=s"] {
        let answer = request(server.public, "GET", path, &[("Origin", "https://app.example")], b"");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
        request(server.public, "GET", path, &[("Origin", "https://evil.example")], b"").problem(403);
        // Nobody's pages are let in there.
        request(server.internal, "GET", path, &[("Origin", "https://app.example")], b"").problem(403);
    }
}

#[test]
fn a_prefix_shows_its_own_alone() {
    let server = with_rules().with_prefix("staging").start();
    for (prefix, data) in [("staging", 1), ("production", 2), ("staging", 3)] {
        server.sql(&format!(
            "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '{data}', '{prefix}')"
        ));
    }
    assert_eq!(data(&page(server.internal, "stream=s")), [1, 3]);
    assert_eq!(data(&page(server.internal, "stream=production:s")), Vec::<Value>::new());
    assert_eq!(data(&page(server.public, "stream=s")), [1, 3]);
}

#[test]
fn large_messages_come_in_smaller_pages() {
    let server = with_rules().start();
    let start = position(server.internal);
    let text = "x".repeat(900_000);
    server.publish_all((0..12).map(|n| ("s", json!([n, text]))));
    // So much may wait for a client.
    let first = page(server.internal, &format!("stream=s&from={start}"));
    assert_eq!(first["more"], true);
    assert_eq!(data(&first).len(), 2);
    assert_eq!(data(&page(server.internal, "stream=s")).len(), 2);
    let (all, _) = pages(&server, "s", &start, 1000);
    assert_eq!(all, (0..12).map(|n| json!([n, text])).collect::<Vec<_>>());
}

/// The public listener's requests for what is past count as handshakes do.
#[test]
fn a_flood_of_one_address_is_refused_where_it_has_a_limit() {
    let server = with_rules().arg("--handshake-rate-per-address=5").start();
    for path in ["/position", "/history?stream=s"] {
        let mut refused = None;
        until("it is too often", || {
            let answer = get(server.public, path);
            let is_refused = answer.status == 429;
            refused = is_refused.then_some(answer);
            is_refused
        });
        let refused = refused.unwrap();
        assert!(refused.body.contains("--handshake-rate-per-address"), "{refused:?}");
        assert_eq!(get(server.internal, path).status, 200, "workers are no flood");
    }
}

/// While it is answered; behind a proxy as well, whose sockets are nobody's.
#[test]
fn a_request_has_its_place_among_those_of_its_address() {
    let mut postgres = postgres::server().start();
    let server = serve(&postgres.database())
        .arg("--max-connections-per-address=1")
        .arg("--trusted-proxies=127.0.0.1")
        .start();
    let ask = || request(server.public, "GET", "/position", &[("X-Forwarded-For", "192.0.2.1")], b"");
    assert_eq!(ask().status, 200);
    postgres.pause();
    // Whichever comes first waits, and the other isn't let in.
    let (answers, answered) = mpsc::channel();
    std::thread::scope(|scope| {
        for answers in [answers.clone(), answers] {
            scope.spawn(move || answers.send(ask()).unwrap());
        }
        let refused = answered.recv().unwrap();
        postgres.resume();
        assert_eq!(refused.status, 429);
        assert!(refused.body.contains("--max-connections-per-address"), "{}", refused.body);
    });
    until("it is answered", || ask().status == 200);
}

#[test]
fn a_state_has_a_history_too() {
    let server = with_rules().start();
    publish_numbers(&server, "state:1", 1..=3);
    let query = format!("identifier={}", utf8_percent_encode(&state(1), NON_ALPHANUMERIC));
    assert_eq!(data(&page(server.public, &query)), [1, 2, 3]);
}
