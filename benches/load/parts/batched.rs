//! One stream with many subscribers, as fast as they read: message by message, and published in
//! arrays, where a delivery can share its write with others.

use super::{DATA_BYTES, Meter, WINDOW, batch, expect_no_more, figure};
use crate::Scale;
use crate::client::Clients;
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::{Flood, flood};
use crate::rounds::{Turn, compare};
use crate::servers::{self, BOUND, Server};

pub const ARRAY: usize = 64;

pub fn run(report: &mut Report, scale: &Scale) {
    // The bound writes each message by itself, whatever it is told at once.
    let mut contestants = vec![(BOUND, 1)];
    let others = || servers::present().into_iter().filter(|server| server.name != BOUND.name);
    contestants.extend(others().flat_map(|server| [(server, 1), (server, ARRAY)]));
    compare(
        report,
        scale.rounds,
        &contestants,
        |(server, array)| turn(server, *array, scale),
        |(server, array)| figure(server).with("array", *array),
    );
}

fn turn(server: &Server, array: usize, scale: &Scale) -> Turn {
    let data = data(DATA_BYTES, false);
    let server = server.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.subscribers);
    let messages = if array == 1 { scale.flood_messages } else { scale.flood_messages * 8 };
    let connections = if array == 1 { 16 } else { 4 };
    let load = Flood { messages, window: WINDOW, streams: 1, connections };
    let batches = [batch(&server, array, &data)];
    flood(&server.inlet, &batches, Flood { messages: ARRAY, ..load }, &mut clients);

    let meter = Meter::start(&server);
    let elapsed = flood(&server.inlet, &batches, load, &mut clients);
    let deliveries = messages * scale.subscribers;
    let mut turn = meter.per_delivery(deliveries);

    expect_no_more(&mut clients);
    turn.push(("deliveries_per_s", deliveries as f64 / elapsed.as_secs_f64()));
    turn
}
