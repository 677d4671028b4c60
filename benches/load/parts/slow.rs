//! Clients that never read, beside others on the same stream: how late the others get theirs.

use super::{batch, expect_no_more};
use crate::Scale;
use crate::client::{Clients, Connect};
use crate::harness::clients::data;
use crate::harness::report::{Figure, Report};
use crate::publish::paced;
use crate::rounds::{Turn, compare};
use crate::servers::TABLECAST;

const STALLED: usize = 24;
/// Large enough that the stalled ones are full soon, and are given up on before the end.
const DATA_BYTES: usize = 4096;
const PER_SECOND: u32 = 100;
/// Of theirs the kernel keeps little.
const RECEIVE_BUFFER: usize = 4096;

pub fn run(report: &mut Report, scale: &Scale) {
    compare(
        report,
        scale.rounds,
        &[0, STALLED],
        |stalled| turn(*stalled, scale),
        |stalled| Figure::new().with("server", TABLECAST.name).with("stalled", *stalled),
    );
}

fn turn(stalled: usize, scale: &Scale) -> Turn {
    let data = data(DATA_BYTES, false);
    let server = TABLECAST.start(&data);
    let mut clients = Clients::subscribed(&server.door, scale.slow_subscribers);
    let mut never_reading = Clients::start();
    if stalled > 0 {
        // It reads only when it is told to.
        let connect =
            Connect { receive_buffer: Some(RECEIVE_BUFFER), ..Connect::gently(&server.door, stalled) };
        never_reading.connect(connect);
    }
    let batches: Vec<_> = (0..scale.slow_messages).map(|_| batch(&server, 1, &data)).collect();
    let paced = paced(&server.inlet, &batches, PER_SECOND, &mut clients);
    expect_no_more(&mut clients);
    let latencies = paced.latencies();
    [("p50_us", 0.5), ("p99_us", 0.99), ("max_us", 1.0)]
        .map(|(name, share)| (name, latencies.at(share)))
        .into()
}
