//! Server-Sent Events: `GET /events`.

use std::thread;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::position::forged;
use super::{insert, last, on_each_database, publish_numbers, serve, state, with_rules};
use crate::support::{
    Authority, Database, Event, Events, Server, Wire, begin, get, postgres, request, server, tablecast, until,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// `stream=a&stream=b`.
fn named(streams: &[&str]) -> String {
    streams.iter().map(|name| format!("stream={}", encoded(name))).collect::<Vec<_>>().join("&")
}

/// `identifier=…`.
fn identified(identifiers: &[&str]) -> String {
    identifiers.iter().map(|name| format!("identifier={}", encoded(name))).collect::<Vec<_>>().join("&")
}

fn listen(server: &Server, streams: &[&str]) -> Events {
    let mut events = Events::open(server.public, &named(streams), &[]);
    events.up_to_date();
    events
}

/// Comes back as a browser does.
fn back(server: &Server, streams: &[&str], id: &str) -> Events {
    Events::open(server.public, &named(streams), &[("Last-Event-ID", id)])
}

fn expect(events: &mut Events, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        assert_eq!(events.message(), number.to_string());
    }
}

/// What comes next is a position: there was nothing else to give.
fn is_up_to_date(events: &mut Events) {
    events.up_to_date();
}

/// It is told that it can't go on.
fn is_reset(events: &mut Events, reason: &str) {
    let event = events.with_data().expect("it ended");
    assert_eq!(event.name.as_deref(), Some("reset"), "{event:?}");
    assert_eq!(event.data, Some(json!({ "reason": reason }).to_string()));
    assert!(event.id.is_some());
}

