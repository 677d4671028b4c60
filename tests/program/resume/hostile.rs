//! Positions that nobody has given out: whatever is sent, it is refused or bounded, counted, and nobody else
//! notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::position::{Parts, forged};
use super::{
    Has, confirmed, events, expect, history_command, message, publish_numbers, rejected, subscribe_with,
    with_rules,
};
use crate::support::{Events, Frame, PATIENCE, Server, get};

/// Runs something beside a client that is well-behaved, and gets each message as it should.
fn beside_a_client<T>(server: &Server, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let mut beside = [server.connect(), server.connect_extended()];
    for socket in &mut beside {
        socket.subscribe(&events(7));
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_last = false;
            for n in 0.. {
                publish_numbers(server, "log:7", [n]);
                assert_eq!(beside[0].message(&events(7)), n.to_string());
                assert_eq!(message(&mut beside[1], &events(7)).0, json!(n));
                if std::mem::replace(&mut is_last, is_over.load(Relaxed)) {
                    break;
                }
            }
        });
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _over = Over(&is_over);
        work()
    })
}

/// One message more than a client has.
fn who_missed_one(server: &Server) -> Has {
    let mut socket = server.connect_extended();
    socket.subscribe(&events(1));
    publish_numbers(server, "log:1", [1]);
    let has = expect(&mut socket, &events(1), [1]);
    publish_numbers(server, "log:1", [2]);
    has
}

/// The status that a request gets, however large; none where the connection just ends.
fn status(server: &Server, public: bool, head: &str) -> Option<u16> {
    let address = if public { server.public } else { server.internal };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

#[test]
fn positions_of_many_megabytes_are_refused_before_they_are_read() {
    let server = with_rules().start();
    let huge = "a".repeat(10 << 20);
    beside_a_client(&server, || {
        for command in ["subscribe", "history"] {
            let mut socket = server.connect_extended();
            let history = json!({ "streams": { "x": { "epoch": huge } } });
            let command = json!({ "command": command, "identifier": events(1), "history": history });
            socket.send(&command.to_string());
            assert!(matches!(socket.next(), Frame::Close(1009, _)));
        }
        let host = format!("Host: {}\r\nConnection: close\r\n", server.public);
        for path in ["/events?stream=s", "/history?stream=s", "/position?"] {
            let header =
                status(&server, true, &format!("GET {path} HTTP/1.1\r\n{host}Last-Event-ID: {huge}\r\n\r\n"));
            assert!(matches!(header, None | Some(431)), "{path}: {header:?}");
            let query = status(&server, true, &format!("GET {path}&from={huge} HTTP/1.1\r\n{host}\r\n"));
            assert!(matches!(query, None | Some(414 | 431)), "{path}: {query:?}");
        }
        let query =
            status(&server, false, &format!("GET /history?stream=s&from={huge} HTTP/1.1\r\n{host}\r\n"));
        assert!(matches!(query, None | Some(414 | 431 | 421)), "{query:?}");
    });
    assert!(server.peak_memory() < 200 << 20, "{}", server.peak_memory());
}

#[test]
fn positions_as_long_as_a_request_may_be_are_none() {
    let server = with_rules().start();
    beside_a_client(&server, || {
        let has = who_missed_one(&server);
        let mut socket = server.connect_extended();
        for long in ["a".repeat(60_000), format!("a{}", "A".repeat(256)), "\u{1f980}".repeat(10_000)] {
            subscribe_with(&mut socket, &events(1), &has.with_epoch(&long).history());
            rejected(&mut socket, &events(1));
            socket.command("unsubscribe", &events(1));
        }
        let long = "a".repeat(7_000);
        let headers = [("Last-Event-ID", long.as_str())];
        for mut events in [
            Events::open(server.public, "stream=s", &headers),
            Events::open(server.public, &format!("stream=s&from={long}"), &[]),
        ] {
            let reset = events.with_data().unwrap();
            assert_eq!(reset.name.as_deref(), Some("reset"));
            events.up_to_date();
        }
        get(server.internal, &format!("/history?stream=s&from={long}")).problem(400);
    });
    assert_eq!(server.resumes("position_malformed"), 5.0);
}

#[test]
fn bytes_that_are_no_text_are_no_position() {
    let server = with_rules().start();
    let head = format!("GET /events?stream=s HTTP/1.1\r\nHost: {}\r\n", server.public);
    let mut stream = TcpStream::connect(server.public).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[head.as_bytes(), b"Last-Event-ID: a\xff\xfe\r\n\r\n"].concat()).unwrap();
    let mut came = String::new();
    while !came.contains("event: reset") {
        let mut some = [0; 1000];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "{came}");
        came.push_str(&String::from_utf8_lossy(&some[..count]));
    }
    assert!(came.contains("position_malformed"));
}

