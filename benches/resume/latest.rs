//! A newcomer to a state stream of a full table: from its subscribe command to the stream's latest message,
//! once confirmed. Asked: p50 of 1 ms at the most.
//!
//! `from=table`: nothing is remembered, so that each one waits for a look of the tail and for a statement.
//! `from=memory`: the one before has been given it, too. `from=query`: the statement alone, by a client of
//! the database. Of a stream that has none, `absent`, a client of the extended protocol is told that it has been
//! given all.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Scale;
use crate::harness::clients::{EXTENDED, PROTOCOL, Subscriber};
use crate::harness::process::{Server, now};
use crate::harness::report::{Report, Times};
use crate::rules::{CONFIRM, CONFIRM_HISTORY, Rule, subscribe, subscribe_since, unsubscribe};
use crate::store::Kind;

/// Less than nothing can be kept in.
const FORGETS: [&str; 2] = ["--replay-memory-bytes", "1B"];
/// For so long after its start a server is busy with the ids that are missing.
const SETTLES: Duration = Duration::from_secs(10);

pub fn run(report: &mut Report, scale: &Scale, kind: Kind) {
    let store = kind.store();
    let filled = store.fill(scale.rows);
    report.add(kind.figure().with("rows", scale.rows).value("filled_s", filled));
    for (from, settings) in [("table", &FORGETS[..]), ("memory", &[])] {
        let server = store.serve(settings);
        thread::sleep(SETTLES);
        for stream in ["hot", "cold", "absent"] {
            let times = newcomers(&server, stream, scale.latest_samples);
            let figure = kind.figure().with("rows", scale.rows).with("stream", stream).with("from", from);
            report.add(figure.spread(&Times::new(times)));
        }
    }
    for stream in ["hot", "cold", "absent"] {
        let times = store.look_up(&format!("{stream}:0"), scale.latest_samples);
        let figure = kind.figure().with("rows", scale.rows).with("stream", stream).with("from", "query");
        report.add(figure.spread(&Times::new(times)));
    }
}

/// One after the other.
fn newcomers(server: &Server, stream: &str, count: usize) -> Vec<i64> {
    let identifier = Rule::State.identifier(stream, 0);
    let is_absent = stream == "absent";
    let (mut client, command) = if is_absent {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
        (Subscriber::open(server.public, EXTENDED), subscribe_since(&identifier, since))
    } else {
        (Subscriber::open(server.public, PROTOCOL), subscribe(&identifier))
    };
    (0..count)
        .map(|_| {
            thread::sleep(Duration::from_millis(rand::random_range(12..20)));
            let begun = now();
            client.say(&command);
            let (_, confirm) = client.message().expect("it is confirmed");
            assert!(confirm.ends_with(CONFIRM), "{}", confirm.escape_ascii());
            let (given, frame) = client.message().expect("it is answered");
            assert_eq!(frame.ends_with(CONFIRM_HISTORY), is_absent, "{}", frame.escape_ascii());
            client.say(&unsubscribe(&identifier));
            given - begun
        })
        .collect()
}
