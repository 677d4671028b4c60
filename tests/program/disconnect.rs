//! `POST /disconnect`: what it takes, and what it writes.

use crate::support::{Answer, Server, request, server};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn ask(server: &Server, body: &str) -> Answer {
    request(server.internal, "POST", "/disconnect", &[JSON], body.as_bytes())
}

fn rows(server: &Server) -> String {
    server.sql("SELECT id, channel, payload FROM solid_cable_messages WHERE id > 0 ORDER BY id")
}

#[test]
fn it_is_the_row_that_rails_writes() {
    let server = server().with_prefix("staging").start();

    let answer = ask(&server, r#"{"identifier":"Z2lkOi8vYXBwL1VzZXIvMQ"}"#);
    assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"id":1}"#));
    assert_eq!(ask(&server, r#"{"reconnect":false,"identifier":"a:b"}"#).body, r#"{"id":2}"#);

    assert_eq!(
        rows(&server),
        "1|staging:action_cable/Z2lkOi8vYXBwL1VzZXIvMQ|{\"type\":\"disconnect\",\"reconnect\":true}\n\
         2|staging:action_cable/a:b|{\"type\":\"disconnect\",\"reconnect\":false}"
    );
}

#[test]
fn an_idempotency_key_makes_a_repeat_safe() {
    let server = server().start();
    let ask = |body: &str| {
        request(server.internal, "POST", "/disconnect", &[JSON, ("Idempotency-Key", "k")], body.as_bytes())
    };

    for _ in 0..2 {
        assert_eq!(ask(r#"{"identifier":"a"}"#).body, r#"{"id":1}"#);
    }
    ask(r#"{"identifier":"b"}"#).problem(422);
    assert_eq!(rows(&server).lines().count(), 1);
}

#[test]
fn what_it_does_not_take_is_a_problem_that_says_where() {
    let server = server().start();
    let problem = |body: &str, status: u16| {
        let answer = ask(&server, body);
        (answer.problem(status), answer.json()["pointer"].as_str().unwrap_or("-").to_owned())
    };

    problem("{", 400);
    problem("", 400);
    for not_an_object in ["7", r#"["a",true]"#, r#"[{"identifier":"a"}]"#, r#""a""#] {
        assert!(problem(not_an_object, 422).0.contains("is an object"), "{not_an_object}");
    }
    assert!(problem("{}", 422).0.contains("missing field identifier"));
    assert!(problem(r#"{"identifier":"a","reconect":true}"#, 422).0.contains("unknown field reconect"));
    problem(r#"{"identifier":7}"#, 422);
    problem(r#"{"identifier":"a","reconnect":"no"}"#, 422);
    assert_eq!(
        problem(r#"{"identifier":""}"#, 422),
        ("the identifier is empty".into(), "/identifier".into())
    );
    assert!(problem(r#"{"identifier":"a\u0000"}"#, 422).0.contains("NUL"));
    assert!(problem(&format!(r#"{{"identifier":"{}"}}"#, "x".repeat(1024)), 422).0.contains("1024"));

    let with = |method: &str, headers: &[(&str, &str)]| {
        request(server.internal, method, "/disconnect", headers, br#"{"identifier":"a"}"#)
    };
    with("GET", &[JSON]).problem(405);
    with("POST", &[]).problem(415);
    with("POST", &[("Content-Type", "text/plain")]).problem(415);
    with("POST", &[JSON, ("Origin", "http://evil.example")]).problem(403);
    with("POST", &[JSON, ("Sec-Fetch-Site", "cross-site")]).problem(403);
    with("POST", &[JSON, ("Host", "evil.example")]).problem(421);
    assert_eq!(rows(&server), "");
}

#[test]
fn it_is_on_the_public_listener_only_where_publishing_is() {
    let closed = server().start();
    assert_eq!(request(closed.public, "POST", "/disconnect", &[JSON], b"{}").status, 404);

    let open = server().arg("--public-publish").arg("--publish-key=k").start();
    let key = ("Authorization", "Bearer k");
    let body = br#"{"identifier":"a"}"#;
    assert_eq!(request(open.public, "POST", "/disconnect", &[JSON, key], body).status, 201);
    request(open.public, "POST", "/disconnect", &[JSON], body).problem(401);
}

#[test]
fn no_other_way_of_publishing_reaches_its_streams() {
    let server = server().open().start();
    server.publish(r#"{"stream":"action_cable/a","data":{"type":"disconnect"}}"#).problem(422);
    server.connect().rejected(&crate::support::pubsub("action_cable/a"));
}