/// A client that claims to lack what it has gets that again, from a stream that it may listen to, and no more
/// than anybody may be given.
#[test]
fn forged_lists_of_gaps_get_no_more_than_the_streams_own_messages() {
    let server = with_rules().arg("--max-replay=100").start();
    for n in 0..40 {
        publish_numbers(&server, "log:1", [n]);
        publish_numbers(&server, "secret", [n]);
    }
    let mut socket = server.connect_extended();
    socket.subscribe(&events(1));
    publish_numbers(&server, "log:1", [40]);
    let has = message(&mut socket, &events(1)).1;
    let good = Parts::of(&has.epoch);

    beside_a_client(&server, || {
        let with_gaps = |gaps: Vec<u64>| Parts { gaps, ..good.clone() }.word();
        let everything = forged(&has.epoch, |_, high| *high = 0);
        let all_below = with_gaps(vec![1, good.high - 2]);
        let each_second = with_gaps([2, 0].repeat(35));
        let mut socket = server.connect_extended();
        for word in [&everything, &all_below, &each_second] {
            subscribe_with(&mut socket, &events(1), &has.with_epoch(word).history());
            let mut came = 0;
            loop {
                let json = socket.json();
                if json["type"] == "confirm_history" {
                    break;
                }
                assert_eq!(json["identifier"], json!(events(1)));
                came += 1;
            }
            assert!((30..=41).contains(&came), "{came}");
            socket.command("unsubscribe", &events(1));

            let mut events = Events::open(server.public, &format!("stream=log:1&from={word}"), &[]);
            for _ in 0..came {
                assert_eq!(events.with_data().unwrap().name, None);
            }
            events.up_to_date();
            assert_eq!(get(server.internal, &format!("/history?stream=log:1&from={word}")).status, 200);
        }

        let before = server.resumes("position_malformed");
        let malformed = [
            with_gaps(vec![0]),
            with_gaps(vec![1, good.high]),
            with_gaps(vec![1, u64::MAX]),
            with_gaps(vec![i64::MAX as u64, 0]),
            with_gaps(vec![i64::MAX as u64, i64::MAX as u64]),
            with_gaps(vec![good.high + 5, 0]),
            with_gaps(vec![2, 0, 1, 0]),
            with_gaps(vec![2, 0, 0, 0]),
            with_gaps(vec![2, 3, i64::MAX as u64, 1]),
            with_gaps([2, 0].repeat(2000)),
            Parts { high: u64::MAX, ..good.clone() }.word(),
            Parts { time: u64::MAX, ..good.clone() }.word(),
        ];
        for word in &malformed {
            subscribe_with(&mut socket, &events(1), &has.with_epoch(word).history());
            rejected(&mut socket, &events(1));
            socket.command("unsubscribe", &events(1));
        }
        assert_eq!(server.resumes("position_malformed"), before + malformed.len() as f64);
    });
}

/// Each gap may lie far from the others, so that each is looked for.
#[test]
fn gaps_over_a_long_table_cost_no_more_than_they_are() {
    let server = with_rules().start();
    server.sql(
        "INSERT INTO tablecast_publish (stream, data)
         WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 50000)
         SELECT 'log:' || (n % 2 + 1), n FROM n",
    );
    super::caught_up(&server);
    let mut socket = server.connect_extended();
    socket.subscribe(&events(1));
    publish_numbers(&server, "log:1", [1]);
    let has = expect(&mut socket, &events(1), [1]);
    drop(socket);
    let good = Parts::of(&has.epoch);
    let word = Parts { gaps: [700, 0].repeat(55), ..good }.word();
    assert!(word.len() <= 256, "{}", word.len());

    beside_a_client(&server, || {
        let mut sockets: Vec<_> = (0..20).map(|_| server.connect_extended()).collect();
        for socket in &mut sockets {
            subscribe_with(socket, &events(1), &has.with_epoch(&word).history());
        }
        for socket in &mut sockets {
            let mut came = 0;
            while socket.json()["type"] != "confirm_history" {
                came += 1;
            }
            assert!(came <= 55, "{came}");
        }
    });
}

