//! Going, by request and without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Frame, Socket, begin, get, pubsub, python, request, server, sqlite3, until};

#[test]
fn with_nobody_connected_it_ends_at_once() {
    let mut server = server().start();
    let started = Instant::now();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn clients_are_asked_to_reconnect_before_the_server_ends() {
    let mut server = server().open().arg("--drain-timeout=2s").start();
    let mut clients: Vec<Socket> = (0..20).map(|_| server.connect()).collect();
    clients[0].subscribe(&pubsub("s"));

    server.signal("TERM");

    for client in &mut clients {
        assert_eq!(client.text(), r#"{"type":"disconnect","reason":"server_restart","reconnect":true}"#);
        assert_eq!(client.next(), Frame::Close(1000, String::new()));
        client.close();
        assert_eq!(client.next(), Frame::End);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn while_it_drains_it_takes_nothing_new_and_says_so() {
    let mut server = server().open().arg("--drain-timeout=3s").start();
    // Who doesn't answer the Close holds the drain.
    let mut client = server.connect();
    server.signal("TERM");
    assert!(client.text().contains("server_restart"));

    assert_eq!(get(server.public, "/health").status, 200);
    let ready = get(server.public, "/ready");
    assert_eq!((ready.status, ready.body.as_str()), (503, "the server is shutting down\n"));
    server.publish(r#"{"stream":"s","data":1}"#).problem(503);
    let late = Socket::try_open(server.public, "/cable", &[]);
    assert!(late.head.starts_with("HTTP/1.1 503 "), "{}", late.head);
    assert!(late.head.contains("retry-after: "), "{}", late.head);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = server().start();
    let mut client = server.connect();
    server.signal("TERM");
    assert!(client.text().contains("server_restart"));
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(1));
}

/// Starts a server at a terminal, closes that, and prints the server's exit code.
const CLOSED_TERMINAL: &str = r#"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv("BINARY", ["tablecast", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0", "--database-url=sqlite:" + sys.argv[1]])
said = b""
while said.count(b"\n") < 3:
    said += os.read(terminal, 4096)
os.close(terminal)
# It would be nobody's child.
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(20)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn it_ends_in_order_when_its_terminal_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let program = CLOSED_TERMINAL.replace("BINARY", env!("CARGO_BIN_EXE_tablecast"));
    let output = python(&folder.path().join("tablecast.db"), &program);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
}

#[test]
fn publishes_in_hand_are_answered() {
    let mut server = server().start();
    let transaction = begin(&server.database(), "");

    let internal = server.internal;
    let publish = std::thread::spawn(move || {
        request(
            internal,
            "POST",
            "/broadcast",
            &[("Content-Type", "application/json")],
            br#"{"stream":"s","data":1}"#,
        )
    });
    until("it is accepted", || server.metric("tablecast_publishes_pending") == 1.0);
    server.signal("TERM");
    until("it drains", || server.log().contains("shutting down"));
    transaction.roll_back();

    assert_eq!(publish.join().unwrap().status, 201);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "1");
}

#[test]
fn what_was_answered_is_in_the_table_after_a_kill() {
    let mut server = server().open().start();
    let stop = AtomicBool::new(false);
    let answered: Vec<i64> = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..8)
            .map(|publisher| {
                let (internal, stop) = (server.internal, &stop);
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let body = format!(r#"{{"stream":"s","data":[{publisher},{n}]}}"#);
                        let id = std::panic::catch_unwind(|| {
                            let headers = [("Content-Type", "application/json")];
                            let answer = request(internal, "POST", "/broadcast", &headers, body.as_bytes());
                            assert_eq!(answer.status, 201);
                            answer.json()["id"].as_i64().unwrap()
                        });
                        match id {
                            Ok(id) => ids.push(id),
                            Err(_) => break,
                        }
                    }
                    ids
                })
            })
            .collect();
        until("much is committed", || {
            server.metric(r#"tablecast_publishes_total{result="committed"}"#) >= 200.0
        });
        server.kill();
        stop.store(true, Ordering::Relaxed);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });

    assert!(answered.len() > 50, "{}", answered.len());
    let ids = serde_json::to_string(&answered).unwrap();
    let sql = format!(
        "SELECT count(*) FROM solid_cable_messages WHERE id IN (SELECT value FROM json_each('{ids}'))"
    );
    assert_eq!(sqlite3(&server.database(), &sql), answered.len().to_string());

    let server = server.again();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    assert_eq!(server.publish(r#"{"stream":"s","data":"on it goes"}"#).status, 201);
    assert_eq!(socket.message(&pubsub("s")), r#""on it goes""#);
}
