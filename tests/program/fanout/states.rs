//! Of a state stream the latest message counts, and no other has to be kept for who is slow.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Frame, Server, Socket, server, until};

const CHANNELS: &str = r#"
[[channel]]
name = "GaugeChannel"
stream = "gauge:{id}"
allow = "public"
state = true

[[channel]]
name = "LogChannel"
stream = "log"
allow = "public"
"#;

const LOG: &str = r#"{"channel":"LogChannel"}"#;
const COUNT: u64 = 300;

fn gauge(id: u32) -> String {
    json!({ "channel": "GaugeChannel", "id": id }).to_string()
}

/// Less than a tenth of what is published fits in its queues.
fn start() -> Server {
    server().config(CHANNELS).arg("--send-buffer-bytes=128KiB").start()
}

fn numbered(n: u64) -> Value {
    json!([n, "x".repeat(10_000)])
}

/// Publishes so many to each of the streams, some at a time, and waits until they are queued or refused.
fn flood(server: &Server, streams: &[&str]) {
    let offered = || {
        let of = |result| server.metric(&format!("tablecast_deliveries_total{{result=\"{result}\"}}"));
        of("queued") + of("slow_consumer")
    };
    let before = offered();
    let numbers: Vec<u64> = (0..COUNT).collect();
    for some in numbers.chunks(20) {
        server.publish_all(streams.iter().flat_map(|stream| some.iter().map(|n| (*stream, numbered(*n)))));
    }
    until("all are offered", || {
        offered() - before >= (COUNT * streams.len() as u64) as f64 || server.closed("disconnected") > 0.0
    });
}

/// Reads until it has the last of each of these, and gives how many came; fails where an older one
/// comes after a newer one.
fn read_to_the_latest(socket: &mut Socket, identifiers: &[String]) -> u64 {
    let mut latest = BTreeMap::new();
    let mut count = 0;
    while identifiers.iter().any(|identifier| latest.get(identifier) != Some(&(COUNT - 1))) {
        let message = socket.json();
        let (identifier, n) = (message["identifier"].as_str(), message["message"][0].as_u64());
        let (identifier, n) = (identifier.unwrap().to_owned(), n.unwrap());
        let before = latest.insert(identifier, n);
        assert!(before < Some(n), "{n} after {before:?}");
        count += 1;
    }
    count
}

#[test]
fn a_client_that_does_not_read_states_is_kept_and_finds_the_latest_of_each() {
    let server = start();
    let mut slow = server.connect_narrowly();
    let states = [gauge(1), gauge(2)];
    for state in &states {
        slow.subscribe(state);
    }

    flood(&server, &["gauge:1", "gauge:2"]);
    assert_eq!(server.closed("disconnected"), 0.0);

    let count = read_to_the_latest(&mut slow, &states);
    assert!(count < COUNT, "{count} of {} came to who could have had a few", 2 * COUNT);
    slow.nothing_else();
    server.publish_all([("gauge:2", json!("afterwards"))]);
    assert_eq!(slow.message(&gauge(2)), "\"afterwards\"");
}

#[test]
fn a_client_that_does_not_read_events_beside_its_states_is_disconnected() {
    let server = start();
    let mut slow = server.connect_narrowly();
    slow.subscribe(&gauge(1));
    slow.subscribe(LOG);
    flood(&server, &["gauge:1"]);
    assert_eq!(server.closed("disconnected"), 0.0);

    flood(&server, &["log"]);
    until("it is closed", || server.closed("disconnected") == 1.0);

    let last = loop {
        match slow.next() {
            Frame::Text(text) if text.starts_with(r#"{"identifier""#) => {}
            other => break other,
        }
    };
    let disconnect = r#"{"type":"disconnect","reason":"slow_consumer","reconnect":true}"#;
    assert_eq!(last, Frame::Text(disconnect.into()));
    assert_eq!(slow.next(), Frame::Close(1000, String::new()));
}
