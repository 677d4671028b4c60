//! Hostile clients of every kind at once, beside honest ones that lose nothing.

mod kinds;
mod target;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, Server, Socket, get, pubsub, request, until};
use kinds::KINDS;
use target::*;

const CLIENTS: usize = 100;
const END: &str = r#""end""#;

fn publish(server: &Server, stream: &str, data: &serde_json::Value) {
    let authorization = format!("Bearer {KEY}");
    let headers = [("Content-Type", "application/json"), ("Authorization", &*authorization)];
    let body = json!({ "stream": stream, "data": data }).to_string();
    assert_eq!(request(server.internal, "POST", "/broadcast", &headers, body.as_bytes()).status, 201);
}

/// Reads to the end, and gives how many messages came, in their order.
fn listen(mut client: Socket) -> usize {
    for n in 0.. {
        let message = client.message(&pubsub(HONEST));
        if message == END {
            return n;
        }
        assert_eq!(message, n.to_string(), "none is missing, doubled or out of order");
    }
    unreachable!()
}

#[test]
fn honest_clients_lose_nothing_while_every_kind_of_hostile_one_is_refused_and_counted() {
    let server = guarded();
    let honest: Vec<Socket> = (0..CLIENTS)
        .map(|n| {
            let from = IpAddr::from([127, 0, 1, 1 + (n / 10) as u8]);
            let mut client = Target { server: &server, from }.connect();
            client.subscribe(&pubsub(HONEST));
            client
        })
        .collect();
    let before = server.peak_memory();
    let (attacks_are_over, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen: Vec<AtomicUsize> = KINDS.iter().map(|_| AtomicUsize::new(0)).collect();

    scope(|scope| {
        let listening: Vec<_> = honest.into_iter().map(|client| scope.spawn(|| listen(client))).collect();
        let publishing = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Relaxed) {
                publish(&server, HONEST, &count.into());
                publish(&server, FAT, &"x".repeat(100_000).into());
                count += 1;
                assert_eq!(get(server.public, "/ready").status, 200);
                sleep(Duration::from_millis(10));
            }
            count
        });
        let attacks: Vec<_> = KINDS
            .iter()
            .zip(&seen)
            .enumerate()
            .map(|(index, (kind, seen))| {
                let target = Target { server: &server, from: IpAddr::from([127, 0, 2, 1 + index as u8]) };
                let is_over = &attacks_are_over;
                let attacking = move || {
                    while !is_over.load(Relaxed) {
                        seen.fetch_add((kind.attack)(&target), Relaxed);
                        // Five handshakes at once each half a second are within the rate.
                        sleep(Duration::from_millis(500));
                    }
                };
                (kind.name, scope.spawn(attacking))
            })
            .collect();
        let started = Instant::now();
        let all_seen = || seen.iter().all(|count| count.load(Relaxed) > 0);
        let one_failed = || attacks.iter().any(|(_, attack)| attack.is_finished());
        while !all_seen() && !one_failed() && started.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10));
        }
        attacks_are_over.store(true, Relaxed);
        let failed = attacks.into_iter().filter_map(|(name, attack)| attack.join().is_err().then_some(name));
        let failed: Vec<&str> = failed.collect();
        // The last of them go on beside messages too.
        is_over.store(true, Relaxed);
        let published = publishing.join().unwrap();
        publish(&server, HONEST, &"end".into());

        for client in listening {
            assert_eq!(client.join().unwrap(), published, "all that was published");
        }
        assert!(failed.is_empty(), "not answered as they should be: {failed:?}");
    });

    let mut counted = BTreeMap::<_, usize>::new();
    for (kind, seen) in KINDS.iter().zip(&seen) {
        assert!(seen.load(Relaxed) > 0, "{}", kind.name);
        *counted.entry(kind.counted).or_default() += seen.load(Relaxed);
    }
    for (metric, seen) in counted {
        until(metric, || server.metric(metric) >= seen as f64);
    }
    let grown = server.peak_memory() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    until("none of them is left", || server.metric("tablecast_connections") == 0.0);
}
