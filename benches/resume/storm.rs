//! All clients come at once, each to a state stream, while another one is served: from the first one's `connect`
//! until all are confirmed and have their stream's latest message. Asked: 10,000 within 10 s.
//!
//! `memory=cold`: to a server that was just started, which reads all from the table. `memory=warm`: once more to
//! the same one. `memory=plain`: the same clients without a past to be given, for comparison. New sockets are let
//! in by `--accept-rate`, 2,000 a second. `established` is the latency of the other one's messages, a hundred
//! a second of its own stream, `alone` before, `storm` meanwhile, and `leaving` while the sockets of the crowd are closed
//! one after the other as fast as that goes; the crowd's thread needs CPU, too.

use std::thread;
use std::time::{Duration, Instant};

use crate::Scale;
use crate::crowd::{Awaited, Coming, Crowd};
use crate::established::Established;
use crate::harness::clients::{PROTOCOL, counted};
use crate::harness::process::{Server, now};
use crate::harness::report::{Figure, Report, Times};
use crate::messages;
use crate::rules::{Rule, subscribe};
use crate::store::Kind;

/// Until a crowd that has left is gone.
const LEAVES: Duration = Duration::from_secs(20);

pub fn run(report: &mut Report, scale: &Scale, kind: Kind) {
    let store = kind.store();
    for streams in scale.storm_streams {
        let server = store.serve(&[]);
        messages::publish(&server, "job", streams, 1..3);
        drop(server);

        let server = store.serve(&[]);
        let established = Established::start(&server);
        let alone = during(|| thread::sleep(scale.alone)).1;
        let mut storms = Vec::new();
        for (memory, rule) in [("cold", Rule::State), ("warm", Rule::State), ("plain", Rule::Plain)] {
            let figure = kind.figure().with("clients", scale.storm_clients).with("streams", streams);
            let cpu = server.cpu();
            let (mut crowd, time) = during(|| come(&server, rule, streams, scale.storm_clients));
            let cpu = (server.cpu() - cpu).as_secs_f64() * 1000.0;
            let figure = crowd.add_times(figure.with("memory", memory)).value("server_cpu_ms", cpu);
            crowd.expect_no_more(Duration::from_millis(200));
            let ((), left) = during(|| {
                drop(crowd);
                wait_until_alone(&server);
            });
            storms.push((figure, time, left));
        }
        let deliveries = established.end();
        let alone = deliveries.between(alone);
        for (figure, time, left) in storms {
            let storm = deliveries.between(time);
            let leaving = deliveries.between(left);
            let value =
                |figure: Figure, name, times: &Times, share| figure.value(name, times.at(share) / 1000.0);
            let figure = value(figure, "established_p50_alone_ms", &alone, 0.5);
            let figure = value(figure, "established_p50_storm_ms", &storm, 0.5);
            let figure = value(figure, "established_p99_alone_ms", &alone, 0.99);
            let figure = value(figure, "established_p99_storm_ms", &storm, 0.99);
            let figure = value(figure, "established_max_storm_ms", &storm, 1.0);
            let figure = figure.value("at_ms", deliveries.slowest_at(time) as f64 / 1e6);
            let figure = value(figure, "established_p99_leaving_ms", &leaving, 0.99);
            let figure = value(figure, "established_max_leaving_ms", &leaving, 1.0);
            report.add(figure.value("leaving_ms", (left.1 - left.0) as f64 / 1e6));
        }
    }
}

fn come(server: &Server, rule: Rule, streams: usize, clients: usize) -> Crowd {
    let subscribes =
        (0..clients).map(|number| subscribe(&rule.identifier("job", number % streams))).collect();
    let awaited = match rule {
        Rule::Plain => Awaited { numbers: 0..0, confirm_history: false },
        Rule::State | Rule::Replay => Awaited { numbers: 2..3, confirm_history: false },
    };
    Crowd::come(&Coming { server: server.public, protocol: PROTOCOL, subscribes, awaited })
}

/// With when it began and ended.
fn during<T>(work: impl FnOnce() -> T) -> (T, (i64, i64)) {
    let begun = now();
    let result = work();
    (result, (begun, now()))
}

fn wait_until_alone(server: &Server) {
    let start = Instant::now();
    while counted(server.internal, "tablecast_connections").is_none_or(|connections| connections > 1.0) {
        assert!(start.elapsed() < LEAVES, "they don't leave");
        thread::sleep(Duration::from_millis(50));
    }
}
