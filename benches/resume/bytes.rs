//! What the extended protocol adds to a message, where no gap is open. Asked: 80 bytes at the most.

use std::thread;
use std::time::{Duration, Instant};

use crate::Scale;
use crate::harness::clients::{EXTENDED, PATIENCE, PROTOCOL, Subscriber, counted};
use crate::harness::process::Server;
use crate::harness::report::Report;
use crate::messages;
use crate::rules::{CONFIRM, Rule, subscribe};
use crate::store::Kind;

const IDS: [i64; 2] = [1_234_567, 1_234_567_890];

pub fn run(report: &mut Report, _scale: &Scale, kind: Kind) {
    for id in IDS {
        let store = kind.store();
        store.jump(id);
        let server = store.serve(&[]);
        let mut clients = [PROTOCOL, EXTENDED].map(|protocol| subscribed(&server, protocol));
        // The ids before the first row are a gap until they are known to be dead.
        frames(&server, &mut clients, 1);
        wait_for_no_gap(&server);
        let [plain, frame] = frames(&server, &mut clients, 2);
        let (plain, extended) = (plain.len(), frame.len());
        let offset = format!(r#""offset":{}}}"#, id + 1);
        assert!(frame.ends_with(&offset), "another id: {frame}");
        let figure = kind.figure().with("id", id);
        report.add(figure.value("plain", plain as f64).value("added", (extended - plain) as f64));
    }
}

fn subscribed(server: &Server, protocol: &str) -> Subscriber {
    let mut client = Subscriber::open(server.public, protocol);
    client.say(&subscribe(&Rule::Plain.identifier("job", 0)));
    let (_, confirm) = client.message().expect("it is confirmed");
    assert!(confirm.ends_with(CONFIRM), "{}", confirm.escape_ascii());
    client
}

/// What each is sent of a message.
fn frames(server: &Server, clients: &mut [Subscriber; 2], number: usize) -> [String; 2] {
    messages::publish(server, "job", 1, number..number + 1);
    clients.each_mut().map(|client| {
        let (_, frame) = client.message().expect("it comes");
        assert_eq!(messages::number(&frame), number, "it is another");
        String::from_utf8(frame).expect("it is JSON")
    })
}

fn wait_for_no_gap(server: &Server) {
    let start = Instant::now();
    while counted(server.internal, "tablecast_gaps").is_some_and(|gaps| gaps > 0.0) {
        assert!(start.elapsed() < PATIENCE, "a gap stays open");
        thread::sleep(Duration::from_millis(50));
    }
}
