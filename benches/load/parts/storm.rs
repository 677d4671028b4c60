//! All clients come back at once, each with a subscription, while others are there already.

use std::thread;
use std::time::{Duration, Instant};

use super::figure;
use crate::Scale;
use crate::client::{Clients, Connect, Order};
use crate::harness::report::{Report, Times};
use crate::rounds::{Turn, compare};
use crate::servers::{self, Server};

const ESTABLISHED: usize = 50;
/// The established have heard something by then.
const BEFORE: Duration = Duration::from_secs(1);

pub fn run(report: &mut Report, scale: &Scale) {
    let contestants: Vec<Server> = servers::present().into_iter().filter(|server| server.pings).collect();
    compare(report, scale.storm_rounds, &contestants, |server| turn(server, scale), figure);
}

fn turn(server: &Server, scale: &Scale) -> Turn {
    let server = server.start("");
    let mut established = Clients::subscribed(&server.door, ESTABLISHED);
    // A process of its own, so that what is late is so for the server's sake.
    let mut storm = Clients::start();
    established.order(&Order::Listen { time: scale.storm_time });
    let start = Instant::now();
    thread::sleep(BEFORE);
    let at_once = scale.storm_connections;
    let (times, refused) = storm.connect(Connect { at_once, ..Connect::gently(&server.door, at_once) });
    assert!(start.elapsed() < scale.storm_time, "the established were not listened to until the end");
    let (_, longest_gap) = established.listened();
    let times = Times::new(times);
    let milliseconds = |share| times.at(share) / 1000.0;
    vec![
        ("confirm_p50_ms", milliseconds(0.5)),
        ("confirm_p99_ms", milliseconds(0.99)),
        ("confirm_max_ms", milliseconds(1.0)),
        ("refused", refused as f64),
        ("longest_ping_gap_ms", longest_gap.as_secs_f64() * 1000.0),
    ]
}
