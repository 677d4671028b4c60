//! The keys for publishing by HTTP: several, and those that open some streams alone.

use serde_json::json;

use crate::support::{Answer, Builder, Server, pubsub, request, server, tablecast};

fn post(server: &Server, path: &str, key: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [("Content-Type", "application/json"), ("Authorization", authorization.as_str())];
    request(server.internal, "POST", path, &headers, body.as_bytes())
}

fn publish(server: &Server, key: &str, stream: &str) -> Answer {
    post(server, "/broadcast", key, &json!({ "stream": stream, "data": 1 }).to_string())
}

#[test]
fn of_several_keys_each_is_good_wherever_they_are_given() {
    let given: [fn(Builder) -> Builder; 3] = [
        |server| server.arg("--publish-key=old,er").arg("--publish-key=new"),
        |server| server.after("export TABLECAST_PUBLISH_KEY='old,er\n\nnew\n'"),
        |server| server.config("publish_key = [\"old,er\", \"new\"]"),
    ];
    for with_keys in given {
        let server = with_keys(server()).start();
        for key in ["old,er", "new"] {
            assert_eq!(publish(&server, key, "s").status, 201, "{key}");
        }
        // A comma is a character like others.
        for wrong in ["old", "er", "old,er,new", "old,er\nnew", ""] {
            let wrong = wrong.replace('\n', " ");
            assert!(publish(&server, &wrong, "s").problem(401).contains("--publish-key"), "{wrong}");
        }
        assert_eq!(server.refused("publish_key"), 5.0);
    }
}

fn limited() -> Builder {
    server().open().config(
        r#"
        [[publish_key]]
        key = "for everything"

        [[publish_key]]
        key = "for progress"
        streams = ["progress:*", "news"]

        [[publish_key]]
        key_file = "keys"
        streams = ["jobs:*"]
        "#,
    )
}

#[test]
fn a_key_that_is_limited_publishes_into_its_streams_alone_and_all_or_nothing() {
    let builder = limited();
    std::fs::write(builder.folder().join("keys"), "from the file\nits successor\n").unwrap();
    let server = builder.start();
    let mut client = server.connect();
    for stream in ["progress:1", "other"] {
        client.subscribe(&pubsub(stream));
    }

    assert_eq!(publish(&server, "for everything", "other").status, 201);
    assert_eq!(client.message(&pubsub("other")), "1");
    for (key, stream) in [
        ("for progress", "progress:1"),
        ("for progress", "news"),
        ("from the file", "jobs:1"),
        ("its successor", "jobs:1"),
    ] {
        assert_eq!(publish(&server, key, stream).status, 201, "{key} {stream}");
    }
    assert_eq!(client.message(&pubsub("progress:1")), "1");

    for (key, stream) in
        [("for progress", "other"), ("for progress", "progress"), ("from the file", "progress:1")]
    {
        let refused = publish(&server, key, stream);
        assert!(refused.problem(403).contains(stream), "{refused:?}");
        assert_eq!(refused.json()["pointer"], "/stream");
    }
    let before = server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0");
    let array =
        r#"[{"stream":"progress:1","data":2},{"stream":"other","data":2},{"stream":"progress:1","data":3}]"#;
    let refused = post(&server, "/broadcast", "for progress", array);
    assert!(refused.problem(403).contains("other"));
    assert_eq!(refused.json()["pointer"], "/1/stream");
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), before);
    assert_eq!(server.refused("publish_key_scope"), 4.0);
    client.nothing_else();
}

/// A publish of `1` into `s` under an Idempotency-Key.
fn publish_once(server: &Server, key: &str, once: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [
        ("Content-Type", "application/json"),
        ("Authorization", authorization.as_str()),
        ("Idempotency-Key", once),
    ];
    request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"s","data":1}"#)
}