#[test]
fn a_thousand_streams_at_once_are_answered_or_refused() {
    let server = with_rules().start();
    let has = who_missed_one(&server);
    let thousand = |with: Option<&Has>| -> Value {
        let mut streams: Map<String, Value> =
            (0..1000).map(|n| (format!("{n:08}"), json!({ "epoch": "x", "offset": n }))).collect();
        if let Some(has) = with {
            streams.insert(has.stream_id.clone(), json!({ "epoch": has.epoch, "offset": has.offset }));
        }
        json!({ "since": 7, "streams": streams })
    };
    beside_a_client(&server, || {
        let mut socket = server.connect_extended();
        subscribe_with(&mut socket, &events(1), &thousand(None));
        rejected(&mut socket, &events(1));
        history_command(&mut socket, &events(1), &thousand(Some(&has)));
        expect(&mut socket, &events(1), [2]);
        confirmed(&mut socket, &events(1));
        // Many at once are answered by one.
        for _ in 0..200 {
            history_command(&mut socket, &events(1), &has.history());
        }
        socket.subscribe_among(&events(2), |json| {
            assert!(json["message"] == 2 || json["type"] == "confirm_history", "{json}");
        });

        let streams = |count: usize| (0..count).map(|n| format!("stream={n}")).collect::<Vec<_>>().join("&");
        let refused = Events::try_open(server.public, &streams(1000), &[]);
        assert_eq!(refused.status, 414);
        let mut many = Events::open(server.public, &format!("{}&from=x", streams(700)), &[]);
        assert_eq!(many.with_data().unwrap().name.as_deref(), Some("reset"));
        many.up_to_date();
        publish_numbers(&server, "699", [1]);
        assert_eq!(many.message(), "1");
        let mut again = Events::open(server.public, &format!("{}&from={}", streams(700), has.epoch), &[]);
        assert_eq!(again.message(), "1");
        again.up_to_date();
        get(server.internal, &format!("/history?{}", streams(700))).problem(400);
    });
    assert!(server.peak_memory() < 200 << 20, "{}", server.peak_memory());
}

/// Who comes and goes in haste, with a position or as a newcomer.
#[test]
fn comings_and_goings_in_haste_leave_nobody_waiting() {
    let server = with_rules().arg("--rate-limit=100000").arg("--rate-burst=100000").start();
    let has = who_missed_one(&server);
    publish_numbers(&server, "state:1", [1]);
    beside_a_client(&server, || {
        let mut socket = server.connect_extended();
        for n in 0..500u32 {
            let identifier = if n % 2 == 0 { super::state(1) } else { super::state(1000 + n) };
            let subscribe = |identifier: &str, history: Value| {
                json!({ "command": "subscribe", "identifier": identifier, "history": history }).to_string()
            };
            let of_state = Has { stream_id: stream_id_of(&identifier), ..has.clone() };
            socket.send(&subscribe(&identifier, json!({})));
            history_command(&mut socket, &identifier, &of_state.history());
            socket.command("unsubscribe", &identifier);
            socket.send(&subscribe(&events(1), has.history()));
            history_command(&mut socket, &events(1), &has.history());
            socket.command("unsubscribe", &events(1));
        }
        socket.subscribe_among(&events(2), |_| ());
        publish_numbers(&server, "log:2", [1]);
        loop {
            let json = socket.json();
            if json["identifier"] == json!(events(2)) {
                assert_eq!(json["message"], 1);
                break;
            }
        }
    });
    // Newcomers are still served.
    let mut socket = server.connect();
    socket.subscribe(&super::state(1));
    assert_eq!(socket.message(&super::state(1)), "1");
}

/// As a server makes it: the first six bytes of the identifier's SHA-256.
fn stream_id_of(identifier: &str) -> String {
    let digest = digest(&SHA256, identifier.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..6])
}
