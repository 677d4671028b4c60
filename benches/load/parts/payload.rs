//! What a message's size adds.

use super::{Meter, batch, expect_no_more, figure};
use crate::Scale;
use crate::client::Clients;
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::{Flood, flood};
use crate::rounds::{Turn, compare};
use crate::servers::{self, Server};

/// A payload, how much of it a full run publishes, and how many may be under way: less than a
/// slow client may be behind.
const SIZES: [(usize, usize, usize); 3] = [(200, 512, 512), (4 << 10, 512, 64), (64 << 10, 128, 4)];

pub fn run(report: &mut Report, scale: &Scale) {
    for (bytes, messages, window) in SIZES {
        let load = Flood { messages: messages / scale.payload_divisor, window, streams: 1, connections: 4 };
        compare(
            report,
            scale.payload_rounds,
            &servers::present(),
            |server| turn(server, bytes, load, scale),
            |server| figure(server).with("bytes", bytes),
        );
    }
}

fn turn(server: &Server, bytes: usize, load: Flood, scale: &Scale) -> Turn {
    let data = data(bytes, false);
    let server = server.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.payload_subscribers);
    let batches = [batch(&server, 1, &data)];
    flood(&server.inlet, &batches, Flood { messages: load.window, ..load }, &mut clients);

    let meter = Meter::start(&server);
    let elapsed = flood(&server.inlet, &batches, load, &mut clients);
    let deliveries = load.messages * scale.payload_subscribers;
    let mut turn = meter.per_delivery(deliveries);

    expect_no_more(&mut clients);
    turn.push(("deliveries_per_s", deliveries as f64 / elapsed.as_secs_f64()));
    turn
}
