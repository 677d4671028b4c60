//! The bare broadcaster: one thread, one `write` for each socket and message, nothing else.
//! It knows of WebSocket and Action Cable what lets the same clients in.

use std::io::{BufRead, BufReader, Read, Write, stdin};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tablecast_protocol::{Frame, MessageHead};
use tungstenite::handshake::derive_accept_key;

use super::Running;
use crate::client::dialect::{Dialect, Door};
use crate::harness::clients::{STREAM, head_end, identifier};
use crate::harness::process::{Process, die_with_parent};
use crate::publish::Inlet;

pub const ROLE: &str = "bare";

pub fn start(data: &str) -> Running {
    launch(&[data])
}

/// With heartbeats, in a thread of their own.
pub fn start_beating(data: &str) -> Running {
    launch(&[data, BEATS])
}

const BEATS: &str = "beats";
/// A beat is spread over so many ticks.
const BEAT: Duration = Duration::from_secs(3);
const TICKS: u32 = 30;

fn launch(arguments: &[&str]) -> Running {
    let mut process = Process::spawn(Process::this(ROLE).args(arguments).stdin(Stdio::piped()));
    let control = process.0.stdin.take().expect("it is piped");
    let mut address = String::new();
    process.stdout().read_line(&mut address).expect("it says where it listens");
    Running {
        door: Door {
            address: address.trim().parse().expect("it says no more"),
            dialect: Dialect::action_cable(),
        },
        inlet: Inlet::Pipe(control),
        processes: vec![process.0.id()],
        _held: Box::new(process),
    }
}

static SOCKETS: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());

/// The role: broadcasts the data as often as each line of standard input says.
pub fn main(arguments: &[String]) {
    die_with_parent();
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit may be raised to its maximum");
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    println!("{}", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        listener.incoming().for_each(|socket| welcome(socket.expect("there are descriptors")))
    });
    if arguments.get(1).is_some_and(|argument| argument == BEATS) {
        thread::spawn(beat);
    }

    let frame = Frame::message(&MessageHead::new(&identifier(STREAM)), &arguments[0]);
    for line in stdin().lines() {
        let times: usize = line.expect("it is text").parse().expect("a number");
        let mut sockets = SOCKETS.lock().expect("nobody panics");
        for _ in 0..times {
            for socket in &mut *sockets {
                tell(socket, &frame);
            }
        }
    }
}

fn tell(socket: &mut TcpStream, frame: &Frame) {
    // A client that has left is told in vain.
    let _ = socket.write_all(frame.as_bytes());
}

/// Pings every socket once a beat, for ever.
fn beat() {
    let ping = Frame::ping(1_795_485_801);
    let mut next = Instant::now();
    for tick in (0..TICKS as usize).cycle() {
        for socket in SOCKETS.lock().expect("nobody panics").iter_mut().skip(tick).step_by(TICKS as usize) {
            tell(socket, &ping);
        }
        next += BEAT / TICKS;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Shakes hands and confirms the one subscription that can be meant.
fn welcome(socket: TcpStream) {
    socket.set_nodelay(true).expect("it is TCP");
    let mut reader = BufReader::new(&socket);
    let mut head = Vec::new();
    while head_end(&head).is_none() {
        reader.read_until(b'\n', &mut head).expect("the client asks");
    }
    let head = String::from_utf8(head).expect("it is text");
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("it is there");
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: actioncable-v1-json\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    (&socket)
        .write_all(&[answer.as_bytes(), Frame::welcome().as_bytes()].concat())
        .expect("the client reads");

    // The head of a short masked frame, its mask, and a command that must be what it always is.
    let mut command_head = [0; 2];
    reader.read_exact(&mut command_head).expect("the client subscribes");
    let length = match command_head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length).expect("it is a whole frame");
            u16::from_be_bytes(length)
        }
        length => length.into(),
    };
    reader.read_exact(&mut vec![0; usize::from(length) + 4]).expect("it is a whole frame");
    // Before the confirm: what is published after that must reach this client too.
    let mut confirming = socket.try_clone().expect("there are descriptors");
    SOCKETS.lock().expect("nobody panics").push(socket);
    confirming
        .write_all(Frame::confirm_subscription(&identifier(STREAM)).as_bytes())
        .expect("the client reads");
}
