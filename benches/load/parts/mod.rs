//! What is measured.

pub mod batched;
pub mod builds;
pub mod idle;
pub mod paced;
pub mod payload;
pub mod slow;
pub mod storm;
pub mod streams;

use std::time::Duration;

use crate::client::Clients;
use crate::harness::clients::STREAM;
use crate::harness::report::Figure;
use crate::machine;
use crate::publish::{Batch, Flood, Message, flood};
use crate::rounds::Turn;
use crate::servers::{Running, Server};

/// Of a message, unless the part is about that.
const DATA_BYTES: usize = 150;

/// How far a flood is ahead of the slowest client. The afternoon's server loses messages at 1024.
const WINDOW: usize = 512;

fn figure(server: &Server) -> Figure {
    Figure::new().with("server", server.name)
}

/// So many messages to the one stream, to be published at once.
fn batch(server: &Running, messages: usize, data: &str) -> Batch {
    let message = || Message { stream: STREAM.to_owned(), data: data.to_owned() };
    server.inlet.batch(&(0..messages).map(|_| message()).collect::<Vec<_>>())
}

/// What a server and the whole machine spend meanwhile.
struct Meter<'a> {
    server: &'a Running,
    of_server: Duration,
    of_machine: Duration,
}

impl<'a> Meter<'a> {
    fn start(server: &'a Running) -> Self {
        Self { server, of_server: server.cpu(), of_machine: machine::cpu() }
    }

    /// For each delivery, in microseconds.
    fn per_delivery(&self, deliveries: usize) -> Turn {
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6 / deliveries as f64;
        vec![
            ("server_us", microseconds(self.server.cpu() - self.of_server)),
            ("machine_us", microseconds(machine::cpu() - self.of_machine)),
        ]
    }
}

/// Publishes as fast as the clients read, for about so long. `load` is published once before, to
/// see how much that is; and what grows with the first messages has grown then.
fn flooded(server: &Running, batches: &[Batch], load: Flood, time: Duration, clients: &mut Clients) -> Turn {
    let once = flood(&server.inlet, batches, load, clients);
    let times = (time.as_secs_f64() / once.as_secs_f64()).ceil() as usize;
    let load = Flood { messages: load.messages * times, ..load };

    let meter = Meter::start(server);
    let elapsed = flood(&server.inlet, batches, load, clients);
    let deliveries = load.messages * clients.count;
    let mut turn = meter.per_delivery(deliveries);

    expect_no_more(clients);
    turn.push(("deliveries_per_s", deliveries as f64 / elapsed.as_secs_f64()));
    turn
}

/// Ends a turn: nothing may come that wasn't published.
fn expect_no_more(clients: &mut Clients) {
    clients.listen(Duration::from_millis(200));
}
