//! Every limit has a default, a setting, and a word for whoever meets it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Frame, Server, Socket, begin, get, pubsub, request, server, until};

#[test]
fn subscriptions_over_the_limit_are_rejected() {
    let server = server().open().arg("--max-subscriptions=2").start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("a"));
    socket.subscribe(&pubsub("b"));
    socket.rejected(&pubsub("c"));
    socket.command("unsubscribe", &pubsub("a"));
    socket.subscribe(&pubsub("c"));
    assert_eq!(server.refused("max_subscriptions"), 1.0);
}

#[test]
fn commands_over_the_rate_end_the_connection_with_leave_to_return() {
    let server = server().open().arg("--rate-limit=1").arg("--rate-burst=10").start();
    let mut socket = server.connect();
    for _ in 0..10 {
        socket.nothing_else();
    }
    // More than come back meanwhile, one a second.
    for _ in 0..20 {
        socket.send("{}");
    }
    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"rate_limit","reconnect":true}"#);
    assert_eq!(socket.next(), Frame::Close(1000, String::new()));
    // Its answer is waited for, and ends it.
    assert_eq!(server.metric(r#"tablecast_connections_closed_total{reason="disconnected"}"#), 1.0);
    assert_eq!(server.refused("rate_limit"), 1.0);
    socket.close();
    assert_eq!(socket.next(), Frame::End);
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_harms_nobody() {
    let server = server().open().arg("--send-buffer-bytes=64KiB").start();
    let (slow, quick) = (server.connect(), server.connect());
    a_slow_client_is_disconnected_and_harms_nobody(&server, slow, quick);
}

/// Of a server with a buffer of 64 KiB.
pub fn a_slow_client_is_disconnected_and_harms_nobody(server: &Server, mut slow: Socket, mut quick: Socket) {
    slow.subscribe(&pubsub("s"));
    quick.subscribe(&pubsub("s"));
    let payload = format!("\"{}\"", "x".repeat(30_000));
    let body = format!(r#"{{"stream":"s","data":{payload}}}"#);

    let slow_count = || server.metric(r#"tablecast_connections_closed_total{reason="disconnected"}"#);
    for _ in 0..2000 {
        assert_eq!(server.publish(&body).status, 201);
        assert_eq!(quick.message(&pubsub("s")), payload);
        if slow_count() > 0.0 {
            break;
        }
    }
    assert_eq!(slow_count(), 1.0);

    // It reads at last: what was on its way, whole frames, and then why.
    let last = loop {
        match slow.next() {
            Frame::Text(text) if text.starts_with(r#"{"identifier""#) => assert!(text.ends_with("\"}")),
            other => break other,
        }
    };
    let disconnect = r#"{"type":"disconnect","reason":"slow_consumer","reconnect":true}"#;
    assert_eq!(last, Frame::Text(disconnect.into()));
    assert_eq!(slow.next(), Frame::Close(1000, String::new()));
    quick.nothing_else();
}

#[test]
fn the_largest_message_is_delivered() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let payload = format!("\"{}\"", "x".repeat((1 << 20) - 2));

    for _ in 0..3 {
        assert_eq!(server.publish(&format!(r#"{{"stream":"s","data":{payload}}}"#)).status, 201);
        assert_eq!(socket.message(&pubsub("s")), payload);
    }
    let larger = format!(r#"{{"stream":"s","data":"{}"}}"#, "x".repeat((1 << 20) - 1));
    assert!(server.publish(&larger).problem(413).contains("--max-payload-bytes"));
}

/// Twelve megabytes in one commit, through queues of one.
#[test]
fn a_burst_reaches_all_who_read() {
    let server = server().open().start();
    let mut sockets: Vec<Socket> = (0..8).map(|_| server.connect()).collect();
    for socket in &mut sockets {
        socket.subscribe(&pubsub("s"));
    }
    std::thread::scope(|scope| {
        for socket in &mut sockets {
            scope.spawn(|| {
                for n in 0..8000 {
                    let payload: (usize, String) =
                        serde_json::from_str(&socket.message(&pubsub("s"))).unwrap();
                    assert_eq!(payload.0, n);
                }
            });
        }
        server.sql(
            "INSERT INTO tablecast_publish (stream, data)
             WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 7999)
             SELECT 's', json_array(n, printf('%.1500c', 'x')) FROM n",
        );
    });
}

#[test]
fn a_stalled_client_does_not_hold_up_a_burst() {
    let server = server().open().start();
    let (mut stalled, mut quick) = (server.connect(), server.connect());
    stalled.subscribe(&pubsub("s"));
    quick.subscribe(&pubsub("s"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4 * 4000 {
                quick.message(&pubsub("s"));
            }
        });
        for _ in 0..4 {
            server.sql(
                "INSERT INTO tablecast_publish (stream, data)
                 WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 3999)
                 SELECT 's', json_array(n, printf('%.1500c', 'x')) FROM n",
            );
        }
    });
    until("the stalled one is gone", || {
        server.metric(r#"tablecast_connections_closed_total{reason="disconnected"}"#) == 1.0
    });
}

#[test]
fn identifiers_over_the_limit_are_rejected() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = |bytes: usize| {
        let bare = serde_json::json!({ "channel": "$pubsub", "stream_name": "s", "x": "" }).to_string();
        serde_json::json!({ "channel": "$pubsub", "stream_name": "s", "x": "x".repeat(bytes - bare.len()) })
            .to_string()
    };
    socket.subscribe(&identifier(4096));
    socket.rejected(&identifier(4097));
    assert_eq!(server.refused("max_identifier_bytes"), 1.0);
}

#[test]
fn pings_count_against_the_rate() {
    let server = server().open().arg("--rate-limit=1").arg("--rate-burst=10").start();
    let mut socket = server.connect();
    for _ in 0..12 {
        socket.send_frame(0x89, true, b"");
    }
    let mut pongs = 0;
    let last = loop {
        match socket.next() {
            Frame::Pong(_) => pongs += 1,
            other => break other,
        }
    };
    assert!((9..=11).contains(&pongs), "{pongs}");
    assert_eq!(last, Frame::Text(r#"{"type":"disconnect","reason":"rate_limit","reconnect":true}"#.into()));
}

#[test]
fn connections_over_the_limit_get_503_and_the_others_stay() {
    let server = server().open().arg("--max-connections=3").start();
    let mut clients: Vec<Socket> = (0..3).map(|_| server.connect()).collect();

    let refused = Socket::try_open(server.public, "/cable", &[]);
    assert!(refused.head.starts_with("HTTP/1.1 503 Service Unavailable"), "{}", refused.head);
    until("it is logged", || server.log().contains("--max-connections"));
    // Every one of many is told, and the log isn't filled.
    for _ in 0..100 {
        let refused = Socket::try_open(server.public, "/cable", &[]);
        assert!(refused.head.starts_with("HTTP/1.1 503 "), "{}", refused.head);
    }
    assert_eq!(server.refused("max_connections"), 101.0);
    assert_eq!(server.log().matches("--max-connections").count(), 1, "{}", server.log());
    clients[2].subscribe(&pubsub("s"));

    clients.pop();
    until("there is a place again", || {
        Socket::try_open(server.public, "/cable", &[]).head.starts_with("HTTP/1.1 101")
    });
    clients[0].subscribe(&pubsub("s"));
    assert_eq!(get(server.internal, "/health").status, 200);
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_and_the_start_says_what_that_allows() {
    let server = server().after("ulimit -S -n 200; ulimit -H -n 1000").start();
    assert_eq!(server.descriptor_limits(), (1000, 1000));
    assert!(server.said[0].ends_with(", 872 connections at most"), "{}", server.said[0]);
}

#[test]
fn more_connections_than_descriptors_are_not_promised() {
    let server = server().open().after("ulimit -n 200").arg("--max-connections=5000").start();
    assert!(server.said[0].ends_with(", 72 connections at most"), "{}", server.said[0]);
    let warning = "--max-connections 5000 is more than the limit of file descriptors allows: it is 72";
    until("it is logged", || server.log().contains(warning));

    let mut clients: Vec<Socket> = (0..72).map(|_| server.connect()).collect();
    clients[0].subscribe(&pubsub("s"));
    let refused = Socket::try_open(server.public, "/cable", &[]);
    assert!(refused.head.starts_with("HTTP/1.1 503 "), "{}", refused.head);
    // There is room for workers and operators, and for the database.
    assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
    assert_eq!(clients[0].message(&pubsub("s")), "1");
    assert_eq!(get(server.internal, "/ready").status, 200);
}

/// As where others than this server's clients use them up.
#[test]
fn without_descriptors_it_serves_whom_it_has_and_rests_before_it_accepts() {
    let server = server().open().start();
    let mut client = server.connect();
    client.subscribe(&pubsub("s"));

    server.limit_descriptors(10);
    let waiting: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(server.public).unwrap()).collect();
    until("it is logged", || server.log().contains("sockets can't be accepted"));
    let before = server.processor_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = server.processor_time() - before;
    assert!(used < Duration::from_millis(500), "{used:?}");
    server.insert("s", "1");
    assert_eq!(client.message(&pubsub("s")), "1");
    assert_eq!(server.log().matches("sockets can't be accepted").count(), 1, "{}", server.log());

    server.limit_descriptors(1000);
    for mut stream in waiting {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
}

#[test]
fn new_sockets_are_taken_at_a_rate() {
    let server = server().open().arg("--accept-rate=20").start();
    let started = std::time::Instant::now();
    let clients: Vec<Socket> = (0..12).map(|_| server.connect()).collect();
    // One at once and then one each 50 ms.
    assert!(started.elapsed().as_millis() >= 450, "{:?}", started.elapsed());
    drop(clients);
}

#[test]
fn a_head_that_never_ends_and_too_many_headers_are_refused() {
    let server = server().start();
    let many: Vec<(String, String)> = (0..150).map(|n| (format!("X-{n}"), "x".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = request(server.public, "GET", "/health", &many, b"");
    assert_eq!(answer.status, 431);
    let long = "x".repeat(1 << 20);
    let answer = request(server.public, "GET", "/health", &[("X-Long", &long)], b"");
    assert_eq!(answer.status, 431);
    assert_eq!(server.refused("max_header_bytes"), 2.0);
}

#[test]
fn headers_and_queries_have_a_size_of_their_own_each_and_its_name_is_told() {
    let header = |server: &Server, bytes: usize| {
        let long = "x".repeat(bytes);
        request(server.public, "GET", "/health", &[("X-Long", &long)], b"")
    };
    let query = |server: &Server, bytes: usize| get(server.public, &format!("/health?{}", "x".repeat(bytes)));

    let usual = server().start();
    assert_eq!(header(&usual, 31 << 10).status, 200);
    assert!(header(&usual, 32 << 10).problem(431).contains("--max-header-bytes"));
    assert_eq!(query(&usual, 8 << 10).status, 200);
    assert!(query(&usual, (8 << 10) + 1).problem(414).contains("--max-query-bytes"));
    // Both at once are allowed as each is.
    let long = "x".repeat(31 << 10);
    let path = format!("/health?{}", "x".repeat(8 << 10));
    assert_eq!(request(usual.public, "GET", &path, &[("X-Long", &long)], b"").status, 200);
    // The internal listener's too.
    get(usual.internal, &format!("/metrics?{}", "x".repeat(9 << 10))).problem(414);

    let small = server().arg("--max-header-bytes=200").arg("--max-query-bytes=10").start();
    assert_eq!(header(&small, 80).status, 200);
    header(&small, 200).problem(431);
    assert_eq!(query(&small, 10).status, 200);
    query(&small, 11).problem(414);
    let socket = Socket::try_open(small.public, "/cable?token=abcdefgh", &[]);
    assert!(socket.head.starts_with("HTTP/1.1 414 "), "{}", socket.head);
    for (reason, count) in [("max_query_bytes", 2.0), ("max_header_bytes", 1.0)] {
        assert_eq!(small.refused(reason), count, "{reason}");
    }
}

#[test]
fn a_handshake_that_is_not_finished_ends_after_ten_seconds() {
    let server = server().open().start();
    let head = b"GET /cable HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ";
    let ended = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(stream.read(&mut [0; 1024]), Ok(0))
    };
    let silent = TcpStream::connect(server.public).unwrap();
    let mut half_open = TcpStream::connect(server.public).unwrap();
    half_open.write_all(head).unwrap();
    let mut drip = TcpStream::connect(server.public).unwrap();
    drip.write_all(head).unwrap();

    // One byte a second is no head.
    for second in 0..20 {
        if ended(drip.try_clone().unwrap()) {
            assert!((9..14).contains(&second), "{second} s");
            break;
        }
        let _ = drip.write_all(b"x");
        // It is in nobody's way meanwhile.
        assert_eq!(get(server.public, "/health").status, 200);
        std::thread::sleep(Duration::from_secs(1));
    }

    until("all of them are gone", || {
        [&silent, &half_open].iter().all(|stream| ended(stream.try_clone().unwrap()))
    });
    assert_eq!(server.refused("head_timeout"), 3.0);
}

#[test]
fn a_flood_of_control_frames_ends_by_the_rate_and_costs_no_more() {
    let server = server().open().arg("--rate-limit=100").arg("--rate-burst=100").start();
    let before = server.peak_memory();
    // Pings, pongs and what was never a message, as fast as the socket takes them.
    for frame in [&[0x89, 0x80, 0, 0, 0, 0][..], &[0x8a, 0x80, 0, 0, 0, 0], &[0x82, 0x80, 0, 0, 0, 0]] {
        let mut socket = server.connect();
        socket.send_raw(&frame.repeat(200_000));
        let last = loop {
            match socket.next() {
                Frame::Pong(_) => {}
                other => break other,
            }
        };
        let disconnect = r#"{"type":"disconnect","reason":"rate_limit","reconnect":true}"#;
        assert_eq!(last, Frame::Text(disconnect.into()), "{frame:?}");
    }
    // Continuations without an end or a byte are one message, which is never carried out.
    let mut socket = server.connect();
    socket.send_raw(&[0x01, 0x80, 0, 0, 0, 0]);
    socket.send_raw(&[0x00, 0x80, 0, 0, 0, 0].repeat(200_000));
    server.connect().subscribe(&pubsub("s"));

    assert_eq!(server.refused("rate_limit"), 3.0);
    let grown = server.peak_memory() - before;
    assert!(grown < 16 << 20, "{grown} bytes");
}

#[test]
fn more_publishes_than_may_wait_are_told_to_come_back() {
    let server = server().arg("--max-pending-bytes=600").start();
    let transaction = begin(&server.database(), "");

    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let requests: Vec<_> =
            (0..6).map(|_| scope.spawn(|| server.publish(r#"{"stream":"s","data":1}"#))).collect();
        until("four are refused", || server.metric(r#"tablecast_publishes_total{result="refused"}"#) >= 4.0);
        transaction.roll_back();
        requests
            .into_iter()
            .map(|request| {
                let answer = request.join().unwrap();
                if answer.status == 429 {
                    assert!(answer.problem(429).contains("--max-pending-bytes"));
                    assert!(answer.header("retry-after").is_some());
                }
                answer.status
            })
            .collect()
    });

    let committed = statuses.iter().filter(|status| **status == 201).count();
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 6 - committed);
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), committed.to_string());
}
