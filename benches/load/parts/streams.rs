//! Many streams with one subscriber each: a progress bar for each job.

use super::{DATA_BYTES, figure, flooded};
use crate::Scale;
use crate::client::{Clients, Connect, Streams};
use crate::harness::clients::data;
use crate::harness::report::Report;
use crate::publish::{Batch, Flood, Message};
use crate::rounds::{Turn, compare};
use crate::servers::{self, Running, Server};

/// Of so many streams each; a thousand is a multiple of it.
pub const ARRAY: usize = 50;

pub fn run(report: &mut Report, scale: &Scale) {
    let servers = servers::present().into_iter().filter(|server| server.streams);
    let contestants: Vec<(Server, usize)> =
        servers.flat_map(|server| [(server, 1), (server, ARRAY)]).collect();
    compare(
        report,
        scale.streams_rounds,
        &contestants,
        |(server, array)| turn(server, *array, scale),
        |(server, array)| figure(server).with("array", *array),
    );
}

pub fn turn(server: &Server, array: usize, scale: &Scale) -> Turn {
    let server = server.start("");
    let mut clients = Clients::start();
    clients.connect(Connect { streams: Streams::Each, ..Connect::gently(&server.door, scale.streams) });
    let batches = batches(&server, scale.streams, array);
    let connections = if array == 1 { 16 } else { 4 };
    let load = Flood { messages: 1, window: 1, streams: scale.streams, connections };
    flooded(&server, &batches, load, scale.flood_time, &mut clients)
}

/// A message to each stream.
fn batches(server: &Running, streams: usize, array: usize) -> Vec<Batch> {
    let data = data(DATA_BYTES, false);
    let message = |number| Message { stream: Streams::Each.of(number), data: data.clone() };
    let messages: Vec<Message> = (0..streams).map(message).collect();
    messages.chunks(array).map(|messages| server.inlet.batch(messages)).collect()
}
