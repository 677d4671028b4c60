//! Action Cable v1, probe by probe, as Rails answers it; and where Rails is broken, as this
//! server decided.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Frame, PATIENCE, Server, Socket, get, pubsub, request, server, until};

fn open_server() -> Server {
    server().open().arg("--public-channel").arg("RoomChannel=room:{room}").start()
}

const ROOM: &str = r#"{"channel":"RoomChannel","room":"1"}"#;

#[test]
fn the_handshake_selects_the_protocol_that_works() {
    let server = open_server();
    for (offered, selected) in [
        ("actioncable-v1-json, actioncable-unsupported", Some("actioncable-v1-json")),
        ("actioncable-v1-json,actioncable-unsupported", Some("actioncable-v1-json")),
        ("actioncable-unsupported, actioncable-v1-json", Some("actioncable-v1-json")),
        ("my-token.abc, actioncable-v1-json", Some("actioncable-v1-json")),
        ("actioncable-unsupported", Some("actioncable-unsupported")),
        ("soap, my-token.abc", None),
        ("", None),
    ] {
        let mut socket = Socket::open(server.public, "/cable", &[("Sec-WebSocket-Protocol", offered)]);

        let head = socket.head.to_lowercase();
        let answered = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(answered, selected, "{offered}");
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        assert!(!head.contains("extensions"), "{head}");
        assert_eq!(socket.text(), r#"{"type":"welcome"}"#, "whatever was offered");
    }
}

#[test]
fn compression_is_not_negotiated() {
    let server = open_server();
    let socket = Socket::open(server.public, "/cable", &[("Sec-WebSocket-Extensions", "permessage-deflate")]);
    assert!(!socket.head.to_lowercase().contains("sec-websocket-extensions"));
}

#[test]
fn a_query_is_the_applications_and_other_paths_are_not_found() {
    let server = open_server();
    Socket::open(server.public, "/cable?token=abc", &[]);
    for path in ["/cable/", "/cable/x", "/", "/Cable"] {
        let answer = get(server.public, path);
        assert_eq!((answer.status, answer.body.as_str()), (404, "Page not found"), "{path}");
    }
}

#[test]
fn what_is_no_websocket_is_not_found() {
    let server = open_server();
    let origin = format!("http://{}", server.public);
    let not_found = |method: &str, headers: &[(&str, &str)]| {
        let mut headers = headers.to_vec();
        headers.push(("Origin", &origin));
        let answer = request(server.public, method, "/cable", &headers, b"");
        assert_eq!((answer.status, answer.body.as_str()), (404, "Page not found"), "{method} {headers:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    };
    not_found("GET", &[]);
    not_found("GET", &[("Upgrade", "h2c"), ("Connection", "Upgrade")]);
    not_found(
        "POST",
        &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "x")],
    );
    not_found("DELETE", &[]);
}

#[test]
fn an_upgrade_needs_http_1_1() {
    let server = open_server();
    let mut stream = std::net::TcpStream::connect(server.public).unwrap();
    let head = format!(
        "GET /cable HTTP/1.0\r\nHost: {0}\r\nOrigin: http://{0}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.public
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 404 ") && answer.ends_with("Page not found"), "{answer}");
}

#[test]
fn connection_and_upgrade_are_lists_in_any_case() {
    let server = open_server();
    Socket::open(server.public, "/cable", &[("Connection", "keep-alive, UPGRADE"), ("Upgrade", "WebSocket")]);
}

#[test]
fn a_handshake_of_another_version_or_without_a_key_is_a_bad_request() {
    let server = open_server();
    for (header, value, body) in [
        ("Sec-WebSocket-Version", "8", "Unsupported WebSocket version: 13"),
        ("Sec-WebSocket-Version", "", "Unsupported WebSocket version: 13"),
        ("Sec-WebSocket-Key", "", "Missing handshake request header: Sec-WebSocket-Key"),
    ] {
        let socket = Socket::try_open(server.public, "/cable", &[(header, value)]);
        assert!(socket.head.starts_with("HTTP/1.1 400 Bad Request"), "{}", socket.head);
        assert_eq!(socket.body(), body);
    }
}

#[test]
fn a_page_of_another_site_is_not_found_unless_it_is_listed() {
    let strict = open_server();
    for origin in ["http://evil.example", "null", "http://127.0.0.1", ""] {
        let socket = Socket::try_open(strict.public, "/cable", &[("Origin", origin)]);
        assert!(socket.head.starts_with("HTTP/1.1 404 Not Found"), "{origin}: {}", socket.head);
        assert_eq!(socket.body(), "Page not found");
    }
    assert_eq!(strict.refused("origin"), 4.0);

    let listed = server().arg("--allowed-origins=https://*.example.com").start();
    Socket::open(listed.public, "/cable", &[("Origin", "https://app.example.com")]);
    Socket::open(listed.public, "/cable", &[]);
    let socket = Socket::try_open(listed.public, "/cable", &[("Origin", "https://a.b.example.com")]);
    assert!(socket.head.starts_with("HTTP/1.1 404 Not Found"));

    let open = server().arg("--allowed-origins=*").start();
    Socket::open(open.public, "/cable", &[("Origin", "")]);
    Socket::open(open.public, "/cable", &[("Origin", "http://evil.example")]);
}

#[test]
fn confirm_and_reject_echo_the_identifier_byte_for_byte() {
    let server = open_server();
    let mut socket = server.connect();
    for identifier in [
        ROOM,
        r#"{ "room" : "1" , "channel":"RoomChannel"}"#,
        r#"{"channel":"RoomChannel","room":"é<&>\u2028\\\/🦀"}"#,
        r#"{"channel":"RoomChannel","room":12345678901234567890123}"#,
    ] {
        socket.command("subscribe", identifier);
        let expected = format!(r#"{{"identifier":{},"type":"confirm_subscription"}}"#, json!(identifier));
        assert_eq!(socket.text(), expected);
    }
    let unknown = r#"{"channel":"NoSuchChannel"}"#;
    socket.command("subscribe", unknown);
    assert_eq!(socket.text(), format!(r#"{{"identifier":{},"type":"reject_subscription"}}"#, json!(unknown)));
}

#[test]
fn two_spellings_of_an_identifier_are_two_subscriptions() {
    let server = open_server();
    let mut socket = server.connect();
    let other = r#"{"room":"1","channel":"RoomChannel"}"#;
    socket.subscribe(ROOM);
    socket.subscribe(other);

    server.insert("room:1", "7");

    let messages = [socket.json(), socket.json()];
    let mut identifiers = messages.map(|message| {
        assert_eq!(message["message"], 7);
        message["identifier"].as_str().unwrap().to_owned()
    });
    identifiers.sort();
    assert_eq!(identifiers, [ROOM, other]);
}

#[test]
fn every_subscribe_that_can_be_read_is_answered_once() {
    let server = open_server();
    let mut socket = server.connect();
    for rejected in [
        r#"{"channel":"NoSuchChannel"}"#,
        r#"{"channel":"RoomChannel"}"#,
        r#"{"channel":"RoomChannel","room":null}"#,
        r#"{"channel":"RoomChannel","room":{}}"#,
        r#"{"channel":"RoomChannel","room":[1]}"#,
        r#"{"channel":"RoomChannel","room":""}"#,
        r#"{"channel":"RoomChannel","room":"a\u0000b"}"#,
        r#"{"channel":7,"room":"1"}"#,
        r#"{"room":"1"}"#,
        r#"{}"#,
        r#"{"channel":"$pubsub"}"#,
        r#"{"channel":"$pubsub","stream_name":""}"#,
        r#"{"channel":"$pubsub","stream_name":"action_cable/1"}"#,
        r#"{"channel":"$pubsub","signed_stream_name":"x--y"}"#,
    ] {
        socket.rejected(rejected);
        socket.rejected(rejected);
    }
    socket.rejected(&pubsub(&"x".repeat(1025)));
    socket.subscribe(&pubsub(&"x".repeat(1024)));
    socket.nothing_else();
}

#[test]
fn a_command_that_cannot_be_read_is_counted_and_ignored() {
    let server = open_server();
    let mut socket = server.connect();
    let unreadable = [
        "",
        "{",
        "{}",
        "1",
        "[]",
        "null",
        "hello",
        r#"{"command":"subscribe"}"#,
        r#"{"command":"subscribe","identifier":null}"#,
        r#"{"command":"subscribe","identifier":{"channel":"RoomChannel","room":"1"}}"#,
        r#"{"command":"subscribe","identifier":"not json"}"#,
        r#"{"command":"subscribe","identifier":"[1]"}"#,
        r#"{"command":"subscribe","identifier":"\"x\""}"#,
        r#"{"command":7,"identifier":"{}"}"#,
        r#"{"command":"dance","identifier":"{}"}"#,
        r#"["subscribe","{\"channel\":\"RoomChannel\",\"room\":\"1\"}"]"#,
        "\u{feff}{}",
    ];
    for text in unreadable {
        socket.send(text);
    }
    socket.send_frame(0x82, true, &[0xff, 0xfe]); // binary, and no text

    socket.subscribe(ROOM);
    assert_eq!(
        server.metric(r#"tablecast_commands_total{command="malformed"}"#),
        unreadable.len() as f64 + 1.0
    );
}

#[test]
fn unsubscribes_and_messages_are_not_answered() {
    let server = open_server();
    let mut socket = server.connect();
    socket.subscribe(ROOM);
    socket.send(
        &json!({ "command": "message", "identifier": ROOM, "data": r#"{"action":"echo"}"# }).to_string(),
    );
    socket.send(&json!({ "command": "message", "identifier": ROOM, "data": {"no": "text"} }).to_string());
    socket.send(&json!({ "command": "message", "identifier": "{}", "data": "{" }).to_string());
    socket.command("unsubscribe", ROOM);
    socket.command("unsubscribe", ROOM);
    socket.command("unsubscribe", "not json");
    socket.nothing_else();
}

#[test]
fn a_repeated_subscribe_is_confirmed_again_for_rails_own_client() {
    let server = open_server();
    let rails = [("Sec-WebSocket-Protocol", "actioncable-v1-json, actioncable-unsupported")];
    let mut socket = Socket::open(server.public, "/cable", &rails);
    assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
    socket.subscribe(ROOM);
    socket.subscribe(ROOM);

    let mut other = server.connect();
    other.subscribe(ROOM);
    other.command("subscribe", ROOM);
    other.nothing_else();

    server.insert("room:1", "1");
    assert_eq!(socket.message(ROOM), "1");
    assert_eq!(other.message(ROOM), "1");
    socket.nothing_else();
    other.nothing_else();
}

#[test]
fn after_an_unsubscribe_nothing_more_comes() {
    let server = open_server();
    let mut socket = server.connect();
    let marker = pubsub("marker");
    socket.subscribe(ROOM);
    socket.subscribe(&marker);
    socket.command("unsubscribe", ROOM);
    socket.nothing_else();

    server.publish(r#"[{"stream":"room:1","data":1},{"stream":"marker","data":2}]"#);

    assert_eq!(socket.message(&marker), "2");
}

#[test]
fn commands_are_carried_out_in_their_order() {
    let server = open_server();
    let mut socket = server.connect();
    for _ in 0..100 {
        socket.command("subscribe", ROOM);
        socket.command("unsubscribe", ROOM);
    }
    socket.command("subscribe", ROOM);
    for _ in 0..101 {
        assert_eq!(socket.json()["type"], "confirm_subscription");
    }

    server.insert("room:1", "1");

    assert_eq!(socket.message(ROOM), "1");
}

#[test]
fn commands_before_the_welcome_is_read_are_answered_after_it() {
    let server = open_server();
    let mut socket = Socket::open(server.public, "/cable", &[]);
    socket.command("subscribe", ROOM);
    assert_eq!(socket.text(), r#"{"type":"welcome"}"#);
    assert_eq!(socket.json()["type"], "confirm_subscription");
}

#[test]
fn payloads_pass_untouched() {
    let server = open_server();
    let mut socket = server.connect();
    socket.subscribe(ROOM);
    let payloads = [
        "123456789012345678901234567890",
        "1.0e+30",
        "100000.0",
        "1E5",
        "null",
        "false",
        r#""""#,
        r#""\u003cturbo-stream action=\"append\"\u003e""#,
        r#"{"z":1,"a":2,"z":3}"#,
        "{ \"spaced\" :\t[ 1 , 2 ] }",
        r#""é 🦀 \ud83e\udd80 \/ 0x7f:""#,
        "\"raw line separator \u{2028}\"",
        "[[[[[[[[[[]]]]]]]]]]",
    ];
    for payload in payloads {
        server.insert("room:1", payload);
        assert_eq!(socket.message(ROOM), payload);
        assert_eq!(server.publish(&format!(r#"{{"stream":"room:1","data":{payload}}}"#)).status, 201);
        assert_eq!(socket.message(ROOM), payload);
    }
}

#[test]
fn the_heartbeat_comes_each_three_seconds_in_whole_seconds() {
    let server = open_server();
    let mut socket = server.connect();
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < 3 {
        let Frame::Text(text) = socket.frame() else { panic!() };
        let ping: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text, format!(r#"{{"type":"ping","message":{}}}"#, ping["message"].as_u64().unwrap()));
        times.push(started.elapsed());
        assert!(started.elapsed() < PATIENCE);
    }
    for pair in times.windows(2) {
        // Clients take six seconds of silence for a dead connection.
        let beat = pair[1] - pair[0];
        assert!(beat > Duration::from_secs(1) && beat < Duration::from_secs(6), "{beat:?}");
    }
}

#[test]
fn pings_of_the_client_are_answered_and_fragments_are_joined() {
    let server = open_server();
    let mut socket = server.connect();
    socket.send_frame(0x89, true, b"are you there");
    assert_eq!(socket.next(), Frame::Pong(b"are you there".to_vec()));

    let command = json!({ "command": "subscribe", "identifier": ROOM }).to_string();
    let (first, rest) = command.as_bytes().split_at(20);
    socket.send_frame(0x01, true, first);
    socket.send_frame(0x89, true, b"between");
    socket.send_frame(0x80, true, rest);

    assert_eq!(socket.next(), Frame::Pong(b"between".to_vec()));
    assert_eq!(socket.json()["type"], "confirm_subscription");
}

#[test]
fn a_binary_message_that_is_text_is_a_command() {
    let server = open_server();
    let mut socket = server.connect();
    let command = json!({ "command": "subscribe", "identifier": ROOM }).to_string();
    socket.send_frame(0x82, true, command.as_bytes());
    assert_eq!(socket.json()["type"], "confirm_subscription");
}

#[test]
fn a_close_is_echoed() {
    let server = open_server();
    for (payload, answer) in [
        (&b"\x03\xe8"[..], Frame::Close(1000, String::new())),
        (b"\x0f\xa0bye", Frame::Close(4000, "bye".into())),
        (b"", Frame::Close(1005, String::new())),
        (b"\x03\xed", Frame::Close(1002, "Protocol violation".into())), // 1005 is never sent
    ] {
        let mut socket = server.connect();
        socket.send_frame(0x88, true, payload);
        let answered = socket.next();
        match (&answered, &answer) {
            (Frame::Close(code, _), Frame::Close(1002, _)) => assert_eq!(*code, 1002),
            _ => assert_eq!(answered, answer),
        }
        assert_eq!(socket.next(), Frame::End);
    }
}

/// What `send` does ends the connection with a code, is counted, and harms nobody else.
fn violation(server: &Server, reason: &str, code: u16, send: impl FnOnce(&mut Socket)) {
    let metric = format!(r#"tablecast_connections_closed_total{{reason="{reason}"}}"#);
    let before = server.metric(&metric);
    let mut socket = server.connect();

    send(&mut socket);

    let Frame::Close(found, _) = socket.next() else { panic!("{reason}: no close") };
    assert_eq!(found, code, "{reason}");
    assert_eq!(socket.next(), Frame::End, "{reason}");
    assert_eq!(server.metric(&metric), before + 1.0, "{reason}");
}

#[test]
fn violations_end_with_the_codes_of_the_rfc_and_are_counted() {
    let server = open_server();
    let cases: [(&str, u8, bool, &[u8], u16); 11] = [
        ("unmasked", 0x81, false, b"{}", 1002),
        ("reserved_bits", 0xc1, true, b"{}", 1002),
        ("reserved_bits", 0xa1, true, b"{}", 1002),
        ("reserved_opcode", 0x83, true, b"{}", 1002),
        ("reserved_opcode", 0x8f, true, b"", 1002),
        ("fragmented_control", 0x09, true, b"", 1002),
        ("nothing_to_continue", 0x80, true, b"x", 1002),
        ("long_control", 0x89, true, &[0; 126], 1002),
        ("close_payload", 0x88, true, b"x", 1002),
        ("close_code", 0x88, true, b"\x03\xed", 1002),
        ("not_utf8", 0x81, true, &[0xff, 0xff], 1007),
    ];
    for (reason, first, masked, payload, code) in cases {
        violation(&server, reason, code, |socket| socket.send_frame(first, masked, payload));
    }
    violation(&server, "interrupted_message", 1002, |socket| {
        socket.send_frame(0x01, true, b"{");
        socket.send_frame(0x81, true, b"}");
    });
    violation(&server, "not_utf8", 1007, |socket| {
        socket.send_frame(0x01, true, b"\xf0\x9f");
        socket.send_frame(0x80, true, b"\xa6");
    });
    // Found before the frame's end, which never comes.
    violation(&server, "not_utf8", 1007, |socket| socket.send_raw(b"\x81\xfe\x01\x00\0\0\0\0\xff"));
    violation(&server, "unmasked", 1002, |socket| socket.send_raw(b"\x81\x7e"));
    // Announced, and never sent.
    violation(&server, "max_command_bytes", 1009, |socket| {
        socket.send_raw(&[0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4]);
    });

    until("none of them is left", || server.metric("tablecast_connections") == 0.0);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.connect().subscribe(ROOM);
}

#[test]
fn a_command_that_comes_byte_by_byte_is_carried_out() {
    let server = open_server();
    let mut socket = server.connect();
    let command = json!({ "command": "subscribe", "identifier": ROOM }).to_string();
    let mut bytes = vec![0x81, 0x80 | command.len() as u8, 0, 0, 0, 0];
    assert!(command.len() < 126);
    bytes.extend(command.bytes());
    for byte in bytes {
        socket.send_raw(&[byte]);
    }
    assert_eq!(socket.json()["type"], "confirm_subscription");
}

#[test]
fn many_commands_at_once_are_carried_out_in_order() {
    let server = server().open().arg("--max-subscriptions=100").start();
    let mut socket = server.connect();
    let mut bytes = Vec::new();
    let identifier = |n: usize| json!({ "channel": "$pubsub", "stream_name": format!("s{n}") }).to_string();
    for n in 0..100 {
        let command = json!({ "command": "subscribe", "identifier": identifier(n) }).to_string();
        bytes.extend([0x81, 0x80 | command.len() as u8, 0, 0, 0, 0]);
        bytes.extend(command.bytes());
    }
    socket.send_raw(&bytes);
    for n in 0..100 {
        assert_eq!(socket.json(), json!({ "identifier": identifier(n), "type": "confirm_subscription" }));
    }
}

#[test]
fn a_command_over_the_limit_ends_with_1009() {
    let server = server().open().arg("--max-command-bytes=1KiB").start();
    let mut fits = server.connect();
    let padding = "x".repeat(1024 - r#"{"command":""}"#.len());
    fits.send(&format!(r#"{{"command":"{padding}"}}"#));
    fits.nothing_else();

    let mut too_large = server.connect();
    too_large.send(&"x".repeat(1025));
    assert!(matches!(too_large.next(), Frame::Close(1009, _)));

    // By fragments.
    let mut fragments = server.connect();
    fragments.send_frame(0x01, true, &[b'x'; 1000]);
    fragments.send_frame(0x80, true, &[b'x'; 1000]);
    assert!(matches!(fragments.next(), Frame::Close(1009, _)));
}
