//! Heartbeats of many.

use std::collections::BTreeMap;
use std::thread;

use serde_json::Value;

use crate::support::{Frame, Socket, server};

const CLIENTS: usize = 300;
const PINGS: usize = 4;

/// The seconds in the client's next pings.
fn pings(socket: &mut Socket) -> Vec<u64> {
    let ping = |_| {
        let Frame::Text(text) = socket.frame() else { panic!("it was closed") };
        let ping: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(ping["type"], "ping");
        ping["message"].as_u64().unwrap()
    };
    (0..PINGS).map(ping).collect()
}

/// By the server's own clock, which stands still where it does.
#[test]
fn three_hundred_clients_are_pinged_each_three_seconds_and_not_all_at_once() {
    let server = server().arg("--accept-rate=10000").start();
    let clients: Vec<Socket> = (0..CLIENTS).map(|_| server.connect()).collect();

    let pings: Vec<Vec<u64>> = thread::scope(|scope| {
        let reading: Vec<_> =
            clients.into_iter().map(|mut client| scope.spawn(move || pings(&mut client))).collect();
        reading.into_iter().map(|reading| reading.join().unwrap()).collect()
    });

    let mut in_second = BTreeMap::new();
    for seconds in &pings {
        for pair in seconds.windows(2) {
            // Clients take six seconds of silence for a dead connection.
            assert!((2..6).contains(&(pair[1] - pair[0])), "{seconds:?}");
        }
        for second in seconds {
            *in_second.entry(second).or_insert(0) += 1;
        }
    }
    // A third of a beat, and so a third of them.
    assert!(in_second.values().all(|count| *count <= CLIENTS / 2), "{in_second:?}");
}
