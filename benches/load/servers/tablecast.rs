//! This server, on SQLite, with its defaults.

use std::env;
use std::path::{Path, PathBuf};

use super::{AFTER, BEFORE, Running, setting};
use crate::client::dialect::{Dialect, Door};
use crate::harness::process::{Server, TABLECAST, directory};
use crate::publish::{Inlet, Way};

pub fn start(_data: &str) -> Running {
    start_build(Path::new(TABLECAST))
}

pub fn start_before(_data: &str) -> Running {
    start_build(Path::new(&setting(BEFORE)))
}

/// The one that the bench was built with, unless one is named.
pub fn start_after(_data: &str) -> Running {
    start_build(&env::var_os(AFTER).map_or_else(|| TABLECAST.into(), PathBuf::from))
}

fn start_build(program: &Path) -> Running {
    let directory = directory();
    let url = format!("sqlite://{}", directory.path().join("bench.db").display());
    let server = Server::start_build(program, directory.path(), &url, &[]);
    Running {
        door: Door { address: server.public, dialect: Dialect::action_cable() },
        inlet: Inlet::Http(server.internal, Way::Broadcast),
        processes: vec![server.id()],
        // The server goes before its directory.
        _held: Box::new((server, directory)),
    }
}