#[test]
fn a_key_gets_no_answer_that_another_was_given() {
    let builder =
        server().config("[[publish_key]]\nkey = \"a\"\n[[publish_key]]\nkey = \"b\"\nstreams = [\"s\"]\n");
    let server = builder.start();

    assert_eq!(publish_once(&server, "a", "k").body, r#"{"id":1}"#);
    assert!(publish_once(&server, "b", "k").problem(422).contains("with another publish key"));
    assert_eq!(publish_once(&server, "b", "its own").body, r#"{"id":2}"#);
    assert_eq!(publish_once(&server, "b", "its own").body, r#"{"id":2}"#);
    assert_eq!(publish_once(&server, "a", "k").body, r#"{"id":1}"#);
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "2");
}

#[test]
fn an_answer_from_before_keys_were_told_apart_is_given_again() {
    let server = server().arg("--publish-key=a").start();
    let (stream, payload) = ([0, 0, 0, 0, 0, 0, 0, 1, b's'], [0, 0, 0, 0, 0, 0, 0, 1, b'1']);
    let content = [[0].as_slice(), &stream, &payload].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content);
    server.sql(&format!(
        "INSERT INTO tablecast_idempotency_keys VALUES ('', 'k', x'{}', '[7]', datetime('now'))",
        data_encoding::HEXLOWER.encode(digest.as_ref())
    ));

    assert_eq!(publish_once(&server, "a", "k").body, r#"{"id":7}"#);
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
}

#[test]
fn a_key_that_is_limited_ends_no_connections() {
    let builder = limited();
    std::fs::write(builder.folder().join("keys"), "from the file\n").unwrap();
    let server = builder.start();
    let ask = r#"{"identifier":"Z2lk"}"#;

    assert!(post(&server, "/disconnect", "for progress", ask).problem(403).contains("limited"));
    post(&server, "/disconnect", "wrong", ask).problem(401);
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
    assert_eq!(post(&server, "/disconnect", "for everything", ask).status, 201);
}

#[test]
fn a_limited_key_closes_the_listener_as_any_does_and_takes_the_place_of_the_derived_one() {
    let server =
        server().arg("--secret=s3Krit").config("[[publish_key]]\nkey = \"k\"\nstreams = [\"a\"]\n").start();
    assert!(!server.said[2].contains("without a key"), "{}", server.said[2]);

    assert_eq!(publish(&server, "k", "a").status, 201);
    let derived = "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716";
    publish(&server, derived, "a").problem(401);
}

#[test]
fn the_command_line_takes_the_key_that_opens_its_stream() {
    let builder = limited();
    std::fs::write(builder.folder().join("keys"), "from the file\n").unwrap();
    let server = builder.start();
    for stream in ["jobs:1", "anything"] {
        let url = format!("http://{}", server.internal);
        let output = tablecast()
            .args(["publish", stream, "1", "--url", &url])
            .current_dir(server.folder())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_comment_in_a_key_file_is_no_key() {
    let builder = limited();
    std::fs::write(builder.folder().join("keys"), "# rotated in May\nfrom the file\n").unwrap();
    let error = builder.try_start().map(drop).unwrap_err();
    assert!(error.contains("key_file keys: a line begins with #") && !error.contains("May"), "{error}");
}

#[test]
fn what_is_no_key_is_told_and_no_key_is_shown() {
    let says = |toml: &str| {
        let error = server().config(toml).try_start().map(drop).unwrap_err();
        assert!(!error.contains("s3cret") && !error.contains("4711"), "{error}");
        error
    };
    let table = |inner: &str| says(&format!("[[publish_key]]\n{inner}\n"));

    assert!(table("streams = [\"a\"]").contains("a key or a key_file"));
    assert!(table("key = \"s3cret\"\nkey_file = \"f\"").contains("a key or a key_file"));
    assert!(table("key = 4711").contains("key is text"));
    assert!(table("key_file = \"missing\"").contains("key_file missing"));
    assert!(table("key = \"s3cret\"\nstream = [\"a\"]").contains("unknown field `stream`"));
    assert!(table("key = \"\"").contains("empty"));
    assert!(says("publish_key = [\"s3cret\", \"\"]").contains("empty"));
    assert!(says("publish_key = [\"s3cret\", \"s3cret\"]").contains("the same"));
    assert!(says("publish_key = [\"s3cret\", { key = \"s3cret\" }]").contains("publish_key is"));
}
