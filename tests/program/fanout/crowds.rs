//! Many clients, and many streams.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Frame, Server, Socket, pubsub, server, until};

/// Clients take so long a silence for a dead connection.
const DEAD: Duration = Duration::from_secs(6);

/// Reads numbered messages to the last, each of which must come in its turn, and heartbeats in time.
fn follow(socket: &mut Socket) -> u64 {
    let mut next = 0;
    let mut pinged = Instant::now();
    loop {
        let Frame::Text(text) = socket.frame() else { panic!("it was closed") };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert!(pinged.elapsed() < DEAD, "no heartbeat for {:?}", pinged.elapsed());
        match &frame["message"] {
            _ if frame["type"] == "ping" => pinged = Instant::now(),
            Value::Number(n) => {
                assert_eq!(n.as_u64(), Some(next));
                next += 1;
            }
            last => {
                assert_eq!(last, "last");
                return next;
            }
        }
    }
}

#[test]
fn a_thousand_clients_at_once_are_let_in_at_a_rate_and_cost_the_others_nothing() {
    const CLIENTS: usize = 1000;
    let _ = rlimit::increase_nofile_limit(8192);
    let server = server().open().arg("--accept-rate=125").start();
    let mut established = server.connect();
    established.subscribe(&pubsub("s"));
    let is_over = AtomicBool::new(false);

    let started = Instant::now();
    let (clients, published, took) = thread::scope(|scope| {
        let following = scope.spawn(|| follow(&mut established));
        let publishing = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Relaxed) {
                server.publish_all([("s", json!(count))]);
                count += 1;
            }
            server.publish_all([("s", json!("last"))]);
            count
        });
        let arrive = |n| {
            let mut client = server.connect();
            client.subscribe(&pubsub(&format!("of:{n}")));
            client
        };
        let arriving: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || arrive(n))).collect();
        let clients: Vec<_> = arriving.into_iter().map(|client| client.join()).collect();
        let took = started.elapsed();
        is_over.store(true, Relaxed);
        let published = publishing.join().unwrap();
        assert_eq!(following.join().unwrap(), published);
        (clients, published, took)
    });

    assert!(clients.iter().all(Result::is_ok), "all are confirmed");
    assert!(published > 0);
    assert!(took > DEAD, "{CLIENTS} in {took:?}");
    assert_eq!(server.metric("tablecast_subscriptions"), (CLIENTS + 1) as f64);
    drop(clients);
    until("they have gone", || server.metric("tablecast_connections") == 1.0);
}

const STREAMS: usize = 1000;

fn name(connection: usize, n: usize) -> String {
    pubsub(&format!("of:{connection}:{n}"))
}

/// A client that listens to a thousand streams of its own.
fn listen(server: &Server, connection: usize) -> Socket {
    let mut socket = server.connect();
    for n in 0..STREAMS {
        socket.subscribe(&name(connection, n));
    }
    socket
}

#[test]
fn twenty_thousand_subscriptions_come_and_go_and_leave_nothing() {
    const CONNECTIONS: usize = 20;
    let server = server().open().arg("--rate-limit=100000").arg("--rate-burst=100000").start();
    let mut clients: Vec<Socket> = thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = (0..CONNECTIONS).map(|n| scope.spawn(move || listen(server, n))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(server.metric("tablecast_subscriptions"), (CONNECTIONS * STREAMS) as f64);

    server.publish_all([("of:7:500", json!("here")), ("of:19:999", json!("and here"))]);
    assert_eq!(clients[7].message(&name(7, 500)), "\"here\"");
    assert_eq!(clients[19].message(&name(19, 999)), "\"and here\"");

    // Half of them say so, the others just go.
    clients.truncate(CONNECTIONS / 2);
    for (connection, client) in clients.iter_mut().enumerate() {
        for n in 0..STREAMS {
            client.command("unsubscribe", &name(connection, n));
        }
        client.nothing_else();
    }
    until("none is left", || server.metric("tablecast_subscriptions") == 0.0);
    assert_eq!(server.metric("tablecast_connections"), (CONNECTIONS / 2) as f64);
    server.publish_all([("of:7:500", json!("nobody"))]);
    clients[7].nothing_else();
}
