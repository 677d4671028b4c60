//! What is published together shares writes; what is published alone waits for nothing.

use std::io::Read;
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::support::{PATIENCE, Server, Socket, pubsub, server};

const COUNT: usize = 50;
const ROUNDS: usize = 20;

/// Reads until a round's messages are there, and gives how many reads that took.
fn reads(socket: &mut Socket, round: usize) -> usize {
    let mut bytes = Vec::new();
    let mut some = vec![0; 1 << 20];
    let head = format!("\"message\":[{round},");
    let mut reads = 0;
    while String::from_utf8_lossy(&bytes).matches(&head).count() < COUNT {
        let count = socket.wire().read(&mut some).unwrap();
        assert!(count > 0, "it was closed");
        // A heartbeat is a write of its own.
        if bytes.is_empty() && some[..count].starts_with(b"\x81\x24{\"type\":\"ping\"") && count == 38 {
            continue;
        }
        bytes.extend_from_slice(&some[..count]);
        reads += 1;
    }
    reads
}

/// Several rounds: what had been written in many pieces could be read in one now and then.
fn assert_shared(server: &Server, streams: usize, publish: impl Fn(usize) + Sync) {
    let mut socket = server.connect();
    for n in 0..streams {
        socket.subscribe(&pubsub(&format!("s{n}")));
    }
    let reads: Vec<usize> = (0..ROUNDS)
        .map(|round| {
            thread::scope(|scope| {
                scope.spawn(|| publish(round));
                reads(&mut socket, round)
            })
        })
        .collect();
    assert!(reads.iter().sum::<usize>() < 2 * ROUNDS, "{reads:?}");
}

#[test]
fn messages_of_one_request_reach_a_client_in_one_write() {
    let server = server().open().start();
    for streams in [1, 5] {
        assert_shared(&server, streams, |round| {
            let streams: Vec<String> = (0..COUNT).map(|n| format!("s{}", n % streams)).collect();
            server.publish_all(streams.iter().enumerate().map(|(n, stream)| (&**stream, json!([round, n]))));
        });
    }
}

#[test]
fn rows_of_one_transaction_reach_a_client_in_one_write() {
    let server = server().open().start();
    for streams in [1, 5] {
        assert_shared(&server, streams, |round| {
            let inserts = (0..COUNT).map(|n| {
                format!(
                    "INSERT INTO tablecast_publish (stream, data) VALUES ('s{}', '[{round},{n}]');",
                    n % streams
                )
            });
            server.sql(&format!("BEGIN; {} COMMIT", inserts.collect::<String>()));
        });
    }
}

#[test]
fn a_message_that_comes_alone_does_not_wait_for_company() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let started = Instant::now();
    for n in 0..200 {
        server.publish_all([("s", json!(n))]);
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}
