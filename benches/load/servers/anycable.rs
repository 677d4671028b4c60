//! AnyCable's Go server, as far as it does without an application: `ANYCABLE_GO` is its program.

use std::process::Command;

use super::{Running, free_address, launch, setting};
use crate::client::dialect::{Dialect, Door};
use crate::publish::{Inlet, Way};

pub fn start(_data: &str) -> Running {
    let address = free_address();
    let mut command = Command::new(setting("ANYCABLE_GO"));
    command.args([
        format!("--host={}", address.ip()),
        format!("--port={}", address.port()),
        // Everybody may listen and publish, and no Rails is asked.
        "--public".to_owned(),
        "--norpc".to_owned(),
        "--broadcast_adapter=http".to_owned(),
        format!("--http_broadcast_port={}", address.port()),
        "--log_level=error".to_owned(),
    ]);
    let process = launch(command, address);
    Running {
        door: Door { address, dialect: Dialect::action_cable() },
        inlet: Inlet::Http(address, Way::AnyCable),
        processes: vec![process.0.id()],
        _held: Box::new(process),
    }
}
