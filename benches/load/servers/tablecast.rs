//! This server, on SQLite, with its defaults.

use super::Running;
use crate::client::dialect::{Dialect, Door};
use crate::harness::process::{Server, directory};
use crate::publish::{Inlet, Way};

pub fn start(_data: &str) -> Running {
    let directory = directory();
    let url = format!("sqlite://{}", directory.path().join("bench.db").display());
    let server = Server::start(directory.path(), &url, &[]);
    Running {
        door: Door { address: server.public, dialect: Dialect::action_cable() },
        inlet: Inlet::Http(server.internal, Way::Broadcast),
        processes: vec![server.id()],
        // The server goes before its directory.
        _held: Box::new((server, directory)),
    }
}
