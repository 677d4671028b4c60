//! What a message's size adds.

use super::{batch, figure, flooded};
use crate::Scale;
use crate::client::Clients;
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::Flood;
use crate::rounds::{Turn, compare};
use crate::servers::{self, Server};

/// Each with how many may be under way: less than a slow client may be behind.
const SIZES: [(usize, usize); 3] = [(200, 512), (4 << 10, 64), (64 << 10, 4)];

pub fn run(report: &mut Report, scale: &Scale) {
    for (bytes, window) in SIZES {
        compare(
            report,
            scale.payload_rounds,
            &servers::present(),
            |server| turn(server, bytes, window, scale),
            |server| figure(server).with("bytes", bytes),
        );
    }
}

fn turn(server: &Server, bytes: usize, window: usize, scale: &Scale) -> Turn {
    let data = data(bytes, false);
    let server = server.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.payload_subscribers);
    let load = Flood { messages: window, window, streams: 1, connections: 4 };
    flooded(&server, &[batch(&server, 1, &data)], load, scale.flood_time, &mut clients)
}
