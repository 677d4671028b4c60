//! Clients of the extended protocol that each missed messages come back at once: from the first one's `connect`
//! until all have all, and have been told so. Asked: 1,000 that missed 100 each within 2 s.
//!
//! `streams=1000`: each has a stream of its own, and among what it missed lies what all the others did.

use std::time::Duration;

use crate::Scale;
use crate::crowd::{Awaited, Coming, Crowd};
use crate::harness::clients::{EXTENDED, get};
use crate::harness::process::Server;
use crate::harness::report::Report;
use crate::messages;
use crate::rules::{Rule, subscribe_from};
use crate::store::Kind;

pub fn run(report: &mut Report, scale: &Scale, kind: Kind) {
    let (clients, count) = (scale.missed_clients, scale.missed_messages);
    let store = kind.store();
    for streams in [clients, 1] {
        for round in 0..scale.missed_rounds {
            let server = store.serve(&[]);
            let stream = format!("job-{streams}-{round}");
            messages::publish(&server, &stream, streams, 0..1);
            let position = position(&server);
            messages::publish(&server, &stream, streams, 1..count + 1);
            let subscribes = (0..clients)
                .map(|number| subscribe_from(&Rule::Plain.identifier(&stream, number % streams), &position))
                .collect();
            let awaited = Awaited { numbers: 1..count + 1, confirm_history: true };

            let cpu = server.cpu();
            let coming = Coming { server: server.public, protocol: EXTENDED, subscribes, awaited };
            let mut crowd = Crowd::come(&coming);
            let cpu = server.cpu() - cpu;

            crowd.expect_no_more(Duration::from_millis(200));
            let figure =
                kind.figure().with("clients", clients).with("missed", count).with("streams", streams);
            report.add(crowd.add_times(figure).value("server_cpu_ms", cpu.as_secs_f64() * 1000.0));
        }
    }
}

fn position(server: &Server) -> String {
    let answer = get(server.internal, "/position");
    let (_, word) = answer.split_once(r#"{"position":""#).expect("it says where it is");
    word.trim_end().trim_end_matches(r#""}"#).to_owned()
}
