//! Many servers, and Rails, on one table.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{listen, migrated, serve};
use crate::support::{Database, Server, Socket, pubsub};

/// Solid Cable's listener, for one channel: what it selects, and in which order.
fn as_solid_cable(database: &Database, channel: &str, until: &AtomicBool) -> Vec<String> {
    let mut last_id = 0;
    let mut messages = Vec::new();
    loop {
        let is_over = until.load(Ordering::Relaxed);
        let rows = database.sql(&format!(
            "SELECT id, convert_from(payload, 'UTF8') FROM solid_cable_messages
             WHERE channel_hash IN (('x' || left(encode(sha256(convert_to('{channel}', 'UTF8')), 'hex'), 16))::bit(64)::bigint)
               AND id >= {last_id} + 1 AND channel = convert_to('{channel}', 'UTF8') ORDER BY id"
        ));
        for row in rows.lines() {
            let (id, payload) = row.split_once('|').unwrap();
            last_id = id.parse().unwrap();
            messages.push(payload.to_owned());
        }
        if is_over {
            return messages;
        }
    }
}

/// What a client gets until the message that ends it.
fn all(mut socket: Socket) -> Vec<String> {
    let mut messages = Vec::new();
    loop {
        let message = socket.message(&pubsub("s"));
        if message == "\"end\"" {
            return messages;
        }
        messages.push(message);
    }
}

#[test]
fn three_servers_of_two_prefixes_and_rails_share_a_table() {
    let database = migrated();
    let servers: [Server; 3] = ["a", "a", "b"].map(|prefix| serve(&database).with_prefix(prefix).start());
    let sockets = servers.each_ref().map(listen);
    let written = AtomicBool::new(false);
    let rails = std::thread::scope(|scope| {
        let rails = scope.spawn(|| as_solid_cable(&database, "a:s", &written));
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                let (database, servers) = (&database, &servers);
                scope.spawn(move || {
                    for n in 0..20 {
                        let data = format!("[{writer},{n}]");
                        if writer < 3 {
                            let body = format!(r#"{{"stream":"s","data":{data}}}"#);
                            assert_eq!(servers[writer].publish(&body).status, 201);
                        } else {
                            let prefix = if writer == 5 { "b" } else { "a" };
                            database.sql(&format!(
                                "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '{data}', '{prefix}')"
                            ));
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        written.store(true, Ordering::Relaxed);
        rails.join().unwrap()
    });
    for prefix in ["a", "b"] {
        database.sql(&format!(
            "INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '\"end\"', '{prefix}')"
        ));
    }
    let [first, second, other] = sockets.map(all);

    let of = |messages: &[String], writers: &[usize]| {
        for writer in writers {
            let lead = format!("[{writer},");
            let own: Vec<&String> = messages.iter().filter(|message| message.starts_with(&lead)).collect();
            let expected: Vec<String> = (0..20).map(|n| format!("[{writer},{n}]")).collect();
            assert_eq!(own, expected.iter().collect::<Vec<_>>());
        }
        assert_eq!(messages.len(), 20 * writers.len());
    };
    of(&first, &[0, 1, 3, 4]);
    of(&second, &[0, 1, 3, 4]);
    of(&other, &[2, 5]);
    // It may miss what commits late, as it always did; what it has is right.
    assert!(rails.len() > 40 && rails.iter().all(|message| first.contains(message)), "{rails:?}");
}

#[test]
fn a_server_without_prefix_says_whose_rows_it_would_read() {
    let database = migrated();
    let staging = serve(&database).with_prefix("staging").start();
    assert_eq!(staging.publish(r#"{"stream":"s","data":1}"#).status, 201);
    let server = serve(&database).start();
    crate::support::until("it says so", || server.log().contains("staging"));
    let other = serve(&database).with_prefix("production").start();
    assert!(!other.log().contains("staging"), "{}", other.log());
}
