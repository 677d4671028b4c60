//! From a process's start to its readiness, on an empty directory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::clients::PATIENCE;
use crate::harness::process::{Process, TABLECAST, directory, isolate, now, serve};
use crate::harness::report::{Figure, Report, Times};
use crate::{Scale, url};

pub fn run(report: &mut Report, scale: &Scale) {
    let times = (0..scale.starts).map(|_| time_to_ready()).collect();
    report.add(Figure::new().with("n", scale.starts).spread(&Times::new(times)));
}

fn time_to_ready() -> i64 {
    let directory = directory();
    let [public, internal] = free_addresses();
    let mut command = Command::new(TABLECAST);
    command.args(serve(&url(directory.path()), &public.to_string(), &internal.to_string()));
    command.stdout(Stdio::null());
    isolate(&mut command, directory.path());

    let start = now();
    let _server = Process::spawn(&mut command);
    while !is_ready(internal) {
        assert!(now() - start < PATIENCE.as_nanos() as i64, "it doesn't get ready");
        thread::yield_now();
    }
    now() - start
}

/// Both are bound at once, or they could be the same.
fn free_addresses() -> [SocketAddr; 2] {
    let bound = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("there are free ports"));
    bound.map(|listener| listener.local_addr().expect("it is bound"))
}

fn is_ready(server: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(server) else { return false };
    socket.set_read_timeout(Some(PATIENCE)).expect("it isn't zero");
    let request = format!("GET /ready HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
    asked.is_ok() && answer.starts_with("HTTP/1.1 200 ")
}
