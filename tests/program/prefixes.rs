//! Prefixes isolate, whatever names clients and workers choose.

use crate::support::{pubsub, server, tablecast};

#[test]
fn servers_of_two_prefixes_share_a_file_and_nothing_else() {
    let staging = server().open().with_prefix("staging").start();
    let production = staging.beside().open().with_prefix("production").start();
    let identifier = pubsub("s");
    let (mut a, mut b) = (staging.connect(), production.connect());
    a.subscribe(&identifier);
    b.subscribe(&identifier);

    staging.publish(r#"{"stream":"s","data":"staging"}"#);
    production.publish(r#"{"stream":"s","data":"production"}"#);
    staging.sql("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '\"to production\"', 'production')");
    staging.sql(
        "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '\"to staging\"', 'staging')",
    );

    assert_eq!(a.message(&identifier), r#""staging""#);
    assert_eq!(a.message(&identifier), r#""to staging""#);
    a.nothing_else();
    assert_eq!(b.message(&identifier), r#""production""#);
    assert_eq!(b.message(&identifier), r#""to production""#);
    b.nothing_else();
    assert_eq!(staging.metric(r#"tablecast_rows_total{result="released"}"#), 2.0);
}

#[test]
fn two_servers_with_one_prefix_deliver_the_same() {
    let first = server().open().with_prefix("p").start();
    let second = first.beside().open().with_prefix("p").start();
    let identifier = pubsub("s");
    let (mut a, mut b) = (first.connect(), second.connect());
    a.subscribe(&identifier);
    b.subscribe(&identifier);

    for n in 0..20 {
        let server = if n % 2 == 0 { &first } else { &second };
        server.publish(&format!(r#"{{"stream":"s","data":{n}}}"#));
    }

    for n in 0..20 {
        assert_eq!(a.message(&identifier), n.to_string());
        assert_eq!(b.message(&identifier), n.to_string());
    }
}

#[test]
fn hostile_names_stay_where_they_are() {
    let a = server().open().with_prefix("a").start();
    let ab = a.beside().open().with_prefix("b").start();
    let (mut in_a, mut in_b) = (a.connect(), ab.connect());
    // `a` + `b:x` is the channel `a:b:x`, which is none of `b`'s.
    in_a.subscribe(&pubsub("b:x"));
    in_b.subscribe(&pubsub("x"));
    in_b.subscribe(&pubsub("a:b:x"));
    in_b.subscribe(&pubsub(":x"));

    a.publish(r#"{"stream":"b:x","data":1}"#);
    a.publish(r#"{"stream":":b:x","data":2}"#);
    a.sql("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('b:x', '3', 'a')");
    ab.publish(r#"{"stream":"x","data":4}"#);

    assert_eq!(in_a.message(&pubsub("b:x")), "1");
    assert_eq!(in_a.message(&pubsub("b:x")), "3");
    in_a.nothing_else();
    assert_eq!(in_b.message(&pubsub("x")), "4");
    in_b.nothing_else();
}

#[test]
fn names_with_quotes_line_breaks_and_wide_characters_are_names() {
    let server = server().open().with_prefix("it's \"so\" \u{1F980}").start();
    let mut socket = server.connect();
    for name in
        ["o'clock", "\"", "a\nb", "🦀", "%", "_", "a b", "*", "{x}", "\u{fffd}", "x".repeat(900).as_str()]
    {
        let identifier = pubsub(name);
        socket.subscribe(&identifier);
        server.insert(name, "1");
        server.publish(&serde_json::json!({ "stream": name, "data": 2 }).to_string());
        assert_eq!(socket.message(&identifier), "1", "{name:?}");
        assert_eq!(socket.message(&identifier), "2", "{name:?}");
    }
}

#[test]
fn a_server_without_prefix_says_that_it_has_no_fence() {
    let staging = server().with_prefix("staging").start();
    let bare = staging.beside().open().start();
    assert!(!bare.log().contains("staging"), "no row, no warning: {}", bare.log());
    staging.publish(r#"{"stream":"s","data":1}"#);

    let bare = bare.again();

    crate::support::until("the warning", || {
        bare.log().contains("prefixes=\"staging\"") || bare.log().contains("prefixes=staging")
    });
    let mut socket = bare.connect();
    socket.rejected(&pubsub("staging:action_cable/1"));
    socket.subscribe(&pubsub("staging:s"));
    staging.publish(r#"{"stream":"s","data":2}"#);
    assert_eq!(socket.message(&pubsub("staging:s")), "2");
}

#[test]
fn the_default_prefix_of_an_insert_is_the_one_that_the_table_was_made_with() {
    let builder = server();
    let migrate = |arguments: &[&str]| {
        let output =
            tablecast().arg("migrate").args(arguments).current_dir(builder.folder()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let channels = || {
        let sql = "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1');
                   SELECT channel FROM solid_cable_messages ORDER BY id DESC LIMIT 1";
        crate::support::sqlite3(&builder.database(), sql)
    };

    assert!(migrate(&["--channel-prefix", "staging"]).contains("goes to prefix staging"));
    assert_eq!(channels(), "staging:s");
    // Another run, with another prefix in its environment, changes nothing by itself.
    assert!(
        migrate(&["--channel-prefix", "production"]).contains("--default-prefix production changes that")
    );
    assert_eq!(channels(), "staging:s");
    migrate(&["--default-prefix", "production"]);
    assert_eq!(channels(), "production:s");
    migrate(&["--default-prefix", ""]);
    assert_eq!(channels(), "s");
    migrate(&["--default-prefix", "o'clock"]);
    assert_eq!(channels(), "o'clock:s");
}

#[test]
fn an_empty_prefix_is_none_and_wins_over_the_default() {
    let staging = server().open().with_prefix("staging").start();
    let bare = staging.beside().open().with_prefix("").start();
    assert!(bare.said[1].contains("no prefix; a plain INSERT goes to prefix staging"), "{:?}", bare.said);
    let mut socket = bare.connect();
    socket.subscribe(&pubsub("s"));

    bare.sql("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1')");
    bare.sql("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '2', '')");

    assert_eq!(socket.message(&pubsub("s")), "2");
}

#[test]
fn check_says_where_a_plain_insert_would_miss_the_server() {
    let staging = server().open().with_prefix("staging").start();
    let check = |prefix: &str| {
        tablecast()
            .args(["check", "--public-streams=*", "--channel-prefix", prefix])
            .current_dir(staging.folder())
            .output()
            .unwrap()
    };
    assert!(check("staging").status.success());
    let other = check("production");
    assert!(other.status.success(), "of the prefixes that share a table, all but one are such");
    let said = String::from_utf8(other.stdout).unwrap();
    assert!(
        said.contains("note: an INSERT without a prefix goes to prefix staging")
            && said.contains("--default-prefix"),
        "{said}"
    );
}
