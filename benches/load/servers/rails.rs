//! A Rails with Solid Cable that the user runs. `RAILS` is its address and `RAILS_PIDS` are its
//! processes, with commas between; `RAILS_DATABASE_URL` is Solid Cable's database, and
//! `RAILS_IDENTIFIER` that of a channel that streams from `bench`.
//!
//! A tablecast on the same table publishes; only Rails is measured.

use super::{Running, setting};
use crate::client::dialect::{Dialect, Door};
use crate::harness::process::{Server, directory};
use crate::publish::{Inlet, Way};

pub fn start(_data: &str) -> Running {
    let directory = directory();
    let publisher = Server::start(directory.path(), &setting("RAILS_DATABASE_URL"), &[]);
    let pids = setting("RAILS_PIDS");
    Running {
        door: Door {
            address: setting("RAILS").parse().expect("RAILS is an address and a port"),
            dialect: Dialect::ActionCable { identifier: Some(setting("RAILS_IDENTIFIER")) },
        },
        inlet: Inlet::Http(publisher.internal, Way::Broadcast),
        processes: pids.split(',').map(|pid| pid.parse().expect("RAILS_PIDS are numbers")).collect(),
        _held: Box::new((publisher, directory)),
    }
}
