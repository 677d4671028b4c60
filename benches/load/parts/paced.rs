//! One stream with many subscribers, and a message each 10 ms: what each delivery costs where
//! none can share anything with the one before.

use super::{DATA_BYTES, Meter, batch, expect_no_more, figure};
use crate::Scale;
use crate::client::Clients;
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::paced;
use crate::rounds::{Turn, compare};
use crate::servers::{self, Server};

pub const PER_SECOND: u32 = 100;

pub fn run(report: &mut Report, scale: &Scale) {
    compare(report, scale.rounds, &servers::present(), |server| turn(server, scale), figure);
}

pub fn turn(server: &Server, scale: &Scale) -> Turn {
    let data = data(DATA_BYTES, false);
    let server = server.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.subscribers);
    let batches = |count| (0..count).map(|_| batch(&server, 1, &data)).collect::<Vec<_>>();
    // What grows with the first messages has grown.
    paced(&server.inlet, &batches(PER_SECOND as usize / 5), PER_SECOND, &mut clients);

    let meter = Meter::start(&server);
    let paced = paced(&server.inlet, &batches(scale.paced_messages), PER_SECOND, &mut clients);
    let mut turn = meter.per_delivery(paced.deliveries());

    expect_no_more(&mut clients);
    let latencies = paced.latencies();
    turn.extend([("p50_us", latencies.at(0.5)), ("p99_us", latencies.at(0.99))]);
    turn
}