#[test]
fn what_was_published_comes_as_events_with_positions() {
    let server = with_rules().start();
    let mut events = Events::open(server.public, "stream=s", &[]);
    assert!(events.head.starts_with("HTTP/1.1 200 "), "{}", events.head);
    assert_eq!(events.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(events.header("x-accel-buffering"), Some("no"));
    assert_eq!(events.header("content-encoding"), None);
    let first = events.event().unwrap();
    assert_eq!(first, Event { retry: Some("2000".into()), ..Event::default() });
    let start = events.up_to_date();

    let mut ids = vec![start];
    for data in ["{\"a\": [1, 2.50, 123456789012345678901234567890]}", "\"line\\nbreak \u{2028} é\"", "null"]
    {
        server.insert("s", data);
        let event = events.with_data().unwrap();
        assert_eq!(event.data.as_deref(), Some(data));
        assert_eq!(event.name, None);
        ids.push(event.id.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 4, "each is another one: {ids:?}");
    // A line break between tokens is a space.
    server.insert("s", "[1,\r\n2,\n3]");
    assert_eq!(events.message(), "[1,  2, 3]");
}

#[test]
fn several_streams_have_one_position_and_come_in_the_order_of_the_table() {
    let server = with_rules().start();
    let streams = ["a", "b", "c:ü&="];
    let mut events = listen(&server, &streams);
    let publish = |numbers: std::ops::Range<u32>| {
        server.publish_all(numbers.map(|n| (streams[n as usize % 3], json!(n))));
        server.publish_all([("another", json!(99))]);
    };
    publish(0..6);
    expect(&mut events, 0..6);
    let last_id = events.last_id.clone();
    drop(events);

    publish(6..12);
    let mut events = back(&server, &streams, &last_id);
    expect(&mut events, 6..9);
    let halfway = events.last_id.clone();
    expect(&mut events, 9..12);
    is_up_to_date(&mut events);
    publish(12..15);
    expect(&mut events, 12..15);

    for name in ["last-event-id", "last_event_id", "from"] {
        let query = format!("{}&{name}={halfway}", named(&streams));
        let mut events = Events::open(server.public, &query, &[]);
        expect(&mut events, 9..15);
        is_up_to_date(&mut events);
        // What a browser says itself is newer than the page's address.
        let mut events = Events::open(server.public, &query, &[("Last-Event-ID", &last_id)]);
        expect(&mut events, 6..15);
        is_up_to_date(&mut events);
    }
    // Who asks for one of them goes on in that one.
    let mut events = back(&server, &["b"], &halfway);
    expect(&mut events, [10, 13]);
    is_up_to_date(&mut events);
    assert_eq!(server.resumes("resumed"), 8.0);
}

#[test]
fn a_stream_that_is_named_twice_comes_once() {
    let server = with_rules().start();
    let query = format!("{}&{}", named(&["log:1", "log:1"]), identified(&[&super::events(1)]));
    let mut events = Events::open(server.public, &query, &[]);
    events.up_to_date();
    publish_numbers(&server, "log:1", 1..=2);
    expect(&mut events, 1..=2);
}

#[test]
fn newcomers_are_given_what_their_rules_say_in_the_order_of_the_table() {
    let server = with_rules().start();
    publish_numbers(&server, "state:1", 1..=2);
    publish_numbers(&server, "log:1", 3..=6);
    publish_numbers(&server, "state:1", 7..=8);
    publish_numbers(&server, "log:1", 9..=9);
    publish_numbers(&server, "plain", 10..=12);
    let query = format!("{}&stream=plain", identified(&[&state(1), &last(1)]));
    let mut events = Events::open(server.public, &query, &[]);
    expect(&mut events, [5, 6]);
    let halfway = events.last_id.clone();
    expect(&mut events, [8, 9]);
    is_up_to_date(&mut events);

    // In the midst of what it was given it is gone, and comes back.
    let mut events = Events::open(server.public, &query, &[("Last-Event-ID", &halfway)]);
    expect(&mut events, [8, 9]);
    is_up_to_date(&mut events);
    // It goes on where it is: of the state it gets the latest alone.
    let at = events.last_id.clone();
    publish_numbers(&server, "state:1", 13..=15);
    publish_numbers(&server, "log:1", 16..=17);
    expect(&mut events, 13..=17);
    let mut events = Events::open(server.public, &query, &[("Last-Event-ID", &at)]);
    expect(&mut events, 15..=17);
    is_up_to_date(&mut events);
}

/// As many as a response may be given in all: the newest of each.
#[test]
fn a_newcomer_to_many_streams_is_given_fewer_of_each() {
    let server = with_rules().arg("--max-replay=4").start();
    for n in 1..=3 {
        for stream in ["log:1", "log:2", "state:1"] {
            publish_numbers(&server, stream, [n]);
        }
    }
    for (identifiers, expected) in [
        (vec![last(1)], vec![1, 2, 3]),
        (vec![last(1), last(2)], vec![2, 2, 3, 3]),
        (vec![last(1), last(2), state(1)], vec![3, 3, 3]),
    ] {
        let identifiers: Vec<&str> = identifiers.iter().map(String::as_str).collect();
        let mut events = Events::open(server.public, &identified(&identifiers), &[]);
        expect(&mut events, expected);
        is_up_to_date(&mut events);
    }
}

#[test]
fn who_cannot_go_on_is_told_so_and_is_a_newcomer_then() {
    let server = with_rules().arg("--max-replay=5").start();
    let elsewhere = with_rules().start();
    let mut foreign = listen(&elsewhere, &["log:1"]);
    elsewhere.insert("log:1", "1");
    foreign.message();
    publish_numbers(&server, "log:1", 1..=4);
    let first = listen(&server, &["log:1"]);
    publish_numbers(&server, "log:1", 5..=10);
    super::caught_up(&server);

    let ahead = forged(&first.last_id, |_, high| *high += 1000);
    let old = forged(&first.last_id, |time, _| *time -= 90_000);
    for (id, reason) in [
        ("garbage", "position_malformed"),
        ("none", "position_too_many_gaps"),
        (&first.last_id[..first.last_id.len() - 1], "position_malformed"),
        (&foreign.last_id, "position_another_history"),
        (&ahead, "position_ahead"),
        (&old, "position_too_old"),
        (&first.last_id, "max_replay"),
    ] {
        let before = server.resumes(reason);
        let query = identified(&[&last(1)]);
        let mut events = Events::open(server.public, &query, &[("Last-Event-ID", id)]);
        is_reset(&mut events, reason);
        let with_reset = events.last_id.clone();
        expect(&mut events, 8..=10);
        is_up_to_date(&mut events);
        assert_eq!(server.resumes(reason), before + 1.0);
        // That is a position as good as others.
        let mut events = Events::open(server.public, &query, &[("Last-Event-ID", &with_reset)]);
        expect(&mut events, 8..=10);
        is_up_to_date(&mut events);
    }
    // No position is none: it is new.
    let query = identified(&[&last(1)]);
    let mut events = Events::open(server.public, &query, &[("Last-Event-ID", "")]);
    expect(&mut events, 8..=10);
    is_up_to_date(&mut events);
}

fn who_comes_back_gets_what_it_missed_and_no_more(database: &Database) {
    let server = serve(database).start();
    let second = with_rules().database_url(&database.url()).start();
    let mut events = listen(&server, &["a", "b"]);
    let (late, later) = (database.begin(&insert("a", 1)), database.begin(&insert("b", 2)));
    database.sql(&insert("a", 3));
    expect(&mut events, [3]);
    late.commit();
    expect(&mut events, [1]);
    let id = events.last_id.clone();
    drop(events);
    later.commit();
    database.sql(&insert("b", 4));

    let server = server.again();
    for server in [&server, &second] {
        let mut events = back(server, &["a", "b"], &id);
        expect(&mut events, [2]);
        let halfway = events.last_id.clone();
        expect(&mut events, [4]);
        is_up_to_date(&mut events);
        let mut events = back(server, &["a", "b"], &halfway);
        expect(&mut events, [4]);
        is_up_to_date(&mut events);
    }
}

on_each_database!(who_comes_back_gets_what_it_missed_and_no_more);

#[test]
fn another_history_ends_it_and_is_told_when_it_comes_back() {
    let server = with_rules().start();
    let mut events = listen(&server, &["s"]);
    server.insert("s", "1");
    expect(&mut events, [1]);
    let table = server.sql("SELECT sql FROM sqlite_master WHERE name = 'solid_cable_messages'");

    server.sql(&format!("DROP TABLE solid_cable_messages; {table}"));
    assert_eq!(events.event(), None, "it ends");

    let mut events = back(&server, &["s"], &events.last_id);
    is_reset(&mut events, "position_another_history");
    is_up_to_date(&mut events);
    server.insert("s", "2");
    expect(&mut events, [2]);
}

#[test]
fn who_may_not_listen_is_told_so_with_a_status() {
    let rules = "[[channel]]\nname = \"MineChannel\"\nstream = \"mine:{user.id}\"\nallow = \"identified\"\n";
    let server =
        server().config(rules).arg("--public-streams=open:*").arg(&format!("--jwt-key={SECRET}")).start();
    let mine = identified(&[r#"{"channel":"MineChannel"}"#]);

    let refused = Events::try_open(server.public, &mine, &[]);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));

    let token = token(&[r#"{"id":7}"#]);
    let bearer = format!("Bearer {token}");
    let authorized = [("Authorization", bearer.as_str())];
    for query in [format!("{mine}&jid={token}"), format!("{mine}&token={token}"), mine.clone()] {
        let mut events = Events::open(server.public, &query, &authorized);
        events.up_to_date();
        server.insert("mine:7", "1");
        expect(&mut events, [1]);
    }
    for query in [
        "stream=closed".to_owned(),
        named(&["open:1", "closed"]),
        "stream=".into(),
        named(&["action_cable/x"]),
        identified(&[r#"{"channel":"NoSuchChannel"}"#]),
        named(&[&"x".repeat(2000)]),
        identified(&[&format!(r#"{{"channel":"{}"}}"#, "x".repeat(5000))]),
    ] {
        let refused = Events::try_open(server.public, &query, &authorized);
        assert_eq!(refused.status, 403, "{query}");
        assert!(!refused.body().contains("NoSuchChannel"));
    }
}

fn token(arguments: &[&str]) -> String {
    let output =
        tablecast().arg("token").arg(format!("--jwt-key={SECRET}")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_cannot_be_read_is_a_bad_request() {
    let server = with_rules().arg("--max-subscriptions=3").start();
    for query in [
        "",
        "x=1",
        "stream=s&unknown=1",
        "stream=s&from=a&from=b",
        "stream=s&from=a&last-event-id=b",
        "stream=%ff",
        "identifier=nonsense",
        "identifier=%5B1%5D",
    ] {
        let refused = Events::try_open(server.public, query, &[]);
        assert_eq!(refused.status, 400, "{query}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{query}");
    }
    let refused = Events::try_open(server.public, "stream=s&unknown=1", &[]);
    assert!(refused.body().contains("unknown"));
    assert_eq!(Events::try_open(server.public, &named(&["a", "b", "c", "d"]), &[]).status, 403);
    for method in ["POST", "PUT", "DELETE"] {
        let refused = request(server.public, method, "/events?stream=s", &[], b"");
        refused.problem(405);
        assert_eq!(refused.header("allow"), Some("GET, OPTIONS"));
    }
}

#[test]
fn pages_of_other_origins_are_let_in_where_they_are_listed() {
    let ask =
        |server: &Server, headers: &[(&str, &str)]| Events::try_open(server.public, "stream=s", headers);
    let listed = server().open().arg("--allowed-origins=https://*.example.com").start();
    let own = format!("http://{}", listed.public);

    for allowed in [own.as_str(), "https://app.example.com"] {
        let answer = ask(&listed, &[("Origin", allowed)]);
        assert_eq!(answer.status, 200, "{allowed}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(allowed));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    // A browser names none where the page is ours, nor do scripts.
    for headers in [&[][..], &[("Sec-Fetch-Site", "same-origin")]] {
        let answer = ask(&listed, headers);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let foreign: [&[(&str, &str)]; 5] = [
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Origin", "https://app.example.com"), ("Origin", "https://evil.example")],
    ];
    for headers in foreign {
        let answer = ask(&listed, headers);
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        assert!(answer.body().contains("--allowed-origins"));
    }
    assert_eq!(listed.refused("origin"), 5.0);

    let preflight = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "last-event-id, authorization"),
    ];
    let answer = request(listed.public, "OPTIONS", "/events?stream=s", &preflight, b"");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET"));
    let headers = answer.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("last-event-id") && headers.contains("authorization"), "{headers}");
    let answer = request(listed.public, "OPTIONS", "/events", &[("Origin", "https://evil.example")], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));

    let any = server().open().arg("--allowed-origins=*").start();
    let answer = ask(&any, &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")]);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    // An error too can be read by the page.
    let answer = request(any.public, "GET", "/events", &[("Origin", "https://evil.example")], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (400, Some("*")));
}

/// A browser gives up for good on any other status.
#[test]
fn what_passes_is_said_by_an_answer_that_ends() {
    let is_to_come_back = |mut events: Events| {
        let retry = events.event().unwrap();
        assert_eq!(retry, Event { retry: Some("2000".into()), ..Event::default() });
        assert_eq!(events.event(), None, "it ends");
    };
    let limited = server().open().arg("--handshake-rate=1").start();
    let mut within = Events::open(limited.public, "stream=s", &[]);
    within.up_to_date();
    let mut refused = 0;
    while refused < 1 {
        let events = Events::open(limited.public, "stream=s", &[]);
        if limited.refused("handshake_rate") > f64::from(refused) {
            is_to_come_back(events);
            refused += 1;
        }
    }

    let mut draining = server().open().arg("--drain-timeout=3s").start();
    let mut open = listen(&draining, &["s"]);
    // Who doesn't answer the Close holds the drain.
    let mut holding = draining.connect();
    draining.signal("TERM");
    assert_eq!(open.event(), None, "it ends in order");
    assert!(holding.text().contains("server_restart"));
    is_to_come_back(Events::open(draining.public, "stream=s", &[]));
    assert_eq!(draining.refused("draining"), 1.0);
    assert_eq!(draining.wait().code(), Some(0));
}

#[test]
fn a_name_has_as_many_as_it_may_of_both_kinds_together() {
    let server =
        server().open().arg(&format!("--jwt-key={SECRET}")).arg("--max-connections-per-user=1").start();
    let query = format!("stream=s&jid={}", token(&[r#"{"id":7}"#]));
    let mut first = Events::open(server.public, &query, &[]);
    first.up_to_date();
    let mut second = Events::open(server.public, &query, &[]);
    assert_eq!(second.event().unwrap().retry.as_deref(), Some("2000"));
    assert_eq!(second.event(), None);
    assert_eq!(server.refused("max_connections_per_user"), 1.0);

    drop(first);
    until("it is forgotten", || server.metric("tablecast_connections") == 0.0);
    Events::open(server.public, &query, &[]).up_to_date();
}

#[test]
fn an_identity_that_ends_ends_it() {
    let server = server().open().arg(&format!("--jwt-key={SECRET}")).arg("--jwt-leeway=0s").start();
    let query = format!("stream=s&jid={}", token(&["--expires=4s", r#"{"id":7}"#]));
    let mut events = Events::open(server.public, &query, &[]);
    events.up_to_date();
    assert_eq!(events.with_data(), None);
    assert_eq!(Events::try_open(server.public, &query, &[]).status, 401);
}

#[test]
fn the_application_ends_them_too() {
    let server = server().open().arg(&format!("--jwt-key={SECRET}")).start();
    let listen = |arguments: &[&str]| {
        let mut events = Events::open(server.public, &format!("stream=s&jid={}", token(arguments)), &[]);
        events.up_to_date();
        events
    };
    let mut events = listen(&["--anycable", r#"{"user_id":"1"}"#]);
    let mut other = listen(&["{}"]);
    let body = json!({ "identifier": r#"{"user_id":"1"}"# }).to_string();
    let json = [("Content-Type", "application/json")];
    assert_eq!(request(server.internal, "POST", "/disconnect", &json, body.as_bytes()).status, 201);
    assert_eq!(events.with_data(), None);
    server.insert("s", "1");
    expect(&mut other, [1]);
}

fn large(n: u32) -> serde_json::Value {
    json!([n, "x".repeat(10_000)])
}

#[test]
fn a_slow_reader_skips_to_the_latest_state_and_is_ended_where_events_count() {
    let server = with_rules().arg("--send-buffer-bytes=128KiB").start();
    let open = |query: &str| {
        let wire = Wire::narrow(server.public);
        Events::try_open_over(wire, server.public, &format!("/events?{query}"), &[])
    };
    let mut of_state = open(&identified(&[&state(1)]));
    let mut of_events = open(&named(&["log:1"]));
    of_state.up_to_date();
    let start = of_events.up_to_date();

    let numbers: Vec<u32> = (0..300).collect();
    for some in numbers.chunks(20) {
        server.publish_all(some.iter().flat_map(|n| [("state:1", large(*n)), ("log:1", large(*n))]));
    }
    until("the one is ended", || server.closed("disconnected") == 1.0);

    let mut came = 0;
    let latest = large(299).to_string();
    while of_state.message() != latest {
        came += 1;
    }
    assert!(came < 299, "all came to who could have had a few");
    server.insert("state:1", "1");
    expect(&mut of_state, [1]);

    // What it has is a run, and it goes on behind it.
    let mut next = 0;
    while let Some(event) = of_events.with_data() {
        assert_eq!(event.data, Some(large(next).to_string()));
        next += 1;
    }
    assert!(next < 300);
    assert!(next > 0 || of_events.last_id == start);
    let mut events = back(&server, &["log:1"], &of_events.last_id);
    for n in next..300 {
        assert_eq!(events.message(), large(n).to_string());
    }
    is_up_to_date(&mut events);
}

#[test]
fn what_was_missed_comes_through_a_small_buffer_and_what_is_new_behind_it() {
    let server = with_rules().arg("--send-buffer-bytes=64KiB").start();
    let first = listen(&server, &["log:1"]);
    server.publish_all((0..500).map(|n| ("log:1", large(n))));
    super::caught_up(&server);
    let wire = Wire::narrow(server.public);
    let headers = [("Last-Event-ID", first.last_id.as_str())];
    let mut events =
        Events::try_open_over(wire, server.public, "/events?stream=log:1&stream=log:2", &headers);
    assert_eq!(events.message(), large(0).to_string());
    publish_numbers(&server, "log:2", 1000..1020);
    super::caught_up(&server);
    for n in 1..500 {
        assert_eq!(events.message(), large(n).to_string());
    }
    expect(&mut events, 1000..1020);
}

/// `EventSource` calls `onopen` then: a page may begin its job there.
#[test]
fn what_commits_after_the_response_has_begun_is_never_missed() {
    let server = with_rules().start();
    for round in 0..50 {
        let query = format!("{}&stream=s{round}", identified(&[&state(round), &last(round)]));
        let mut events = Events::open(server.public, &query, &[]);
        server.publish_all(
            [format!("s{round}"), format!("state:{round}"), format!("log:{round}")]
                .iter()
                .map(|stream| (stream.as_str(), json!(round))),
        );
        expect(&mut events, [round; 3]);
    }
}

#[test]
fn while_the_database_is_away_it_is_to_come_back() {
    let mut postgres = postgres::server().start();
    let database = postgres.database();
    let server = serve(&database).start();
    let mut open = listen(&server, &["s"]);
    database.sql(&insert("s", 1));
    expect(&mut open, [1]);
    postgres.stop();
    until("it says so", || get(server.public, "/ready").status == 503);

    let id = open.last_id.clone();
    let mut late = back(&server, &["s"], &id);
    assert_eq!(late.event().unwrap().retry.as_deref(), Some("2000"));
    assert_eq!(late.event(), None);
    get(server.internal, "/position").problem(503);
    get(server.public, "/history?stream=s").problem(503);
    postgres.start_again();

    database.sql(&insert("s", 2));
    // Who was there stays, and who comes back has missed nothing.
    expect(&mut open, [2]);
    until("it follows", || get(server.public, "/ready").status == 200);
    let mut late = back(&server, &["s"], &id);
    expect(&mut late, [2]);
    late.up_to_date();
    assert_eq!(server.metric("tablecast_subscriptions"), 2.0, "who was sent away has left nothing behind");
    database.sql(&insert("s", 3));
    expect(&mut open, [3]);
    expect(&mut late, [3]);
}

#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let server = with_rules().start();
    let events = listen(&server, &["a", "b"]);
    assert_eq!(server.metric("tablecast_connections"), 1.0);
    assert_eq!(server.metric("tablecast_subscriptions"), 2.0);
    drop(events);
    until("it is forgotten", || {
        server.metric("tablecast_connections") == 0.0 && server.metric("tablecast_subscriptions") == 0.0
    });
    // Also one that goes before the past could be read.
    let lock = begin(&server.database(), "");
    drop(Events::open(server.public, "stream=a&from=x", &[]));
    drop(lock);
    until("it is forgotten", || server.metric("tablecast_subscriptions") == 0.0);
}

#[test]
fn it_works_over_tls_and_through_a_prefix() {
    let authority = Authority::new();
    let server = with_rules().with_prefix("staging").with_tls(&authority.issue()).start();
    let open = |id: Option<&str>| {
        let headers: Vec<_> = id.into_iter().map(|id| ("Last-Event-ID", id)).collect();
        let wire = Wire::tls(server.public, authority.client());
        let mut events = Events::try_open_over(wire, server.public, "/events?stream=s", &headers);
        assert_eq!(events.status, 200);
        assert_eq!(events.event().unwrap().retry.as_deref(), Some("2000"));
        events
    };
    let publish = |prefix: &str, data: u32| {
        server.sql(&format!(
            "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '{data}', '{prefix}')"
        ));
    };
    let mut events = open(None);
    events.up_to_date();
    publish("production", 1);
    publish("staging", 2);
    expect(&mut events, [2]);
    let id = events.last_id.clone();
    drop(events);
    publish("staging", 3);
    publish("production", 4);
    publish("staging", 5);
    let mut events = open(Some(&id));
    expect(&mut events, [3, 5]);
    is_up_to_date(&mut events);
}

/// It is as if the line were slow: nothing is lost that was published meanwhile.
#[test]
fn many_that_come_and_go_while_messages_are_published_see_each_once() {
    const COUNT: u32 = 300;
    let server = with_rules().start();
    thread::scope(|scope| {
        for client in 0..10u64 {
            let server = &server;
            scope.spawn(move || {
                let mut id = listen(server, &["a", "b"]).last_id;
                let mut next = None;
                let mut drops = 0;
                while next != Some(COUNT) {
                    let mut events = back(server, &["a", "b"], &id);
                    // As much as it can before it is gone again.
                    for _ in 0..(client * 7 + drops * 5) % 23 + 1 {
                        let Some(event) = events.with_data() else { break };
                        let n: u32 = event.data.unwrap().parse().unwrap();
                        assert!(next.is_none_or(|next| n == next), "{n} instead of {next:?}");
                        next = Some(n + 1);
                        id.clone_from(&events.last_id);
                        if next == Some(COUNT) {
                            break;
                        }
                    }
                    drops += 1;
                }
            });
        }
        until("all have come", || server.metric("tablecast_subscriptions") >= 20.0);
        for n in 0..COUNT {
            server.publish_all([(["a", "b"][n as usize % 2], json!(n))]);
            thread::sleep(Duration::from_millis(1));
        }
    });
}
