//! Clients that go while much is on its way.

use serde_json::json;

use crate::support::{Socket, pubsub, server};

#[test]
fn clients_that_go_in_the_midst_of_a_burst_hold_nobody_up() {
    let server = server().open().start();
    let mut quick = server.connect();
    quick.subscribe(&pubsub("s"));
    let text = "x".repeat(60_000);
    for _ in 0..20 {
        let mut stalled: Vec<Socket> = (0..4).map(|_| server.connect_narrowly()).collect();
        for client in &mut stalled {
            client.subscribe(&pubsub("s"));
        }
        // More than half of what may wait for a client, and less than all of it.
        server.publish_all((0..16).map(|n| ("s", json!([n, text]))));
        for n in 0..16 {
            assert_eq!(quick.message(&pubsub("s")), format!("[{n},\"{text}\"]"));
            if n == 12 {
                stalled.clear();
            }
        }
    }
}
