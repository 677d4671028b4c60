//! Many writers at once, in processes of their own: each committed row exactly once and in
//! order for each writer, none of the rolled-back ones.

use std::process::{Command, Stdio};

use crate::support::{pubsub, server};

const WRITERS: usize = 8;
const EACH: usize = 150;
const CLIENTS: usize = 50;

/// Publishes numbers, some in transactions of several, with rolled-back ones between.
const WRITER: &str = r#"
import json, random, sqlite3, sys
path, writer, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(writer)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
publish = lambda n: db.execute("INSERT INTO tablecast_publish (stream, data) VALUES ('s', ?)", (json.dumps([writer, n]),))
n = 0
while n < each:
    kind = random.random()
    if kind < 0.3:
        db.execute("BEGIN IMMEDIATE"); publish(-1); publish(-2); db.execute("ROLLBACK")
    elif kind < 0.6 and n + 3 <= each:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            publish(n); n += 1
        db.execute("SAVEPOINT p"); publish(-3); db.execute("ROLLBACK TO p")
        db.execute("COMMIT")
    else:
        publish(n); n += 1
"#;

#[test]
fn eight_processes_write_at_once_while_fifty_clients_listen() {
    let server = server().open().start();
    let identifier = pubsub("s");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.subscribe(&identifier);
    }

    let mut writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let mut python = Command::new("python3");
            python.args(["-c", WRITER]).arg(server.database()).args([writer.to_string(), EACH.to_string()]);
            python.stderr(Stdio::inherit()).spawn().unwrap()
        })
        .collect();

    let seen: Vec<Vec<(usize, i64)>> = std::thread::scope(|scope| {
        let reading: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let identifier = &identifier;
                scope.spawn(move || {
                    let message = |_| serde_json::from_str(&client.message(identifier)).unwrap();
                    (0..WRITERS * EACH).map(message).collect()
                })
            })
            .collect();
        reading.into_iter().map(|client| client.join().unwrap()).collect()
    });

    assert!(writers.iter_mut().all(|writer| writer.wait().unwrap().success()));
    for messages in &seen {
        let mut next = [0; WRITERS];
        for (writer, n) in messages {
            assert_eq!(*n, next[*writer], "the order of writer {writer}");
            next[*writer] += 1;
        }
        assert_eq!(messages, &seen[0], "every client sees the same order");
    }
    for client in &mut clients {
        client.nothing_else();
    }
}
