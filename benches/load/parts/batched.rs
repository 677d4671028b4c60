//! One stream with many subscribers, as fast as they read: message by message, and published in
//! arrays, where a delivery can share its write with others.

use super::{DATA_BYTES, WINDOW, batch, figure, flooded};
use crate::Scale;
use crate::client::Clients;
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::Flood;
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

pub fn turn(server: &Server, array: usize, scale: &Scale) -> Turn {
    let data = data(DATA_BYTES, false);
    let server = server.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.subscribers);
    let connections = if array == 1 { 16 } else { 4 };
    let load = Flood { messages: WINDOW / 2, window: WINDOW, streams: 1, connections };
    flooded(&server, &[batch(&server, array, &data)], load, scale.flood_time, &mut clients)
}
