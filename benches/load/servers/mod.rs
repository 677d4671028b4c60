//! The servers that are measured, in one form.

mod afternoon;
mod anycable;
mod bare;
mod centrifugo;
mod rails;
mod tablecast;

use std::any::Any;
use std::env;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::dialect::Door;
use crate::harness::clients::PATIENCE;
use crate::harness::process::{self, LAUNCH, Process};
use crate::publish::Inlet;

pub use afternoon::ROLE as AFTERNOON;
pub use afternoon::main as afternoon;
pub use bare::ROLE as BARE;
pub use bare::main as bare;

/// A server that can be started, and stopped by dropping what came of it.
#[derive(Clone, Copy)]
pub struct Server {
    pub name: &'static str,
    /// An environment variable that must say where it is.
    needs: Option<&'static str>,
    /// Sends heartbeats, as Action Cable's servers do.
    pub pings: bool,
    /// Knows streams, and isn't just one of them.
    pub streams: bool,
    start: fn(data: &str) -> Running,
}

pub struct Running {
    pub door: Door,
    pub inlet: Inlet,
    /// Whose CPU and memory are counted.
    processes: Vec<u32>,
    /// What ends with it.
    _held: Box<dyn Any>,
}

/// The bound: no program that tells each socket each message by itself costs less.
pub const BOUND: Server =
    Server { name: "bare", needs: None, pings: false, streams: false, start: bare::start };

/// The bound of what heartbeats cost.
pub const BEATING_BOUND: Server =
    Server { name: "bare", needs: None, pings: true, streams: false, start: bare::start_beating };

pub const TABLECAST: Server =
    Server { name: "tablecast", needs: None, pings: true, streams: true, start: tablecast::start };

/// The environment variables that say where two builds of this server are.
const BEFORE: &str = "BEFORE";
const AFTER: &str = "AFTER";

/// Two builds of this server.
pub const BUILDS: [Server; 2] = [
    Server {
        name: "before",
        needs: Some(BEFORE),
        pings: true,
        streams: true,
        start: tablecast::start_before,
    },
    Server { name: "after", needs: None, pings: true, streams: true, start: tablecast::start_after },
];

const ALL: [Server; 6] = [
    BOUND,
    TABLECAST,
    Server { name: "axum", needs: None, pings: true, streams: false, start: afternoon::start },
    Server {
        name: "anycable",
        needs: Some("ANYCABLE_GO"),
        pings: true,
        streams: true,
        start: anycable::start,
    },
    Server {
        name: "centrifugo",
        needs: Some("CENTRIFUGO"),
        pings: true,
        streams: true,
        start: centrifugo::start,
    },
    Server { name: "rails", needs: Some("RAILS"), pings: true, streams: false, start: rails::start },
];

/// Those that are here.
pub fn present() -> Vec<Server> {
    ALL.into_iter().filter(Server::is_present).collect()
}

/// The others, with what would bring them in.
pub fn absent() -> Vec<(&'static str, &'static str)> {
    ALL.into_iter()
        .filter(|server| !server.is_present())
        .map(|server| (server.name, server.needs.expect("only others' servers can be absent")))
        .collect()
}

impl Server {
    /// For messages with this data.
    pub fn start(&self, data: &str) -> Running {
        (self.start)(data)
    }

    fn is_present(&self) -> bool {
        self.needs.is_none_or(|variable| env::var_os(variable).is_some())
    }
}

impl Running {
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|id| process::cpu(*id)).sum()
    }

    pub fn memory(&self) -> u64 {
        self.processes.iter().map(|id| process::memory(*id)).sum()
    }
}

/// What a user set, for a server that isn't ours.
fn setting(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("{variable} isn't set"))
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound")
}

/// Starts another's server, without settings of this process's, and waits until it listens.
fn launch(command: Command, address: SocketAddr) -> Process {
    let mut launch = Process::this(LAUNCH);
    launch.arg(command.get_program()).args(command.get_args()).env_clear().stdout(Stdio::null());
    let process = Process::spawn(&mut launch);
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "{:?} doesn't listen", command.get_program());
        thread::sleep(Duration::from_millis(20));
    }
    process
}
