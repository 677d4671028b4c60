//! Centrifugo with its engine in memory: `CENTRIFUGO` is its program.

use std::process::Command;

use super::{Running, free_address, launch, setting};
use crate::client::dialect::{Dialect, Door};
use crate::harness::process::directory;
use crate::publish::{Inlet, Way};

pub fn start(_data: &str) -> Running {
    let (address, directory) = (free_address(), directory());
    let configuration = serde_json::json!({
        "http_server": { "address": address.ip(), "port": address.port().to_string() },
        "http_api": { "insecure": true },
        "client": { "allow_anonymous_connect_without_token": true, "allowed_origins": ["*"] },
        "channel": { "without_namespace": {
            "allow_subscribe_for_client": true,
            "allow_subscribe_for_anonymous": true,
        }},
        "log": { "level": "error" },
        "usage_stats": { "disabled": true },
    });
    let file = directory.path().join("config.json");
    std::fs::write(&file, configuration.to_string()).expect("target/tmp can be written");
    let mut command = Command::new(setting("CENTRIFUGO"));
    command.arg("--config").arg(file);
    let process = launch(command, address);
    Running {
        door: Door { address, dialect: Dialect::Centrifugo },
        inlet: Inlet::Http(address, Way::Centrifugo),
        processes: vec![process.0.id()],
        _held: Box::new((process, directory)),
    }
}
