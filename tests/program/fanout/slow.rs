//! Clients that read slowly or not at all, and their neighbours.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, pubsub, server, until};

#[test]
fn a_client_that_takes_nothing_is_closed_in_time_and_one_that_takes_a_little_is_not() {
    let server = server().open().arg("--write-timeout=3s").arg("--send-buffer-bytes=16MiB").start();
    let (mut stalled, mut slow) = (server.connect_narrowly(), server.connect_narrowly());
    stalled.subscribe(&pubsub("s"));
    slow.subscribe(&pubsub("s"));
    let text = "x".repeat(500_000);
    server.publish_all((0..16).map(|n| ("s", json!([n, text]))));

    // For longer than it takes to be noticed: it is looked for once a beat.
    let started = Instant::now();
    let mut taken = Vec::new();
    while server.closed("write_timeout") < 1.0 || started.elapsed() < Duration::from_secs(8) {
        assert!(started.elapsed() < PATIENCE, "it is not closed");
        let mut some = [0; 4096];
        let count = slow.wire().read(&mut some).unwrap();
        taken.extend_from_slice(&some[..count]);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(taken.len() < 7_000_000, "it has read all, and shows nothing");
    assert_eq!(server.closed("write_timeout"), 1.0);
    until("it is forgotten", || server.metric("tablecast_subscriptions") == 1.0);
    assert_eq!(server.metric("tablecast_connections"), 1.0);

    // What comes next is whole: nothing was lost.
    let last = format!("[15,\"{text}\"]}}");
    let mut some = vec![0; 1 << 16];
    let started = Instant::now();
    while !without_pings(&taken).ends_with(last.as_bytes()) {
        assert!(started.elapsed() < PATIENCE, "it is not whole");
        let count = slow.wire().read(&mut some).unwrap();
        assert!(count > 0, "it was closed");
        taken.extend_from_slice(&some[..count]);
    }
}

/// Heartbeats wait behind what it has yet to take.
fn without_pings(mut taken: &[u8]) -> &[u8] {
    let ping: &[u8] = b"\x81\x24{\"type\":\"ping\",\"message\":1234567890}";
    while let (rest, last) = taken.split_at(taken.len().saturating_sub(ping.len()))
        && last.starts_with(&ping[..25])
    {
        taken = rest;
    }
    taken
}

#[test]
fn two_dozen_clients_that_do_not_read_keep_nothing_from_one_that_does() {
    const COUNT: usize = 500;
    let server = server().open().arg("--send-buffer-bytes=64KiB").start();
    let mut quick = server.connect();
    quick.subscribe(&pubsub("s"));
    let mut stalled: Vec<_> = (0..24).map(|_| server.connect_narrowly()).collect();
    for client in &mut stalled {
        client.subscribe(&pubsub("s"));
    }

    let text = "x".repeat(5000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..COUNT {
                assert_eq!(quick.message(&pubsub("s")), format!("[{n},\"{text}\"]"));
            }
        });
        for some in (0..COUNT).collect::<Vec<_>>().chunks(25) {
            server.publish_all(some.iter().map(|n| ("s", json!([n, text]))));
        }
    });

    until("they are closed", || server.closed("disconnected") + server.closed("write_timeout") == 24.0);
    until("they are forgotten", || server.metric("tablecast_connections") == 1.0);
    quick.nothing_else();
}
