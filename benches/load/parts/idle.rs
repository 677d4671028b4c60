//! Many connections with one subscription each to which nothing happens; then a burst, and rest.

use std::time::Duration;

use super::{DATA_BYTES, WINDOW, batch, figure};
use crate::client::{Clients, Connect};
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::parts::batched::ARRAY;
use crate::publish::{Flood, flood};
use crate::rounds::{Turn, compare};
use crate::servers::{self, Server};
use crate::{Scale, machine};

/// Longer than a heartbeat's interval, so that each connection has had one.
const SETTLING: Duration = Duration::from_secs(4);
const REST: Duration = Duration::from_secs(10);

pub fn run(report: &mut Report, scale: &Scale) {
    // Without heartbeats there is nothing to compare with.
    let present = servers::present().into_iter().filter(|server| server.pings);
    let contestants: Vec<Server> = [servers::BEATING_BOUND].into_iter().chain(present).collect();
    compare(report, scale.idle_rounds, &contestants, |server| turn(server, scale), figure);
}

fn turn(server: &Server, scale: &Scale) -> Turn {
    let data = data(DATA_BYTES, false);
    let server = server.start(&data);
    // What the first connection makes is everybody's.
    drop(Clients::subscribed(&server.door, 1));
    let mut clients = Clients::start();
    let (memory_before, slab_before) = (server.memory(), machine::slab());
    let count = scale.idle_connections;
    let kib_each = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1024.0 / count as f64;

    clients.connect(Connect::gently(&server.door, count));
    clients.listen(SETTLING);
    let rss = kib_each(server.memory(), memory_before);
    // Of each connection both ends are on this machine.
    let kernel = kib_each(machine::slab(), slab_before) / 2.0;

    let cpu = server.cpu();
    let (pings, _) = clients.listen(scale.idle_time);
    let cpu = server.cpu() - cpu;

    let messages = scale.burst_messages;
    let load = Flood { messages, window: WINDOW, streams: 1, connections: 4 };
    flood(&server.inlet, &[batch(&server, ARRAY, &data)], load, &mut clients);
    clients.listen(REST);
    vec![
        ("rss_kib", rss),
        ("kernel_kib", kernel),
        ("pings_per_s", pings as f64 / scale.idle_time.as_secs_f64()),
        ("cpu_percent", cpu.as_secs_f64() / scale.idle_time.as_secs_f64() * 100.0),
        ("rss_after_burst_kib", kib_each(server.memory(), memory_before)),
    ]
}
